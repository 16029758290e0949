"""How a packed call passes a tensor parameter: which axis holds the rows of all its requests.

Maps a declared shape to `PackedRows`. A tensor with `B` and one of `Q`, `KV` comes without `B` and
with the rows of all requests first. One without `B` is the same for all requests: it is at least as
long as the longest. One with both `Q` and `KV`, or with a size that is made of them, has no place
in a packed call.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnlang.ir.nodes import Size, TensorParam
from attnlang.ir.traverse import walk


@dataclass(frozen=True, slots=True)
class PackedRows:
    """The axes of a declared shape; -1: there is none."""

    size: str  # Q, KV, or nothing
    batch_axis: int
    row_axis: int
    packs: bool  # whether a packed call can pass it

    @property
    def folds(self) -> bool:
        """Whether `B` is dropped and the rows come first."""
        return self.packs and self.batch_axis >= 0 and self.row_axis >= 0


def packed_rows(param: TensorParam) -> PackedRows:
    """Find the axes of a tensor parameter."""
    names = [d.name if isinstance(d, Size) else "" for d in param.dims]
    rows = [i for i, name in enumerate(names) if name in ("Q", "KV")]
    batches = [i for i, name in enumerate(names) if name == "B"]
    made = any(
        isinstance(e, Size) and e.name in ("B", "Q", "KV")
        for d in param.dims
        if not isinstance(d, Size)
        for e in walk(d)
    )
    packs = len(rows) <= 1 and len(batches) <= 1 and not made
    return PackedRows(
        size=names[rows[0]] if rows else "",
        batch_axis=batches[0] if batches else -1,
        row_axis=rows[0] if rows else -1,
        packs=packs,
    )
