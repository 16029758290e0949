"""Attention of one chunk of query rows: transforms, mask, scores, weights, out.

The mask comes first and without gradient. Everything else is then evaluated only where it counts:
q' in rows that see a column, k' and v' in columns that some row sees (elsewhere they are 0,
whatever k, v or a tensor hold), scores and weights at the elements that are visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnlang.ir.nodes import QK, Dot, Expr, Logic, LogicOp, Raw, VectorName
from attnlang.ir.traverse import walk
from attnlang.reference.domain import Axis, Domain, box, columns_of, keys_of, rows_of
from attnlang.reference.evaluate import new_scope
from attnlang.reference.faults import Fault
from attnlang.reference.inputs import Inputs
from attnlang.reference.philox import kept
from attnlang.reference.rounding import round_gradient, round_value, round_vector
from attnlang.reference.scope import Provided, Scope
from attnlang.reference.softmax import normalise
from attnlang.reference.vectors import side

_INF = float("inf")


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """The result for a chunk of rows, in the compute dtype."""

    out: Tensor  # [B, HQ, R, DV']
    lse: Tensor | None  # [B, HQ, R]; None without softmax
    largest: Tensor | None  # [B, HQ], the largest score; None where not asked for


@dataclass(frozen=True, slots=True, eq=False)
class _Weighted:
    """The weights before normalisation, and what the out expression may read."""

    weights: Tensor  # [B, HQ, R, KV]
    inverse: Tensor | None  # [B, HQ, R, 1], what the sums over them are multiplied by; None: 1
    lse: Tensor | None  # [B, HQ, R, 1]
    scores: Tensor | None  # softmax's argument, -inf where hidden


def attend(
    inputs: Inputs, rows: Tensor, selected: Tensor | None, *, want_largest: bool
) -> Attended:
    """Compute the query rows `rows`; `selected` (bool [B, HQ, R, KV]) restricts their columns."""
    sizes = inputs.sizes
    group = sizes["HQ"] // sizes["HKV"]
    elements = box(
        sizes["B"], sizes["HQ"], len(rows), sizes["KV"], group=group, device=inputs.device
    )
    vectors = {
        VectorName.Q: inputs.q[:, :, rows].unsqueeze(3),
        VectorName.K: inputs.k.unsqueeze(2),
    }
    if inputs.v is not None:
        vectors[VectorName.V] = inputs.v.unsqueeze(2)
    chunk = Provided(elements, rows, vectors)
    mask = _mask(inputs, chunk, selected)
    q, k, v = _transformed(inputs, chunk, mask)
    qk = None
    weights = inputs.variant.weights
    if _reads_raw(weights.softmax, weights.factor, inputs.variant.score):
        qk = round_gradient(_heads_matmul(q, k.transpose(-1, -2)), inputs.rounded)
    chunk = Provided(elements, rows, vectors, qk=qk)
    weighted = _weights(inputs, chunk, mask)
    largest = _largest(inputs, chunk, mask, weighted) if want_largest else None
    out, lse = _out(inputs, chunk, weighted, v)
    return Attended(out, lse, largest)


def _reads_raw(*roots: Expr | None) -> bool:
    return any(isinstance(e, Raw | QK) for e in walk(*(r for r in roots if r is not None)))


def _heads_matmul(x: Tensor, y: Tensor) -> Tensor:
    """Multiply [B, HQ, R, X] by [B, H, X, Y], where each of the H heads serves a group of x's."""
    b, hq, r, width = x.shape
    grouped = x.reshape(b, y.shape[1], hq // y.shape[1] * r, width) if hq else x
    return (grouped @ y).reshape(b, hq, r, y.shape[-1])


@torch.no_grad()
def _mask(inputs: Inputs, chunk: Provided, selected: Tensor | None) -> Tensor:
    """Return which elements are visible, [B or 1, HQ or 1, R, KV]."""
    sizes, elements = inputs.sizes, chunk.box
    exists = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=inputs.device)
    if inputs.kv_lens is not None:
        lens = inputs.kv_lens.reshape(-1, 1, 1, 1)
        exists = exists & (elements.coords[Axis.KV] < lens)
    if selected is not None:
        exists = exists & selected
    if _reads_raw(inputs.variant.mask):
        q, k = _all_transformed(inputs, chunk)
        qk = _heads_matmul(q, k.transpose(-1, -2))
        chunk = Provided(elements, chunk.rows, chunk.vectors, qk=qk)
    scope = new_scope(inputs, chunk, elements, width=sizes["D"])
    mask = exists & scope.masked(inputs.variant.mask, exists, False)
    return mask.expand(-1, -1, elements.shape[2], elements.shape[3])


def all_values(inputs: Inputs) -> Tensor:
    """Return v' of all columns, [B, HKV, KV, *]."""
    sizes = inputs.sizes
    whole = _whole(inputs)
    domain = keys_of(whole.box, sizes["HKV"])
    scope = new_scope(inputs, whole, domain, strict=False, width=inputs.widths[VectorName.ACC])
    return _full(scope.evaluate(inputs.variant.v), domain).squeeze(2)


def all_queries_and_keys(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return q' of all rows and k' of all columns."""
    return _all_transformed(inputs, _whole(inputs))


def hide_columns(inputs: Inputs, mask: Expr | None, selected: Tensor | None = None) -> Inputs:
    """Return the inputs with zeros in the columns that do not exist or that `mask` hides from all.

    The mask reads no row; `selected`, [B, HKV, KV], is false where no row selects a column. What
    such a column holds then has no effect on any gradient.
    """
    if mask is None and inputs.kv_lens is None and selected is None:
        return inputs
    seen = _seen(inputs, mask)
    if selected is not None:
        seen = seen & selected.unsqueeze(2)

    def hide(x: Tensor) -> Tensor:
        return torch.where(seen.squeeze(2).unsqueeze(-1), x, torch.zeros_like(x))

    return replace(inputs, k=hide(inputs.k), v=None if inputs.v is None else hide(inputs.v))


@torch.no_grad()
def _seen(inputs: Inputs, mask: Expr | None) -> Tensor:
    """Return which columns some head of each key head's group may see, [B, HKV, 1, KV]."""
    sizes = inputs.sizes
    domain = columns_of(_whole(inputs).box)
    seen = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=inputs.device)
    if inputs.kv_lens is not None:
        seen = domain.coords[Axis.KV] < inputs.kv_lens.reshape(-1, 1, 1, 1)
    if mask is not None:
        scope = new_scope(inputs, _whole(inputs), domain, strict=False, width=sizes["D"])
        for part in _conjuncts(mask):  # apart: a guard asks for values, which a traced graph lacks
            seen = seen & scope.evaluate(part)
    seen = seen.expand(domain.shape)
    heads = (sizes["HKV"], sizes["HQ"] // sizes["HKV"])
    return seen.reshape(len(inputs.q), *heads, 1, sizes["KV"]).any(2)


def _conjuncts(mask: Expr) -> Iterator[Expr]:
    match mask:
        case Logic(LogicOp.AND, left, right):
            yield from _conjuncts(left)
            yield from _conjuncts(right)
        case _:
            yield mask


def inner_products(inputs: Inputs, dot: Dot) -> Tensor:
    """Return the product of two vectors of all rows, or of all columns, [B, HQ, length]."""
    whole = _whole(inputs)
    domain = side(dot, whole.box)
    scope = new_scope(inputs, whole, domain, strict=False, width=inputs.sizes["D"])
    value = scope.evaluate(dot).expand(domain.shape)
    return value.squeeze(3 if Axis.Q in domain.coords else 2)


def outputs(inputs: Inputs, acc: Tensor, row_sum: Tensor | None, lse: Tensor | None) -> Tensor:
    """Return out [B, HQ, Q, *] of what was accumulated for all rows; `lse` is [B, HQ, Q, 1]."""
    whole = _whole(inputs)
    vectors = whole.vectors | {VectorName.ACC: acc.unsqueeze(3)}
    provided = Provided(whole.box, whole.rows, vectors, row_sum=row_sum, lse=lse)
    domain = rows_of(whole.box)
    scope = new_scope(inputs, provided, domain, width=inputs.widths[VectorName.ACC])
    return _full(scope.evaluate(inputs.variant.out), domain).squeeze(3)


def _whole(inputs: Inputs) -> Provided:
    """Return the chunk of all rows."""
    sizes = inputs.sizes
    rows = torch.arange(sizes["Q"], device=inputs.device)
    elements = box(
        len(inputs.q), sizes["HQ"], sizes["Q"], sizes["KV"],
        group=sizes["HQ"] // sizes["HKV"], device=inputs.device, first=inputs.first,
    )  # fmt: skip
    vectors = {VectorName.Q: inputs.q.unsqueeze(3), VectorName.K: inputs.k.unsqueeze(2)}
    if inputs.v is not None:
        vectors[VectorName.V] = inputs.v.unsqueeze(2)
    return Provided(elements, rows, vectors)


def _all_transformed(inputs: Inputs, chunk: Provided) -> tuple[Tensor, Tensor]:
    """Return q' and k' of all rows and columns, as a mask that reads the score needs them.

    What they hold where nothing is visible is not known to be valid, and not selected.
    """
    d, heads = inputs.sizes["D"], inputs.sizes["HKV"]
    domains = (rows_of(chunk.box), keys_of(chunk.box, heads))
    values = (
        _full(new_scope(inputs, chunk, domain, strict=False, width=d).evaluate(expr), domain)
        for domain, expr in zip(domains, (inputs.variant.q, inputs.variant.k), strict=True)
    )
    q, k = (round_value(v, inputs.rounded) for v in values)
    return q.squeeze(3), k.squeeze(2)


def _full(value: Tensor, domain: Domain) -> Tensor:
    return value.expand(*domain.shape, value.shape[-1])


def _transformed(inputs: Inputs, chunk: Provided, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return q' [B, HQ, R, D'], and k', v' [B, HKV, KV, *], or HQ heads where a group differs."""
    variant, sizes, elements = inputs.variant, inputs.sizes, chunk.box
    row_scope = new_scope(inputs, chunk, rows_of(elements), width=sizes["D"])
    seeing = mask.any(3, keepdim=True)
    q = _full(row_scope.masked(variant.q, seeing, 0.0), row_scope.domain).squeeze(3)

    seen = mask.any(2, keepdim=True)
    heads = sizes["HKV"]
    grouped = (heads, sizes["HQ"] // heads) if seen.shape[1] == sizes["HQ"] else (1, 1)
    by_group = seen.reshape(seen.shape[0], *grouped, 1, seen.shape[3])
    seen_by_some = by_group.any(2)
    alike = torch.equal(seen_by_some, by_group.all(2))

    def keys(expr: Expr, width: int) -> Tensor:
        scope = new_scope(inputs, chunk, keys_of(elements, heads), width=width)
        value = _full(scope.masked(expr, seen_by_some, 0.0), scope.domain).squeeze(2)
        value = round_vector(value, inputs.rounded)
        if alike:
            return value
        value = value.repeat_interleave(sizes["HQ"] // heads, dim=1)
        return torch.where(seen.squeeze(2).unsqueeze(-1), value, torch.zeros_like(value))

    k = keys(variant.k, sizes["D"])
    v = keys(variant.v, inputs.widths[VectorName.ACC])
    return round_vector(q, inputs.rounded), k, v


def _visible(inputs: Inputs, scope: Scope, expr: Expr, mask: Tensor, fill: float) -> Tensor:
    """Return `expr` at the visible elements, `fill` at the others, [B, HQ, R, KV]."""
    value = None
    if not inputs.differentiable:
        try:  # without gradients, where nothing fails at hidden elements, they do no harm
            value = torch.where(mask, scope.evaluate(expr), fill)
        except Fault:
            value = None
    if value is None:
        value = scope.masked(expr, mask, fill)
    return value.expand(scope.domain.shape)


def _weights(inputs: Inputs, chunk: Provided, mask: Tensor) -> _Weighted:
    spec = inputs.variant.weights
    scope = new_scope(inputs, chunk, chunk.box, width=inputs.sizes["D"])
    inverse, lse, scores = None, None, None
    if spec.softmax is not None:
        scores = _visible(inputs, scope, spec.softmax, mask, -_INF)
        masked_out = (scores == -_INF) & mask
        if bool(masked_out.any()):  # a score of -inf is a masked element: it has no gradient
            mask = mask & ~masked_out
            if inputs.differentiable:
                scope = new_scope(inputs, chunk, chunk.box, width=inputs.sizes["D"])
                scores = _visible(inputs, scope, spec.softmax, mask, -_INF)
        sink = None
        if spec.sink is not None:
            rows = new_scope(inputs, chunk, rows_of(chunk.box), width=inputs.sizes["D"])
            sink = rows.masked(spec.sink, mask.any(3, keepdim=True), -_INF)
        weights, inverse, lse = normalise(scores, sink)
    else:
        weights = mask.to(inputs.dtype)
    if spec.factor is not None:
        weights = weights * _visible(inputs, scope, spec.factor, mask, 0.0)
    if spec.dropout is not None:
        weights = weights * _dropout(inputs, scope, spec.dropout, mask)
    return _Weighted(weights, inverse, lse, scores)


def _dropout(inputs: Inputs, scope: Scope, expr: Expr, mask: Tensor) -> Tensor:
    """Return 0 with probability p, else 1 / (1 - p)."""
    p = _visible(inputs, scope, expr, mask, 0.0)
    coords = scope.domain.coords
    b, h = coords[Axis.B], coords[Axis.H]
    q_idx = scope.provided.rows[coords[Axis.Q]] + inputs.q_offset[b]
    kv_idx = coords[Axis.KV] + inputs.kv_offset[b]
    keep = kept(p, inputs.seed, b, h, q_idx, kv_idx)
    ones = torch.ones_like(p)
    return torch.where(keep, ones / torch.where(keep, 1 - p, ones), torch.zeros_like(p))


def _largest(inputs: Inputs, chunk: Provided, mask: Tensor, weighted: _Weighted) -> Tensor:
    """Return the largest score of each (b, h), -inf where nothing is visible."""
    scores = weighted.scores
    if scores is None:
        scope = new_scope(inputs, chunk, chunk.box, width=inputs.sizes["D"])
        scores = _visible(inputs, scope, inputs.variant.score, mask, -_INF)
    scores = scores.detach().flatten(2)
    least = scores.new_full((*scores.shape[:2], 1), -_INF)
    return torch.cat([scores, least], dim=2).amax(2)


def _out(
    inputs: Inputs, chunk: Provided, weighted: _Weighted, v: Tensor
) -> tuple[Tensor, Tensor | None]:
    acc = _heads_matmul(round_value(weighted.weights, inputs.rounded), v)
    row_sum = weighted.weights.sum(3, keepdim=True)
    if weighted.inverse is not None:
        acc, row_sum = acc * weighted.inverse, row_sum * weighted.inverse
    vectors = chunk.vectors | {VectorName.ACC: acc.unsqueeze(3)}
    provided = Provided(chunk.box, chunk.rows, vectors, row_sum=row_sum, lse=weighted.lse)
    domain = rows_of(chunk.box)
    scope = new_scope(inputs, provided, domain, width=inputs.widths[VectorName.ACC])
    out = _full(scope.evaluate(inputs.variant.out), domain).squeeze(3)
    return out, None if weighted.lse is None else weighted.lse.squeeze(3)
