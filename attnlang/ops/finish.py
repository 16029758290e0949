"""What comes once, after the states of all parts are merged: the sink and the out expression.

Maps accumulated values [sum Q, HQ, DV] to a call's result. Both expressions are evaluated as the
reference evaluates them, with every row on its own: a row knows its request, so ragged rows need no
padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import (
    INT,
    Binary,
    BinaryOp,
    Call,
    Coord,
    CoordName,
    Expr,
    Function,
    Load,
    RowSum,
    ScalarParam,
    Size,
    TensorParam,
    Variant,
    Vector,
    VectorName,
)
from attnlang.ir.traverse import rewrite, walk
from attnlang.ops.packed_arguments import passed_axes
from attnlang.plan.packing import packed_rows
from attnlang.reference.domain import Axis, Domain
from attnlang.reference.evaluate import new_scope
from attnlang.reference.inputs import Inputs, bind_params, default_scale
from attnlang.reference.scope import Provided
from attnlang.symbolic.build import const

_ROW_START, _ROWS = "row start", "rows"  # no parameter has a blank in its name


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Which request each row of a packed tensor belongs to, and the requests' sizes."""

    request: Tensor  # int64 [sum Q]
    row: Tensor  # int64 [sum Q], its row in the request
    start: Tensor  # int64 [B], the first row of each request
    lens: Tensor  # int64 [B]
    q_offset: Tensor  # int64 [B]
    kv_offset: Tensor
    kv_lens: Tensor

    def first(self, count: int) -> Rows:
        """Return the first rows: with maxima there may be more."""
        return replace(self, request=self.request[:count], row=self.row[:count])


def finishes(variant: Variant) -> bool:
    """Whether there is anything to do."""
    plain = isinstance(variant.out, Vector) and variant.out.name == VectorName.ACC
    return not plain or variant.weights.sink is not None


def reads_row_sum(variant: Variant) -> bool:
    """Whether the out expression reads the sum of the weights."""
    return any(isinstance(e, RowSum) for e in walk(variant.out))


def packed_reads(variant: Variant) -> Variant:
    """Return the variant whose sink and out read packed tensors, and each request's own Q."""
    folded = {p.name: packed_rows(p) for p in variant.params if isinstance(p, TensorParam)}
    span = variant.span
    rows = Load(_ROWS, (Coord(CoordName.B, span=span),), INT, span=span)

    def fix(expr: Expr) -> Expr:
        match expr:
            case Size(name="Q"):
                return rows
            case Load(tensor=name) if folded[name].folds:
                index = dict(enumerate(expr.indices))
                row = index.pop(folded[name].row_axis)
                request = index.pop(folded[name].batch_axis)
                last = Binary(BinaryOp.SUB, rows, const(1, span), INT, span=span)
                row = Call(Function.CLAMP, (row, const(0, span), last), INT, span=span)
                first = Load(_ROW_START, (request,), INT, span=span)
                place = Binary(BinaryOp.ADD, first, row, INT, span=span)
                return replace(expr, indices=(place, *index.values()))
        return expr

    sink = variant.weights.sink
    weights = replace(variant.weights, sink=None if sink is None else rewrite(sink, fix))
    return replace(variant, weights=weights, out=rewrite(variant.out, fix))


def finish(
    variant: Variant,
    rows: Rows,
    q: Tensor,
    acc: Tensor,
    row_sum: Tensor | None,
    lse: Tensor | None,
    values: Mapping[str, ParamValue],
    scale: float | Tensor | None,
    kv_heads: int,
) -> Tensor:
    """Return out [sum Q, HQ, *] in q's dtype; `variant` comes from `packed_reads`."""
    count, heads, width = q.shape
    dtype = acc.dtype
    declared = tuple(p for p in variant.params if isinstance(p, ScalarParam))
    numbers = {p.name: values[p.name] for p in declared}
    scalars, _ = bind_params(replace(variant, params=declared), numbers, q.device)
    tensors = {n: x for n, x in values.items() if isinstance(x, Tensor) and n not in scalars}
    tensors |= {_ROW_START: rows.start, _ROWS: rows.lens}
    sizes = {"B": rows.lens.shape[0], "HQ": heads, "HKV": kv_heads, "D": width}
    inputs = Inputs(
        variant=variant,
        q=q,
        k=q,
        v=None,
        scale=default_scale(scale, width, dtype, q),
        q_offset=rows.q_offset,
        kv_offset=rows.kv_offset,
        kv_lens=rows.kv_lens,
        scalars=scalars,
        tensors=tensors,
        sizes=sizes | {"DV": acc.shape[2]},
        widths={VectorName.Q: width, VectorName.ACC: acc.shape[2]},
        seed=0,
        first=0,
        alone={},
        dtype=dtype,
        rounded=None,
    )
    _bind(variant, inputs)
    head = torch.arange(heads, device=q.device).reshape(1, heads, 1, 1)
    domain = Domain(
        (count, heads, 1, 1),
        {
            Axis.B: rows.request.reshape(count, 1, 1, 1),
            Axis.H: head,
            Axis.H_KV: head // max(heads // max(kv_heads, 1), 1),
            Axis.Q: torch.arange(count, device=q.device).reshape(count, 1, 1, 1),
        },
    )
    entry = (count, heads, 1, 1)
    if variant.weights.sink is not None and lse is not None:
        scope = new_scope(inputs, Provided(domain, rows.row, {}), domain, width=width, strict=False)
        sink = scope.evaluate(variant.weights.sink).expand(entry).reshape(count, heads, 1)
        share = torch.sigmoid(lse.masked_fill(lse.isneginf(), 0.0).unsqueeze(2) - sink)
        acc = acc * share
        row_sum = None if row_sum is None else row_sum * share
    vectors = {
        VectorName.Q: q.to(dtype).reshape(*entry, width),
        VectorName.ACC: acc.reshape(*entry, acc.shape[2]),
    }
    provided = Provided(
        domain, rows.row, vectors,
        row_sum=None if row_sum is None else row_sum.reshape(entry),
        lse=None if lse is None else lse.to(dtype).reshape(entry),
    )  # fmt: skip
    scope = new_scope(inputs, provided, domain, width=acc.shape[2], strict=False)
    out = scope.evaluate(variant.out)
    return out.expand(*entry, out.shape[-1]).reshape(count, heads, out.shape[-1]).to(q.dtype)


def _bind(variant: Variant, inputs: Inputs) -> None:
    """Solve the sizes that tensors bind, of those that are packed too."""
    for bound in variant.sizes:
        tensor = inputs.tensors.get(bound.tensor)
        if tensor is None:
            continue
        param = next(p for p in variant.params if p.name == bound.tensor)
        assert isinstance(param, TensorParam)
        axis = passed_axes(param, packed_rows(param)).index(bound.axis)
        scope = new_scope(
            inputs, Provided(Domain((), {}), inputs.q_offset, {}), Domain((), {}), width=0
        )
        offset = scope.size(bound.offset)
        inputs.sizes.setdefault(bound.name, (tensor.shape[axis] - offset) // bound.factor)
