"""Variants made by hand of nothing but parameters."""

from attnlang.ir.nodes import (
    BOOL,
    INT,
    BoundSize,
    CallScale,
    Const,
    Expr,
    Kind,
    Param,
    Raw,
    ScalarParam,
    Size,
    TensorParam,
    Variant,
    Vector,
    VectorName,
    Weights,
)
from attnlang.sources import Source, Span

SPAN = Span(Source("<toy>", ""), 0, 0)


def const(value: int) -> Const:
    return Const(value, INT, span=SPAN)


def size(name: str) -> Size:
    return Size(name, span=SPAN)


def real(name: str, default: float | None = None, *, kind: Kind = Kind.FLOAT) -> ScalarParam:
    return ScalarParam(name, kind, False, default, span=SPAN)


def integer(name: str, default: int | None = None, *, const: bool = False) -> ScalarParam:
    return ScalarParam(name, Kind.INT, const, default, span=SPAN)


def tensor(name: str, *dims: Expr) -> TensorParam:
    return TensorParam(name, Kind.FLOAT, dims or (size("HQ"),), False, span=SPAN)


def optional(name: str, *dims: Expr) -> TensorParam:
    return TensorParam(name, Kind.FLOAT, dims or (size("HQ"),), True, span=SPAN)


def bound(name: str, of: str, axis: int, factor: int, offset: Expr) -> BoundSize:
    return BoundSize(name, of, axis, factor, offset, span=SPAN)


def variant(*params: Param, sizes: tuple[BoundSize, ...] = ()) -> Variant:
    return Variant(
        name="toy",
        doc=None,
        params=params,
        sizes=sizes,
        requires=(),
        scale=CallScale(span=SPAN),
        q=Vector(VectorName.Q, span=SPAN),
        k=Vector(VectorName.K, span=SPAN),
        v=Vector(VectorName.V, span=SPAN),
        score=Raw(span=SPAN),
        mask=Const(True, BOOL, span=SPAN),
        weights=Weights(Raw(span=SPAN), None, None, None, span=SPAN),
        out=Vector(VectorName.ACC, span=SPAN),
        span=SPAN,
    )
