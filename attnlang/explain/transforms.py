"""Where the transforms of q, k, v and the output are computed.

Maps a plan to a line for each vector that a kernel does not take as it was passed.
"""

from __future__ import annotations

from attnlang.plan.plan import Plan
from attnlang.plan.transforms import describe


def transforms(planned: Plan) -> tuple[tuple[str, str], ...]:
    """Return the vectors that a kernel transforms, and where it does."""
    pairs = (line.partition(": ") for line in describe(planned.transforms))
    return tuple((name, told) for name, _, told in pairs)
