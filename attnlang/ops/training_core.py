"""From a variant to its core: what the kernels differentiate, over vectors as they come.

The core has no transforms and no out expression; the sum of the weights, where one reads it, stands
beside the entries of v. What its score reads of whole vectors (`dot`) is
a tensor parameter [B, HQ, length], which torch computes and differentiates; a scale that wants a
gradient is a 0-d parameter. Invariant: over transformed vectors and with these parameters it
means what the variant means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from attnlang.emit.op_schema import make_schema
from attnlang.ir.nodes import (
    FLOAT,
    CallScale,
    Compare,
    CompareOp,
    Coord,
    CoordName,
    Dot,
    Expr,
    Kind,
    Load,
    RowSum,
    Scalar,
    ScalarParam,
    Select,
    Size,
    TensorParam,
    Type,
    Variant,
    Vector,
    VectorName,
)
from attnlang.ir.traverse import rewrite, walk
from attnlang.passes.map_variant import map_variant
from attnlang.symbolic.build import const

_KEYS = (VectorName.K, VectorName.V)
_COLUMNS = (CoordName.KV_COL, CoordName.KV_IDX)


@dataclass(frozen=True, slots=True)
class Core:
    """A variant over transformed vectors; `dots` and `scale` are its added parameters."""

    variant: Variant
    dots: Mapping[str, Dot]
    scale: str | None


def is_plain(variant: Variant) -> bool:
    """Whether a variant takes its vectors as they come and reads no product of them."""
    expected = (
        (variant.q, VectorName.Q),
        (variant.k, VectorName.K),
        (variant.v, VectorName.V),
        (variant.out, VectorName.ACC),
    )
    vectors = all(isinstance(e, Vector) and e.name == name for e, name in expected)
    return vectors and not any(isinstance(e, Dot) for e in walk(*_scalars(variant)))


def core(variant: Variant, head: int, value: int, *, scale: bool) -> Core:
    """Return the core for D and DV of the call; with `scale`, that is a parameter too."""
    names = _free_names(variant)
    dots = {d: next(names) for d in dict.fromkeys(_dots(variant))}
    scale_name = next(names) if scale else None
    sizes = {"D": head, "DV": value}

    def fix(expr: Expr) -> Expr:
        match expr:
            case Size(name=name) if name in sizes:
                return const(sizes[name], expr.span)
            case Dot() if expr in dots:
                return _load(dots[expr], expr)
            case CallScale() if scale_name is not None:
                return Scalar(scale_name, FLOAT, span=expr.span)
        return expr

    def fixed(root: Expr) -> Expr:
        return rewrite(root, fix)

    plain = {n: Vector(n, span=variant.span) for n in VectorName}
    scalars = replace(
        variant,
        q=plain[VectorName.Q],
        k=plain[VectorName.K],
        v=plain[VectorName.V],
        out=_with_sum(plain[VectorName.ACC], value)
        if _reads_sum(variant)
        else plain[VectorName.ACC],
        requires=(),
    )
    tensors = tuple(_tensor(n, d) for d, n in dots.items())
    whole = replace(
        map_variant(scalars, fixed),
        params=(*variant.params, *tensors, *_scale(scale_name, variant)),
    )
    return Core(whole, {n: d for d, n in dots.items()}, scale_name)


def _reads_sum(variant: Variant) -> bool:
    return any(isinstance(e, RowSum) for e in walk(variant.out))


def _with_sum(acc: Vector, value: int) -> Select:
    """Return the accumulated values with the sum of the weights, which is not rounded, at DV."""
    entry = Coord(CoordName.D, Type(Kind.INT, vector=True), span=acc.span)
    bools = Type(Kind.BOOL, vector=True)
    beside = Compare(CompareOp.EQ, entry, const(value, acc.span), bools, span=acc.span)
    return Select(beside, RowSum(span=acc.span), acc, acc.type, span=acc.span)


def _scalars(variant: Variant) -> Iterator[Expr]:
    """Yield the expressions of a variant that are evaluated at elements."""
    weights = variant.weights
    roots = (weights.softmax, weights.factor, weights.sink, weights.dropout)
    yield from (r for r in roots if r is not None)
    yield from (variant.score, variant.mask, variant.scale)


def _dots(variant: Variant) -> Iterator[Dot]:
    for expr in walk(*_scalars(variant)):
        if isinstance(expr, Dot):
            yield expr


def _free_names(variant: Variant) -> Iterator[str]:
    """Yield names for parameters that no argument of the variant's op has."""
    taken = {a.name for a in make_schema(variant, variant.name).arguments}
    taken |= {p.name for p in variant.params}
    numbers = iter(range(1 << 16))
    return (name for name in (f"lifted_{i}" for i in numbers) if not _clashes(name, taken))


def _clashes(name: str, taken: set[str]) -> bool:
    return any(other.startswith(name) for other in taken)


def of_columns(dot: Dot) -> bool:
    """Whether a product is one of columns, else it is one of rows."""
    return any(
        (isinstance(e, Vector) and e.name in _KEYS) or (isinstance(e, Coord) and e.name in _COLUMNS)
        for e in walk(dot)
    )


def _load(name: str, dot: Dot) -> Load:
    last = CoordName.KV_COL if of_columns(dot) else CoordName.Q_ROW
    coords = (CoordName.B, CoordName.H, last)
    return Load(name, tuple(Coord(c, span=dot.span) for c in coords), FLOAT, span=dot.span)


def _tensor(name: str, dot: Dot) -> TensorParam:
    sizes = ("B", "HQ", "KV" if of_columns(dot) else "Q")
    dims = tuple(Size(s, span=dot.span) for s in sizes)
    return TensorParam(name, Kind.FLOAT, dims, optional=False, span=dot.span)


def _scale(name: str | None, variant: Variant) -> Iterator[ScalarParam]:
    if name is not None:
        yield ScalarParam(name, Kind.FLOAT, const=False, default=None, span=variant.span)
