"""Numbers in the keys of what is remembered.

Maps a value of a call to one that only values of the same meaning equal: 0.0 and -0.0 are equal in
Python, and a spec can tell them apart.
"""

from __future__ import annotations

import math


def key_of(value: object) -> object:
    """Return a value as a key has it."""
    if isinstance(value, float) and value == 0.0 and math.copysign(1.0, value) < 0:
        return "-0.0"
    return value
