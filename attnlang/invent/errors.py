"""What was asked for cannot be: no call would satisfy the spec."""

from __future__ import annotations


class InputError(Exception):
    """Something that the person typed or passed; the message says which, and what would do."""
