"""The input of a command that is wrong: the file, the option, the tensor; never attnlang itself."""

from __future__ import annotations


class InputError(Exception):
    """Something that the person typed or passed; the message says which, and what would do."""
