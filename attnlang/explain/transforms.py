"""Where the transforms of q, k, v and the output are computed.

Maps a variant to a line for each of the four that has one.
"""

from __future__ import annotations

from attnlang.ir.nodes import Variant, Vector, VectorName
from attnlang.ir.traverse import walk

_PLACES = {
    VectorName.Q: "once for each query, as its tile is loaded",
    VectorName.K: "once for each key: before the keys are visited where queries share them, "
    "as they are loaded in a decode step",
    VectorName.V: "once for each key, as the keys",
}


def transforms(variant: Variant) -> tuple[tuple[str, str], ...]:
    """Return the vectors that a variant transforms, and where that is done."""
    found = []
    for name, place in _PLACES.items():
        expr = getattr(variant, name.value)
        if isinstance(expr, Vector) and expr.name is name:
            continue
        made = any(isinstance(e, Vector) and e.name is VectorName.K for e in walk(expr))
        told = (
            f"{place}; made of k, which is loaded once" if made and name is VectorName.V else place
        )
        found.append((name.value, told))
    if not (isinstance(variant.out, Vector) and variant.out.name is VectorName.ACC):
        found.append(("out", "once for each query, after the last key"))
    return tuple(found)
