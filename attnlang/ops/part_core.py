"""What a plan runs: the variants that one part of the keys needs, and what a plan freezes.

Maps a variant to its core over one part: the same scores, mask and weights without the sink and the
out expression, which count once for all parts. Invariant: merging the states of the cores over all
parts gives the state of the variant over all keys.
"""

from __future__ import annotations

from dataclasses import replace

from attnlang.ir.nodes import (
    BOOL,
    FLOAT,
    INT,
    QK,
    Binary,
    BinaryOp,
    Const,
    Coord,
    CoordName,
    Expr,
    Given,
    Kind,
    Load,
    Raw,
    Rope,
    RowSum,
    Scalar,
    Size,
    Slice,
    TensorParam,
    Variant,
    Vector,
    VectorName,
)
from attnlang.ir.traverse import rewrite, walk
from attnlang.symbolic.build import const

_ROW = (CoordName.B, CoordName.Q_IDX, CoordName.Q_ROW)
_NO_MASK_COORDS = (CoordName.B, CoordName.Q_ROW, CoordName.KV_COL, CoordName.H, CoordName.H_KV)


def mask_params(variant: Variant) -> frozenset[str]:
    """Return the parameters that the mask reads: they belong to the plan."""
    names = _names_read((variant.mask,))
    sizes = {e.name for e in walk(variant.mask) if isinstance(e, Size)}
    return names | {s.tensor for s in variant.sizes if s.name in sizes}


def kv_total_name(variant: Variant) -> str:
    """Return the name of the tensor that holds each request's `KV` over all parts."""
    name = "kv_total"
    while any(p.name == name for p in variant.params):
        name += "_"
    return name


def reads_kv_size(variant: Variant) -> bool:
    """Whether an expression of the core reads the length of the request."""
    return any(isinstance(e, Size) and e.name == "KV" for e in walk(*_core_roots(variant)))


def reads_requests(variant: Variant) -> bool:
    """Whether an expression reads how many requests there are."""
    sink = () if variant.weights.sink is None else (variant.weights.sink,)
    found = walk(*_core_roots(variant), *sink, variant.out)
    return any(isinstance(e, Size) and e.name == "B" for e in found)


def part_core(variant: Variant) -> Variant:
    """Return the variant over one part; `KV`, which counts all parts, becomes a tensor int[B]."""
    span = variant.span
    total = kv_total_name(variant)

    def fix(expr: Expr) -> Expr:
        if isinstance(expr, Size) and expr.name == "KV":
            return Load(total, (Coord(CoordName.B, span=span),), INT, span=span)
        return expr

    def fixed(expr: Expr | None) -> Expr | None:
        return None if expr is None else rewrite(expr, fix)

    def known(expr: Expr) -> Expr:
        return rewrite(expr, fix)

    params, weights = variant.params, variant.weights
    if reads_kv_size(variant):
        params = (*params, TensorParam(total, Kind.INT, (Size("B", span=span),), False, span=span))
    changed = replace(
        variant,
        params=params,
        requires=(),
        scale=known(variant.scale),
        q=known(variant.q),
        k=known(variant.k),
        v=known(variant.v),
        score=known(variant.score if weights.softmax is None else weights.softmax),
        mask=known(variant.mask),
        weights=replace(
            weights,
            softmax=fixed(weights.softmax),
            sink=None,
            factor=fixed(weights.factor),
            dropout=fixed(weights.dropout),
        ),
        out=Vector(VectorName.ACC, span=span),
    )
    return _pruned(changed)


def unmasked(core: Variant) -> Variant:
    """Return a core whose mask is true everywhere."""
    return _pruned(replace(core, mask=Const(True, BOOL, span=core.span)))


def ignores_rows(core: Variant) -> bool:
    """Whether nothing but the mask depends on which request or position a row has."""
    if core.weights.dropout is not None:
        return False
    roots = [r for r in _core_roots(core) if r is not core.mask]
    return not any(
        (isinstance(e, Coord) and e.name in _ROW)
        or (isinstance(e, Size) and e.name in ("B", "Q", "KV"))
        for e in walk(*roots)
    )


def ignores_heads(core: Variant) -> bool:
    """Whether nothing depends on which query head a row is of, but through its keys' head."""
    roots = [r for r in _core_roots(core) if r is not core.mask]
    sizes = [d for p in core.params if isinstance(p, TensorParam) for d in p.dims]
    return not any(
        (isinstance(e, Coord) and e.name == CoordName.H) or (isinstance(e, Size) and e.name == "HQ")
        for e in walk(*roots, *sizes)
    )


def mask_is_positional(core: Variant) -> bool:
    """Whether the mask reads nothing but positions and numbers."""
    return not any(
        isinstance(e, Load | Raw | QK)
        or (isinstance(e, Coord) and e.name in _NO_MASK_COORDS)
        or (isinstance(e, Size) and e.name not in ("HQ", "HKV", "D", "DV"))
        for e in walk(core.mask)
    )


def row_sum_core(core: Variant) -> Variant:
    """Return a core whose out, one entry wide, is the sum of the weights."""
    span = core.span
    entry = Slice(Vector(VectorName.ACC, span=span), const(0, span), const(1, span), span=span)
    nothing = Binary(BinaryOp.MUL, entry, Const(0.0, FLOAT, span=span), entry.type, span=span)
    out = Binary(BinaryOp.ADD, nothing, RowSum(span=span), entry.type, span=span)
    return replace(core, out=out)


def _core_roots(variant: Variant) -> tuple[Expr, ...]:
    """Return what a core evaluates."""
    weights = variant.weights
    spec = (weights.softmax, weights.factor, weights.dropout)
    own = (variant.scale, variant.q, variant.k, variant.v, variant.score, variant.mask)
    return (*own, *(e for e in spec if e is not None))


def _names_read(roots: tuple[Expr, ...]) -> frozenset[str]:
    """Return the parameters that some expressions read."""
    found: set[str] = set()
    for expr in walk(*roots):
        match expr:
            case Scalar(name=name) | Given(name=name) | Load(tensor=name):
                found.add(name)
            case Rope(freqs=str(name)):
                found.add(name)
            case _:
                pass
    return frozenset(found)


def _pruned(core: Variant) -> Variant:
    """Drop the parameters that nothing reads any more."""
    roots = (*_core_roots(core), core.out)
    read = set(_names_read(roots))
    sizes = {e.name for e in walk(*roots) if isinstance(e, Size)}
    for param in core.params:
        if isinstance(param, TensorParam) and param.name in read:
            sizes |= {e.name for d in param.dims for e in walk(d) if isinstance(e, Size)}
            read |= {e.name for d in param.dims for e in walk(d) if isinstance(e, Scalar)}
    read |= {s.tensor for s in core.sizes if s.name in sizes}
    return replace(
        core,
        params=tuple(p for p in core.params if p.name in read),
        sizes=tuple(s for s in core.sizes if s.tensor in read),
    )
