"""From a plan to C++ text: the `Sources` that the build takes."""
