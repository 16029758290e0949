"""Operations on intervals of any kind: what `tiles` does at one node.

Maps the intervals of the operands to that of the result, each an interval of ints or floats, or a
three-valued bool, for all tiles at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attnlang.ir.nodes import Binary, BinaryOp, CompareOp, Function, Kind, UnaryOp
from attnlang.symbolic import float_intervals as floats
from attnlang.symbolic import int_intervals as ints
from attnlang.symbolic import tile_reads
from attnlang.symbolic import verdicts as bools
from attnlang.symbolic.build import value_of
from attnlang.symbolic.float_intervals import Floats
from attnlang.symbolic.int_intervals import LIMIT, Ints
from attnlang.symbolic.verdicts import Bools

Array = npt.NDArray[Any]
Value = Ints | Floats | Bools


def read(tensor: Array, indices: tuple[Ints, ...], kind: Kind) -> Value:
    """Return what a tensor holds in the box of indices of each tile."""
    if kind == Kind.FLOAT:
        return _read_floats(np.asarray(tensor, np.float64), indices)
    found = tile_reads.bounds(tensor.astype(np.int64), indices)
    if found is None:
        return anything(kind)
    low, high = found
    return Bools(high != 0, low == 0) if kind == Kind.BOOL else ints.between(low, high)


def _read_floats(tensor: Array, indices: tuple[Ints, ...]) -> Floats:
    """Bound the numbers among what is read, and tell where there may be NaN."""
    nan = np.isnan(tensor)
    if not nan.any():
        found = tile_reads.bounds(tensor, indices)
        return floats.anything() if found is None else floats.widened(*found)
    below = tile_reads.bounds(np.where(nan, np.inf, tensor), indices)
    above = tile_reads.bounds(np.where(nan, -np.inf, tensor), indices)
    some = tile_reads.bounds(nan, indices)
    assert below is not None
    assert above is not None
    assert some is not None
    low, high = below[0], above[1]
    only = low > high  # nothing but NaN
    low, high = np.where(only, -np.inf, low), np.where(only, np.inf, high)
    return floats.widened(low, high, some[1])


def point(value: bool | int | float) -> Value:
    """Return the interval of one value."""
    if isinstance(value, bool | np.bool_):
        return bools.point(bool(value))
    return ints.point(int(value)) if isinstance(value, int | np.integer) else floats.point(value)


def anything(kind: Kind) -> Value:
    """Return the interval of all values of a kind."""
    match kind:
        case Kind.BOOL:
            return bools.anything()
        case Kind.INT:
            return ints.anything()
        case Kind.FLOAT:
            return floats.anything()


def unary(op: UnaryOp, x: Value) -> Value:
    """Bound `-x`, or judge `not x`."""
    match x:
        case Bools():
            return bools.negation(x)
        case Ints():
            return ints.negate(x)
        case Floats():
            return floats.negate(x)


_INT_BINARY = {
    BinaryOp.ADD: ints.add,
    BinaryOp.SUB: ints.subtract,
    BinaryOp.MUL: ints.multiply,
    BinaryOp.FLOORDIV: ints.floor_divide,
    BinaryOp.MOD: ints.modulo,
}


def binary(op: BinaryOp, expr: Binary, x: Value, y: Value) -> Value:
    """Bound an arithmetic node, whose operands are given."""
    exponent = _whole_power(expr) if op == BinaryOp.POW else None
    if isinstance(x, Ints) and isinstance(y, Ints) and expr.type.kind == Kind.INT:
        if op == BinaryOp.POW:
            return ints.anything() if exponent is None else ints.power(x, exponent)
        return _INT_BINARY[op](x, y)
    a, b = cast(x, Kind.FLOAT), cast(y, Kind.FLOAT)
    assert isinstance(a, Floats)
    assert isinstance(b, Floats)
    return floats.arithmetic(op, a, b) if exponent is None else floats.integer_power(a, exponent)


def _whole_power(expr: Binary) -> int | None:
    """Return a constant exponent that is a whole number, 0 or more."""
    value = value_of(expr.right)
    if value is None or not np.isfinite(value) or value < 0 or value != int(value):
        return None
    return int(value)


def compare(op: CompareOp, x: Value, y: Value) -> Bools:
    """Judge a comparison."""
    if isinstance(x, Bools) and isinstance(y, Bools):
        return bools.compare_bools(op, x, y)
    assert not isinstance(x, Bools)
    assert not isinstance(y, Bools)
    return bools.compare(op, x, y)


def select(condition: Value, then: Value, otherwise: Value) -> Value:
    """Take the bounds of the branches that may be taken."""
    assert isinstance(condition, Bools)
    first, second = ~condition.false, ~condition.true  # the only branch

    def pick(a: Array, b: Array, both: Array) -> Array:
        return np.where(first, a, np.where(second, b, both))

    match then, otherwise:
        case Bools(), Bools():
            return Bools(
                pick(then.true, otherwise.true, then.true | otherwise.true),
                pick(then.false, otherwise.false, then.false | otherwise.false),
            )
        case Ints(), Ints():
            return Ints(
                pick(then.low, otherwise.low, np.minimum(then.low, otherwise.low)),
                pick(then.high, otherwise.high, np.maximum(then.high, otherwise.high)),
            )
        case Floats(), Floats():
            return Floats(
                pick(then.low, otherwise.low, np.minimum(then.low, otherwise.low)),
                pick(then.high, otherwise.high, np.maximum(then.high, otherwise.high)),
                pick(then.nan, otherwise.nan, then.nan | otherwise.nan),
            )
    raise AssertionError("the branches of `if` have one type")


def cast(x: Value, kind: Kind) -> Value:
    """Bound `float(x)` or `int(x)`."""
    match x, kind:
        case (Bools(), Kind.INT | Kind.FLOAT):
            low, high = (~x.false).astype(np.int64), x.true.astype(np.int64)
            return cast(Ints(low, high), kind)
        case (Ints(), Kind.FLOAT):
            return _to_float(x)
        case (Ints(), Kind.BOOL):
            return Bools((x.low != 0) | (x.high != 0), (x.low <= 0) & (x.high >= 0))
        case (Floats(), Kind.INT):
            return _truncate(x)
        case (Floats(), Kind.BOOL):
            zero = (x.low <= 0) & (x.high >= 0)
            return Bools((x.low != 0) | (x.high != 0) | x.nan, zero)
    return x


def _to_float(x: Ints) -> Floats:
    """Bound `float(x)`: exact up to 2 ** 24, in float32 too."""
    wide = floats.widened(
        np.where(x.low <= -LIMIT, -np.inf, x.low), np.where(x.high >= LIMIT, np.inf, x.high)
    )
    exact = (x.low >= -(2**24)) & (x.high <= 2**24)
    return Floats(np.where(exact, x.low, wide.low), np.where(exact, x.high, wide.high), wide.nan)


def _truncate(x: Floats) -> Ints:
    """Bound `int(x)`; what NaN or more than 64 bits give is not known."""
    inside = (x.low > -float(LIMIT)) & (x.high < float(LIMIT)) & ~x.nan
    low = np.where(inside, np.trunc(np.where(inside, x.low, 0.0)), 0.0).astype(np.int64)
    high = np.where(inside, np.trunc(np.where(inside, x.high, 0.0)), 0.0).astype(np.int64)
    return Ints(np.where(inside, low, -LIMIT), np.where(inside, high, LIMIT))


def call(function: Function, x: list[Value], kind: Kind) -> Value:
    """Bound an elementwise function."""
    if function == Function.BIT:
        return _bit(x[0], x[1])
    if all(isinstance(a, Ints) for a in x) and kind == Kind.INT:
        return _int_call(function, [a for a in x if isinstance(a, Ints)])
    widened = [cast(a, Kind.FLOAT) for a in x]
    return floats.apply_function(function, [a for a in widened if isinstance(a, Floats)])


def _int_call(function: Function, x: list[Ints]) -> Value:
    match function:
        case Function.ABS:
            return ints.absolute(x[0])
        case Function.SIGN:
            return ints.sign(x[0])
        case Function.RELU:
            return ints.maximum(x[0], ints.point(0))
        case Function.CLAMP:
            return ints.minimum(ints.maximum(x[0], x[1]), x[2])
        case Function.MIN | Function.MAX:
            join = ints.minimum if function == Function.MIN else ints.maximum
            result = x[0]
            for other in x[1:]:
                result = join(result, other)
            return result
    return ints.anything()


def _bit(x: Value, n: Value) -> Bools:
    """Judge `bit(x, n)`: known where both are single values."""
    assert isinstance(x, Ints)
    assert isinstance(n, Ints)
    known = (x.low == x.high) & (n.low == n.high) & ~x.saturated
    found = (x.low >> np.clip(n.low, 0, 63)) & 1 != 0
    return Bools(found | ~known, ~found | ~known)
