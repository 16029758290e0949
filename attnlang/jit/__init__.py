"""Building: from `Sources` to a loaded shared object. Knows nothing of specs."""
