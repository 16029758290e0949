"""Passes: from a checked variant to what a kernel evaluates; `lower.PASSES` is their order."""
