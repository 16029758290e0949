"""Indices that cannot leave a tensor, so that no clamp is needed to read it.

Maps a tensor read and the tensor's declared dimensions to whether each index is proved to lie in
[0, extent - 1]. Invariant: proved means in every lane of a kernel, in 64-bit arithmetic, whatever
the values of a call are: rows and columns lie within the request's lengths, which are at most those
of the tensors. A `require` proves nothing here, for that of a 0-d tensor or of a call of the raw op
is not checked.
"""

from __future__ import annotations

from attnlang.ir.nodes import BinaryOp, Expr, Load, TensorParam, Variant
from attnlang.symbolic.bounds import bounds
from attnlang.symbolic.build import binary, const
from attnlang.symbolic.signs import Signs
from attnlang.symbolic.simplify import Simplifier


def proved_indices(load: Load, variant: Variant) -> tuple[bool, ...]:
    """Return, for each index of a read, whether it lies within its extent."""
    param = next(p for p in variant.params if isinstance(p, TensorParam) and p.name == load.tensor)
    pairs = zip(load.indices, param.dims, strict=True)
    return tuple(_is_inside(index, extent, variant) for index, extent in pairs)


def _is_inside(index: Expr, extent: Expr, variant: Variant) -> bool:
    """Whether an index lies within an extent of at least 1: an empty tensor reads as 0."""
    if index.type.vector:
        return False
    run, span = Simplifier(), index.span
    last = run.simplify(binary(BinaryOp.SUB, extent, const(1, span), span))
    signs = Signs((extent,), (last,))
    found = bounds(index, variant, signs, fixed_lengths=False)
    if found.low is None or found.high is None:
        return False
    room = run.simplify(binary(BinaryOp.SUB, last, found.high, span))
    return signs.is_not_negative(found.low) and signs.is_not_negative(room)
