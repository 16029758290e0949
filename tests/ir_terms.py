"""Hand-made IR: short names for the nodes that tests of the symbolic layer and the passes build."""

from collections.abc import Iterable

from attnlang.ir.nodes import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    BinaryOp,
    Call,
    CallScale,
    Cast,
    Compare,
    CompareOp,
    Const,
    Coord,
    CoordName,
    Expr,
    Function,
    Kind,
    Load,
    Logic,
    LogicOp,
    Param,
    Raw,
    Scalar,
    Select,
    Size,
    Type,
    Unary,
    UnaryOp,
    Variant,
    Vector,
    VectorName,
    Weights,
)
from attnlang.sources import Source, Span

SPAN = Span(Source("<test>", ""), 0, 0)
TRUE, FALSE = Const(True, BOOL, span=SPAN), Const(False, BOOL, span=SPAN)
RAW, CALL_SCALE = Raw(span=SPAN), CallScale(span=SPAN)


def num(value: bool | int | float) -> Const:
    return Const(value, {bool: BOOL, int: INT, float: FLOAT}[type(value)], span=SPAN)


def coord(name: str) -> Coord:
    return Coord(CoordName(name), span=SPAN)


B, H, Q_IDX, KV_IDX = coord("b"), coord("h"), coord("q_idx"), coord("kv_idx")
Q_ROW, KV_COL = coord("q_row"), coord("kv_col")


def size(name: str) -> Size:
    return Size(name, span=SPAN)


def scalar(name: str, kind: Type = FLOAT) -> Scalar:
    return Scalar(name, kind, span=SPAN)


def load(tensor: str, *indices: Expr, kind: Type = FLOAT) -> Load:
    return Load(tensor, indices, kind, span=SPAN)


def op(name: str, left: Expr, right: Expr) -> Binary:
    kind = FLOAT if name == "/" else left.type
    return Binary(BinaryOp(name), left, right, kind, span=SPAN)


def compare(name: str, left: Expr, right: Expr) -> Compare:
    return Compare(CompareOp(name), left, right, span=SPAN)


def both(left: Expr, right: Expr) -> Logic:
    return Logic(LogicOp.AND, left, right, span=SPAN)


def either(left: Expr, right: Expr) -> Logic:
    return Logic(LogicOp.OR, left, right, span=SPAN)


def neg(operand: Expr) -> Unary:
    return Unary(UnaryOp.NEG, operand, operand.type, span=SPAN)


def no(operand: Expr) -> Unary:
    return Unary(UnaryOp.NOT, operand, BOOL, span=SPAN)


def select(condition: Expr, then: Expr, otherwise: Expr) -> Select:
    return Select(condition, then, otherwise, then.type, span=SPAN)


def to_float(operand: Expr) -> Cast:
    return Cast(operand, FLOAT, span=SPAN)


def to_int(operand: Expr) -> Cast:
    return Cast(operand, INT, span=SPAN)


def call(name: str, *args: Expr) -> Call:
    kind = args[0].type
    if name == "bit":
        kind = BOOL
    elif name not in ("abs", "min", "max", "clamp", "sign") and kind.kind != Kind.FLOAT:
        raise ValueError(f"{name} takes floats")
    return Call(Function(name), args, kind, span=SPAN)


def vector(name: str) -> Vector:
    return Vector(VectorName(name), span=SPAN)


def variant(
    *,
    score: Expr = RAW,
    mask: Expr = TRUE,
    scale: Expr = CALL_SCALE,
    params: Iterable[Param] = (),
    weights: Weights | None = None,
    out: Expr | None = None,
) -> Variant:
    return Variant(
        name="made",
        doc=None,
        params=tuple(params),
        sizes=(),
        requires=(),
        scale=scale,
        q=vector("q"),
        k=vector("k"),
        v=vector("v"),
        score=score,
        mask=mask,
        weights=weights or Weights(score, None, None, None, span=SPAN),
        out=out or vector("acc"),
        span=SPAN,
    )


CAUSAL = compare("<=", KV_IDX, Q_IDX)
