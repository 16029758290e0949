"""The typed IR on one page: what a spec means. Defs, the prelude and locals are inlined.

    Variant = name, doc, params, sizes, requires, scale, q, k, v, score, mask, weights, out
    Weights = softmax(score) [* factor] [* dropout]  |  factor [* dropout]
    Expr    = Const | Coord | Anchor | Size | Scalar | Given | CallScale | Raw | QK | RowSum | Lse
            | Load | Unary | Binary | Compare | Logic | Select | Cast | Call
            | Vector | Slice | RmsNorm | L2Norm | Rope | Dot

Expressions form a DAG: a value that the spec names twice is one object. Every expression has a
`type`; operands are already converted (`Cast` marks each int widened to float), so both sides of an
arithmetic `Binary` have one kind. Scalars mix with vectors elementwise. `Logic` and `Select` guard
their operands. Spans are mandatory and blind to equality: a synthesised node keeps its parent's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from attnlang.sources import Span


class Kind(StrEnum):
    """The kind of a value."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"


@dataclass(frozen=True, slots=True)
class Type:
    """The type of an expression: a scalar, or a vector over the head dimension."""

    kind: Kind
    vector: bool = False

    def __str__(self) -> str:
        return f"vector of {self.kind}" if self.vector else str(self.kind)


FLOAT, INT, BOOL = Type(Kind.FLOAT), Type(Kind.INT), Type(Kind.BOOL)
VECTOR = Type(Kind.FLOAT, vector=True)


class CoordName(StrEnum):
    """The coordinates of an element (LANGUAGE: names in an expression)."""

    B = "b"
    H = "h"
    H_KV = "h_kv"
    Q_IDX = "q_idx"  # position in the sequence: q_row + q_offset
    KV_IDX = "kv_idx"  # position in the sequence: kv_col + kv_offset
    Q_ROW = "q_row"  # index in the tensor that was passed
    KV_COL = "kv_col"
    PART = "part"
    D = "d"  # index in the head dimension, in vector expressions


class VectorName(StrEnum):
    """The vectors that a spec may read."""

    Q = "q"
    K = "k"
    V = "v"
    ACC = "acc"


class UnaryOp(StrEnum):
    """Operators of one operand."""

    NEG = "-"
    NOT = "not"


class BinaryOp(StrEnum):
    """Arithmetic: `/` and float `**` give float, `//` and `%` floor (by zero: 0 in kernels)."""

    ADD = "+"
    SUB = "-"
    MUL = "*"
    DIV = "/"
    FLOORDIV = "//"
    MOD = "%"
    POW = "**"  # int ** non-negative Const int is int; float ** Const int is exact for negatives


class CompareOp(StrEnum):
    """Comparisons; `==` and `!=` compare bools too."""

    EQ = "=="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


class LogicOp(StrEnum):
    """Short-circuit connectives: the right operand is read under the left's guard."""

    AND = "and"
    OR = "or"


class Function(StrEnum):
    """Elementwise functions."""

    ABS = "abs"
    MIN = "min"  # two or more arguments, as MAX
    MAX = "max"
    CLAMP = "clamp"  # x, low, high
    SIGN = "sign"
    FLOOR = "floor"  # floor, ceil, round: float to float; round is half to even
    CEIL = "ceil"
    ROUND = "round"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    EXP = "exp"
    EXP2 = "exp2"
    LOG = "log"
    LOG2 = "log2"
    LOG1P = "log1p"
    SIN = "sin"
    COS = "cos"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    SOFTPLUS = "softplus"
    RELU = "relu"
    GELU = "gelu"
    SILU = "silu"
    ERF = "erf"
    BIT = "bit"  # bit(x, n): bit n of an int, as bool


@dataclass(frozen=True, slots=True)
class Node:
    """The base of all IR nodes."""

    span: Span = field(kw_only=True, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Const(Node):
    """A constant; its Python type is its kind."""

    value: bool | int | float
    type: Type


@dataclass(frozen=True, slots=True)
class Coord(Node):
    """A coordinate, int. `D` has a vector type."""

    name: CoordName
    type: Type = INT


@dataclass(frozen=True, slots=True)
class Anchor(Node):
    """`q_idx` or `q_row` of the row that stands for a query tile; the passes put it."""

    name: CoordName
    type: Type = INT


@dataclass(frozen=True, slots=True)
class Size(Node):
    """A size: B HQ HKV Q KV D DV (Q, KV: the request's true lengths), or one bound by a tensor."""

    name: str
    type: Type = INT


@dataclass(frozen=True, slots=True)
class Scalar(Node):
    """A 0-d parameter, run-time or const."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Given(Node):
    """Whether the optional tensor `name` was passed; a compile-time constant of a kernel."""

    name: str
    type: Type = BOOL


@dataclass(frozen=True, slots=True)
class CallScale(Node):
    """The call's `scale=`, by default 1 / sqrt(D)."""

    type: Type = FLOAT


@dataclass(frozen=True, slots=True)
class Raw(Node):
    """`scale * dot(q', k')`: the default score; the scale is `Variant.scale`."""

    type: Type = FLOAT


@dataclass(frozen=True, slots=True)
class QK(Node):
    """`dot(q', k')` without the scale; the passes put it where `Raw` was."""

    type: Type = FLOAT


@dataclass(frozen=True, slots=True)
class RowSum(Node):
    """In `out`: the sum of the final weights of the row."""

    type: Type = FLOAT


@dataclass(frozen=True, slots=True)
class Lse(Node):
    """In `out`: the natural log-sum-exp of softmax's argument over the unmasked columns."""

    type: Type = FLOAT


@dataclass(frozen=True, slots=True)
class Load(Node):
    """`tensor[indices]`, each index clamped to its extent. With `d` as an index it is a vector."""

    tensor: str
    indices: tuple[Expr, ...]
    type: Type


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`-x`, `not x`."""

    op: UnaryOp
    operand: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Arithmetic on two operands of one kind."""

    op: BinaryOp
    left: Expr
    right: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """One comparison; a chain is a conjunction of these."""

    op: CompareOp
    left: Expr
    right: Expr
    type: Type = BOOL


@dataclass(frozen=True, slots=True)
class Logic(Node):
    """`and`, `or`."""

    op: LogicOp
    left: Expr
    right: Expr
    type: Type = BOOL


@dataclass(frozen=True, slots=True)
class Select(Node):
    """`then if condition else otherwise`."""

    condition: Expr
    then: Expr
    otherwise: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Cast(Node):
    """`float(x)`, or `int(x)` truncating toward zero; implicit widenings are casts too."""

    operand: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Call(Node):
    """An elementwise function."""

    function: Function
    args: tuple[Expr, ...]
    type: Type


@dataclass(frozen=True, slots=True)
class Vector(Node):
    """The vector as the call passed it (`acc`: as accumulated)."""

    name: VectorName
    type: Type = VECTOR


@dataclass(frozen=True, slots=True)
class Slice(Node):
    """`x[start:stop]` of a vector; the bounds are compile-time ints (constants, D, DV, consts)."""

    operand: Expr
    start: Expr
    stop: Expr
    type: Type = VECTOR


@dataclass(frozen=True, slots=True)
class RmsNorm(Node):
    """`x / sqrt(mean(x ** 2) + eps) [* weight]`."""

    operand: Expr
    weight: Expr | None  # a vector
    eps: Expr
    type: Type = VECTOR


@dataclass(frozen=True, slots=True)
class L2Norm(Node):
    """`x / max(sqrt(sum(x ** 2)), eps)`, as torch's `normalize`."""

    operand: Expr
    eps: Expr
    type: Type = VECTOR


@dataclass(frozen=True, slots=True)
class Rope(Node):
    """Rotary embedding of `dims` entries from `start`; `freqs` names a tensor or is None."""

    operand: Expr
    position: Expr
    base: Expr
    freqs: str | None
    start: Expr
    dims: Expr | None  # None: D of the operand
    interleaved: bool
    type: Type = VECTOR


@dataclass(frozen=True, slots=True)
class Dot(Node):
    """`dot(x, y)` of two vectors of the row alone or of the column alone."""

    left: Expr
    right: Expr
    type: Type = FLOAT


Expr = (
    Const
    | Coord
    | Anchor
    | Size
    | Scalar
    | Given
    | CallScale
    | Raw
    | QK
    | RowSum
    | Lse
    | Load
    | Unary
    | Binary
    | Compare
    | Logic
    | Select
    | Cast
    | Call
    | Vector
    | Slice
    | RmsNorm
    | L2Norm
    | Rope
    | Dot
)


@dataclass(frozen=True, slots=True)
class ScalarParam(Node):
    """`cap: float = 50.0`, `const n: int`. `default` is None when there is none."""

    name: str
    kind: Kind
    const: bool
    default: bool | int | float | None


@dataclass(frozen=True, slots=True)
class TensorParam(Node):
    """`slopes: float[HQ]`. Each dim is an int expression over sizes."""

    name: str
    kind: Kind
    dims: tuple[Expr, ...]
    optional: bool  # `= none`


Param = ScalarParam | TensorParam


@dataclass(frozen=True, slots=True)
class BoundSize(Node):
    """A size solved from a tensor: `extent(tensor, axis) == factor * name + offset`."""

    name: str
    tensor: str
    axis: int
    factor: int
    offset: Expr  # over sizes bound before it


@dataclass(frozen=True, slots=True)
class Require(Node):
    """A condition over scalars, sizes and `Given`, checked at the call."""

    condition: Expr
    message: str | None


@dataclass(frozen=True, slots=True)
class Weights(Node):
    """`softmax(softmax, sink=sink) * factor`, dropped out with probability `dropout`.

    Without `softmax`, `factor` is the whole elementwise weight (and is not None). `sink` depends on
    b, h and q alone.
    """

    softmax: Expr | None
    sink: Expr | None
    factor: Expr | None
    dropout: Expr | None


@dataclass(frozen=True, slots=True)
class Variant(Node):
    """One `attention` item. `q`, `k`, `v` are the transforms (`Vector` itself when there is none).

    `v` may be made from `k`; then the call passes no v. `scale` is `CallScale` unless assigned.
    `score` is the last score (for `explain`; softmax's argument is in `weights`).
    """

    name: str
    doc: str | None
    params: tuple[Param, ...]
    sizes: tuple[BoundSize, ...]
    requires: tuple[Require, ...]
    scale: Expr
    q: Expr
    k: Expr
    v: Expr
    score: Expr
    mask: Expr
    weights: Weights
    out: Expr
