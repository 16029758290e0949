"""Evaluates IR expressions: one case for each node of the IR, operands first.

`new_scope` opens the outermost guard context of a stage; `Scope.evaluate` walks the expression,
each shared node once, and calls back here for each value.
"""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from attnlang.ir.nodes import (
    QK,
    Anchor,
    Binary,
    BinaryOp,
    Call,
    CallScale,
    Cast,
    Compare,
    Const,
    Coord,
    Dot,
    Expr,
    Given,
    Kind,
    L2Norm,
    Load,
    Logic,
    Lse,
    Raw,
    RmsNorm,
    Rope,
    RowSum,
    Scalar,
    Select,
    Size,
    Slice,
    Unary,
    Vector,
)
from attnlang.reference import functions, guards, reads, vectors
from attnlang.reference.domain import Axis, Domain
from attnlang.reference.faults import DivisionByZero
from attnlang.reference.inputs import Inputs
from attnlang.reference.scope import Provided, Scope


def new_scope(
    inputs: Inputs, provided: Provided, domain: Domain, *, width: int, strict: bool = True
) -> Scope:
    """Return the scope of a stage, without any guard; vectors have `width` entries."""
    return Scope(_value, inputs, provided, domain, strict=strict, width=width)


def _value(expr: Expr, scope: Scope) -> Tensor:
    """Return the value of an expression whose operands are known."""
    inputs, provided, vector = scope.inputs, scope.provided, expr.type.vector
    match expr:
        case Const():
            return inputs.constant(expr.value, expr.type.kind)
        case Coord():
            return reads.coordinate(expr.name, scope)
        case Anchor():
            raise AssertionError("an anchor stands in what a kernel evaluates, not in a variant")
        case Size():
            return reads.size(expr.name, scope)
        case Scalar():
            return inputs.scalar(expr.name, expr.type.kind)
        case Given():
            return inputs.constant(inputs.tensors.get(expr.name) is not None, Kind.BOOL)
        case CallScale():
            return inputs.scale
        case Raw():
            return scope.memo[id(inputs.variant.scale)] * reads.dot_qk(scope)
        case QK():
            return reads.dot_qk(scope)
        case RowSum():
            return scope.domain.take(reads.provided(provided.row_sum, "row_sum"))
        case Lse():
            return scope.domain.take(reads.provided(provided.lse, "lse"))
        case Load():
            return reads.load(expr, scope)
        case Unary():
            return functions.unary(expr.op, scope.operand(expr.operand, vector=vector))
        case Binary():
            return _binary(expr, scope)
        case Compare():
            left = scope.operand(expr.left, vector=vector)
            return functions.compare(expr.op, left, scope.operand(expr.right, vector=vector))
        case Logic():
            return guards.logic(expr, scope)
        case Select():
            return guards.select(expr, scope)
        case Cast():
            return inputs.cast(scope.operand(expr.operand, vector=vector), expr.type.kind)
        case Call():
            args = tuple(scope.operand(a, vector=vector) for a in expr.args)
            return functions.call(expr.function, args)
        case Vector():
            return reads.vector(expr.name, scope)
        case Slice():
            return _slice(expr, scope)
        case RmsNorm() | L2Norm() | Rope():
            return _whole_vector(expr, scope)
        case Dot():
            return _dot(expr, scope)
        case _:
            assert_never(expr)


def _binary(expr: Binary, scope: Scope) -> Tensor:
    vector = expr.type.vector
    left, right = (scope.operand(e, vector=vector) for e in (expr.left, expr.right))
    if expr.op in (BinaryOp.FLOORDIV, BinaryOp.MOD) and scope.fails(right == 0, vector=vector):
        raise DivisionByZero(f"`{expr.op}` by zero at an element that is not masked")
    return functions.binary(expr.op, left, right)


def _slice(expr: Slice, scope: Scope) -> Tensor:
    width = vectors.width(expr.operand, scope.inputs.widths, scope.size) or scope.width
    start, stop = scope.size(expr.start), scope.size(expr.stop)
    if not 0 <= start <= stop <= width:
        raise ValueError(f"the slice [{start}:{stop}] is not within a vector of {width} entries")
    return _entries(scope.whole(width).evaluate(expr.operand), width)[..., start:stop]


def _entries(value: Tensor, width: int) -> Tensor:
    return value.expand(*value.shape[:-1], width)


def _whole_vector(expr: RmsNorm | L2Norm | Rope, scope: Scope) -> Tensor:
    """Norms and rotations need every entry: guards on single ones do not apply inside."""
    if scope.lanes is not None:
        return scope.whole(scope.width).evaluate(expr)
    x = _entries(scope.operand(expr.operand, vector=True), scope.width)
    match expr:
        case RmsNorm():
            weight = None if expr.weight is None else scope.operand(expr.weight, vector=True)
            return vectors.rms_norm(x, weight, scope.operand(expr.eps, vector=True))
        case L2Norm():
            return vectors.l2_norm(x, scope.operand(expr.eps, vector=True))
        case Rope():
            return _rope(expr, x, scope)


def _rope(expr: Rope, x: Tensor, scope: Scope) -> Tensor:
    inputs, start = scope.inputs, scope.size(expr.start)
    dims = scope.width if expr.dims is None else scope.size(expr.dims)
    vectors.check_rope(start, dims, scope.width)
    freqs = None if expr.freqs is None else inputs.tensors.get(expr.freqs)
    if freqs is None:
        base = inputs.cast(scope.operand(expr.base, vector=True), Kind.FLOAT)
        frequencies = vectors.frequencies(base, dims)
    else:
        frequencies = inputs.cast(vectors.given_frequencies(freqs, dims), Kind.FLOAT)
    position = inputs.cast(scope.operand(expr.position, vector=True), Kind.FLOAT)
    return vectors.rope(x, position * frequencies, start, dims, interleaved=expr.interleaved)


def _dot(expr: Dot, scope: Scope) -> Tensor:
    """Return the product of two vectors, computed once for each row or column that is selected."""
    inputs, domain = scope.inputs, scope.domain
    widths = (vectors.width(e, inputs.widths, scope.size) for e in (expr.left, expr.right))
    width = next((w for w in widths if w is not None), inputs.sizes["D"])
    if Axis.Q not in domain.coords or Axis.KV not in domain.coords:
        return _inner_product(expr, scope.whole(width))
    side = vectors.side(expr, scope.provided.box)
    marked = torch.zeros(side.shape, dtype=torch.bool, device=inputs.device)
    if not domain.empty:
        axes = (Axis.B, Axis.H, Axis.Q, Axis.KV)
        marked[tuple(domain.coords[a] if a in side.coords else 0 for a in axes)] = True
    whole = scope.over(side, width)
    inner = whole.where(marked)
    value = _inner_product(expr, inner)
    return domain.take(value if inner is whole else inner.domain.spread(value, 0.0))


def _inner_product(expr: Dot, scope: Scope) -> Tensor:
    product = scope.evaluate(expr.left) * scope.evaluate(expr.right)
    return _entries(product, scope.width).sum(-1)
