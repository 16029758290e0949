"""The value of an IR expression, in float64 and int64, as LANGUAGE's section on expressions says.

Maps an expression and the values of its leaves to a numpy array (all elements at once, by
broadcasting) or a scalar. Total, as kernels are: `//` and `%` by 0 give 0, and a guard changes
nothing. Constant folding, the tests of the rules, and the brute-force masks are its users.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from attnlang.ir.nodes import (
    QK,
    Anchor,
    Binary,
    BinaryOp,
    Call,
    CallScale,
    Cast,
    Compare,
    CompareOp,
    Const,
    Coord,
    Dot,
    Expr,
    Function,
    Given,
    Kind,
    L2Norm,
    Load,
    Logic,
    LogicOp,
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
    UnaryOp,
    Vector,
)
from attnlang.ir.traverse import children, walk

Array = npt.NDArray[Any]

_DTYPES: dict[Kind, type[np.generic]] = {
    Kind.BOOL: np.bool_,
    Kind.INT: np.int64,
    Kind.FLOAT: np.float64,
}

Leaf = Coord | Anchor | Size | Scalar | Given | CallScale | Raw | QK | RowSum | Lse
Leaves = Callable[[Leaf], Any]
Read = Callable[[str, tuple[Array, ...]], Any]


class VectorExpression(ValueError):
    """An operation on vectors over the head dimension, which has no scalar value."""


def evaluate(expr: Expr, leaves: Leaves, read: Read) -> Array:
    """Return the value of an expression.

    `leaves` gives the value of a leaf, `read` that of a tensor at (unclamped) indices. Raises
    VectorExpression for what is made of whole vectors.
    """
    values: dict[int, Array] = {}
    with np.errstate(all="ignore"):
        for node in walk(expr):
            operands = [values[id(c)] for c in children(node)]
            values[id(node)] = np.asarray(
                _value(node, operands, leaves, read), dtype=_DTYPES[node.type.kind]
            )
    return values[id(expr)]


def _value(expr: Expr, x: list[Array], leaves: Leaves, read: Read) -> Any:  # noqa: ANN401
    match expr:
        case Const(value):
            return value
        case Coord() | Anchor() | Size() | Scalar() | Given() | CallScale():
            return leaves(expr)
        case Raw() | QK() | RowSum() | Lse():
            return leaves(expr)
        case Load(tensor):
            return read(tensor, tuple(x))
        case Unary(op):
            return np.logical_not(x[0]) if op == UnaryOp.NOT else np.negative(x[0])
        case Binary(op, _, _, kind):
            return arithmetic(op, x[0], x[1], kind.kind)
        case Compare(op):
            return COMPARE[op](x[0], x[1])
        case Logic(op):
            return np.logical_and(*x) if op == LogicOp.AND else np.logical_or(*x)
        case Select():
            return np.where(x[0], x[1], x[2])
        case Cast(_, kind):
            return _cast(x[0], kind.kind)
        case Call(function):
            return apply(function, x)
        case Vector() | Slice() | RmsNorm() | L2Norm() | Rope() | Dot():
            raise VectorExpression(type(expr).__name__)
        case _:
            assert_never(expr)


COMPARE: dict[CompareOp, Callable[[Array, Array], Array]] = {
    CompareOp.EQ: np.equal,
    CompareOp.NE: np.not_equal,
    CompareOp.LT: np.less,
    CompareOp.LE: np.less_equal,
    CompareOp.GT: np.greater,
    CompareOp.GE: np.greater_equal,
}


def arithmetic(op: BinaryOp, a: Array, b: Array, kind: Kind) -> Array:
    """Return `a op b`, of a kind; ints wrap at 64 bits."""
    match op:
        case BinaryOp.ADD:
            return np.add(a, b)
        case BinaryOp.SUB:
            return np.subtract(a, b)
        case BinaryOp.MUL:
            return np.multiply(a, b)
        case BinaryOp.DIV:
            return np.true_divide(a, b)
        case BinaryOp.FLOORDIV:
            return np.where(b == 0, 0, np.floor_divide(a, np.where(b == 0, 1, b)))
        case BinaryOp.MOD:
            return np.where(b == 0, 0, np.mod(a, np.where(b == 0, 1, b)))
        case BinaryOp.POW:
            if kind == Kind.FLOAT:
                return np.power(np.asarray(a, np.float64), np.asarray(b, np.float64))
            return np.asarray(np.power(a, b))
        case _:
            assert_never(op)


def _cast(x: Array, kind: Kind) -> Array:
    if kind == Kind.INT and x.dtype.kind == "f":
        return np.nan_to_num(np.trunc(x), posinf=2.0**62, neginf=-(2.0**62)).astype(np.int64)
    return x.astype(_DTYPES[kind])


def bit(x: Array, n: Array) -> Array:
    """Return bit `n`, clamped to [0, 63] as indices are, of an int in two's complement."""
    return np.asarray((np.right_shift(x, np.clip(n, 0, 63)) & 1) == 1)


def sigmoid(x: Array) -> Array:
    """Return the logistic function."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


_erf = np.vectorize(math.erf, otypes=[np.float64])

_UNARY: dict[Function, Callable[[Array], Array]] = {
    Function.ABS: np.abs,
    Function.SIGN: np.sign,
    Function.FLOOR: np.floor,
    Function.CEIL: np.ceil,
    Function.ROUND: np.rint,
    Function.SQRT: np.sqrt,
    Function.RSQRT: lambda x: 1 / np.sqrt(x),
    Function.EXP: np.exp,
    Function.EXP2: np.exp2,
    Function.LOG: np.log,
    Function.LOG2: np.log2,
    Function.LOG1P: np.log1p,
    Function.SIN: np.sin,
    Function.COS: np.cos,
    Function.TANH: np.tanh,
    Function.SIGMOID: sigmoid,
    Function.SOFTPLUS: lambda x: np.logaddexp(x, 0.0),
    Function.RELU: lambda x: np.maximum(x, 0),
    Function.GELU: lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    Function.SILU: lambda x: x * sigmoid(x),
    Function.ERF: _erf,
}


def apply(function: Function, x: list[Array]) -> Array:
    """Return an elementwise function of its arguments."""
    match function:
        case Function.MIN:
            return _fold(np.minimum, x)
        case Function.MAX:
            return _fold(np.maximum, x)
        case Function.CLAMP:
            return np.minimum(np.maximum(x[0], x[1]), x[2])
        case Function.BIT:
            return bit(x[0], x[1])
        case _:
            return _UNARY[function](x[0])


def _fold(f: Callable[[Array, Array], Array], x: list[Array]) -> Array:
    result = x[0]
    for other in x[1:]:
        result = f(result, other)
    return result
