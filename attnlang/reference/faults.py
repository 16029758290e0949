"""What the reference raises where a kernel would quietly go on: also the built-in error."""

from __future__ import annotations


class Fault(Exception):
    """An operation without a value, selected by its guards on an element that is not masked."""


class OutOfRange(Fault, IndexError):
    """A tensor was read outside its extent."""


class DivisionByZero(Fault, ZeroDivisionError):
    """An int was divided by zero."""
