"""Callable variants: arguments, torch ops, and what calls raise."""
