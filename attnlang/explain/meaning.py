"""What a variant means, as equations.

Maps a simplified variant to the lines of LANGUAGE's model that are its own: what is the default (no
transform, no mask, a plain output) is not written. Invariant: the letters are those of `formula`.
"""

from __future__ import annotations

from attnlang.explain.boxes import (
    Apply,
    Box,
    Fenced,
    Fraction,
    Name,
    Operator,
    Root,
    Row,
    Sub,
    Sum,
    Word,
    to_text,
)
from attnlang.explain.explanation import Equation
from attnlang.explain.formula import MEANINGS, TIMES, Formulas
from attnlang.ir.nodes import (
    Anchor,
    CallScale,
    Const,
    Coord,
    CoordName,
    Expr,
    Lse,
    Raw,
    RowSum,
    Variant,
    Vector,
    VectorName,
    Weights,
)
from attnlang.ir.traverse import walk
from attnlang.passes.lowered import Lowered

_PRIME = "′"
_ANCHORS = {
    CoordName.Q_IDX: "the position of the row that stands for a tile's queries",
    CoordName.Q_ROW: "the row that stands for a tile's queries",
}


def own_names(variant: Variant) -> frozenset[str]:
    """Return the names that a spec gives a meaning of its own."""
    return frozenset({p.name for p in variant.params} | {s.name for s in variant.sizes})


def expressions(variant: Variant) -> tuple[Expr, ...]:
    """Return every expression that a meaning shows."""
    w = variant.weights
    optional = (w.softmax, w.sink, w.factor, w.dropout)
    vectors = (variant.q, variant.k, variant.v, variant.out)
    return (variant.scale, *vectors, variant.mask, *(e for e in optional if e is not None))


def letters(variant: Variant, formulas: Formulas) -> tuple[tuple[str, str], ...]:
    """Return the letters that a meaning reads, and what they stand for."""
    read = {e.name for e in walk(*expressions(variant)) if isinstance(e, Coord)}
    read |= {CoordName.Q_IDX, CoordName.KV_IDX}
    return tuple((formulas.letter(c), MEANINGS[c]) for c in MEANINGS if c in read)


def meaning(variant: Variant, formulas: Formulas) -> tuple[Equation, ...]:
    """Return the equations of a variant, in the order of the model."""
    return (
        *_transforms(variant, formulas),
        _raw(variant, formulas),
        *_argument(variant, formulas),
        _keys(variant, formulas),
        _weights(variant, formulas),
        *_out(variant, formulas),
    )


def kernel(lowered: Lowered, formulas: Formulas) -> tuple[Equation, ...]:
    """Return what is evaluated for an element: logarithms to base 2, the bare product."""
    notes = {
        "exponent": "softmax's argument times log₂ e, for exp2",
        "sink": "times log₂ e",
        "shift": "what the exponent lacks in every column of a row; its softmax is the same",
        "column_mask": "the part of the mask that reads no query: it guards reads of k and v",
    }

    def note(name: str, expr: Expr) -> str:
        anchors = dict.fromkeys(e.name for e in walk(expr) if isinstance(e, Anchor))
        told = [f"{to_text(formulas.anchor(a))}: {_ANCHORS[a]}" for a in anchors]
        return "; ".join(filter(None, (notes.get(name, ""), *told)))

    return tuple(
        Equation(Name(name), formulas.box(expr), note(name, expr)) for name, expr in lowered.roots
    )


def _is(expr: Expr, name: VectorName) -> bool:
    return isinstance(expr, Vector) and expr.name is name


def _mark(expr: Expr, name: VectorName) -> str:
    return "" if _is(expr, name) else _PRIME


def _transforms(variant: Variant, formulas: Formulas) -> tuple[Equation, ...]:
    found = []
    for name in (VectorName.Q, VectorName.K, VectorName.V):
        expr: Expr = getattr(variant, name.value)
        if not _is(expr, name):
            found.append(Equation(formulas.vector(name, _PRIME), formulas.box(expr)))
    return tuple(found)


def _raw(variant: Variant, formulas: Formulas) -> Equation:
    marks = (_mark(variant.q, VectorName.Q), _mark(variant.k, VectorName.K))
    dot, left = formulas.dot(marks), formulas.pair("s")
    match variant.scale:
        case CallScale():
            root = Fraction(dot, Root(Name("D")), (False, False))
            return Equation(left, root, "or times scale= of the call, where it passes one")
        case Const(1.0):
            return Equation(left, dot)
        case scale:
            return Equation(left, Row((formulas.factor(scale), TIMES, dot)))


def _argument(variant: Variant, formulas: Formulas) -> tuple[Equation, ...]:
    argument = variant.weights.softmax
    if argument is None or isinstance(argument, Raw):
        return ()
    return (Equation(formulas.pair("x"), formulas.box(argument)),)


def _keys(variant: Variant, formulas: Formulas) -> Equation:
    key = formulas.coordinate(CoordName.KV_IDX)
    if isinstance(variant.mask, Const):
        return Equation(_set(formulas), Word("every key" if variant.mask.value else "no key"))
    seen = Fenced(Row((key, Operator(":"), formulas.box(variant.mask))), "{", "}")
    return Equation(_set(formulas), seen, "the keys it sees")


def _set(formulas: Formulas) -> Box:
    return Sub(Name("K"), (formulas.coordinate(CoordName.Q_IDX),))


def _over_keys(formulas: Formulas, body: Box, key: Box | None = None) -> Box:
    key = key or formulas.coordinate(CoordName.KV_IDX)
    return Sum(Row((key, Operator("∈"), _set(formulas))), body)


def _exponentials(weights: Weights, formulas: Formulas) -> tuple[Box, Box]:
    """Return a key's exponential, and the sum over all keys, in a letter of its own."""
    name = "s" if isinstance(weights.softmax, Raw) else "x"
    other = Name(formulas.unused("l"))
    query = formulas.coordinate(CoordName.Q_IDX)
    term = Apply(Name("exp"), (Sub(Name(name), (query, other)),))
    return Apply(Name("exp"), (formulas.pair(name),)), _over_keys(formulas, term, other)


def _weights(variant: Variant, formulas: Formulas) -> Equation:
    weights = variant.weights
    factors: list[Box] = []
    if weights.softmax is not None:
        power, below = _exponentials(weights, formulas)
        if weights.sink is not None:
            sink = Apply(Name("exp"), (formulas.box(weights.sink),))
            below = Row((sink, Operator("+"), below))
        factors.append(Fraction(power, below, (False, True)))
    if weights.factor is not None:
        alone = weights.softmax is None and weights.dropout is None
        factors.append((formulas.box if alone else formulas.factor)(weights.factor))
    if weights.dropout is not None:
        factors.append(Apply(Name("dropout"), (formulas.box(weights.dropout),)))
    product: list[Box] = []
    for factor in factors:
        product += [TIMES, factor] if product else [factor]
    return Equation(formulas.pair("w"), Row(tuple(product)))


def _out(variant: Variant, formulas: Formulas) -> tuple[Equation, ...]:
    query = formulas.coordinate(CoordName.Q_IDX)
    value = formulas.vector(VectorName.V, _mark(variant.v, VectorName.V))
    summed = _over_keys(formulas, Row((formulas.pair("w"), TIMES, value)))
    out = Sub(Name("out", vector=True), (query,))
    if _is(variant.out, VectorName.ACC):
        return (Equation(out, summed),)
    found = [Equation(formulas.vector(VectorName.ACC), summed)]
    inside = list(walk(variant.out))
    if any(isinstance(e, RowSum) for e in inside):
        found.append(Equation(Sub(Name("n"), (query,)), _over_keys(formulas, formulas.pair("w"))))
    if any(isinstance(e, Lse) for e in inside):
        logged = _exponentials(variant.weights, formulas)[1]
        found.append(Equation(Sub(Name("lse"), (query,)), Apply(Name("ln"), (logged,))))
    return (*found, Equation(out, formulas.box(variant.out)))
