"""Intervals of floats, for all tiles of a mask at once.

Maps bounds of the operands to bounds of the result. Kernels compute masks in float32 and this in
float64, so every result is widened by a relative margin well above float32's rounding; what would
overflow or underflow there is widened to infinity or to zero. `nan` is true where the value may be
NaN; the bounds then hold for what is a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from attnlang.ir.nodes import BinaryOp, Function
from attnlang.symbolic.evaluate import apply

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_MARGIN = 1e-6  # relative
_FUNCTION_MARGIN = 1e-6  # absolute, of the transcendental functions
_LARGEST, _SMALLEST = 3e38, 1e-35  # of float32, with room
_FLAT = 0.2785  # silu and gelu are at least -this

_RISING = frozenset(
    {
        Function.FLOOR,
        Function.CEIL,
        Function.ROUND,
        Function.SIGN,
        Function.RELU,
        Function.SQRT,
        Function.EXP,
        Function.EXP2,
        Function.LOG,
        Function.LOG2,
        Function.LOG1P,
        Function.TANH,
        Function.SIGMOID,
        Function.SOFTPLUS,
        Function.ERF,
    }
)
_DOMAIN = {Function.SQRT: 0.0, Function.RSQRT: 0.0, Function.LOG: 0.0, Function.LOG2: 0.0}
_EXACT = frozenset({Function.FLOOR, Function.CEIL, Function.ROUND, Function.SIGN, Function.RELU})


@dataclass(frozen=True, slots=True)
class Floats:
    """`low <= x <= high`, or x is NaN where `nan`; the arrays broadcast."""

    low: FloatArray
    high: FloatArray
    nan: BoolArray


def widened(low: Any, high: Any, nan: Any = False, margin: float = 0.0) -> Floats:  # noqa: ANN401
    """Return bounds widened for float32; a bound that is NaN is none."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    unknown = np.isnan(low) | np.isnan(high)
    low, high = np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)
    with np.errstate(all="ignore"):
        finite_low = low - _MARGIN * np.abs(low) - margin
        finite_high = high + _MARGIN * np.abs(high) + margin
    # inf - inf: an infinite bound stays as it is
    low, high = (
        np.where(np.isinf(low), low, finite_low),
        np.where(np.isinf(high), high, finite_high),
    )
    low = np.where(
        low < -_LARGEST, -np.inf, np.where(np.isposinf(low), low, np.minimum(low, _LARGEST))
    )
    high = np.where(
        high > _LARGEST, np.inf, np.where(np.isneginf(high), high, np.maximum(high, -_LARGEST))
    )
    low = np.where(
        (low > 0) & (low < _SMALLEST),
        0.0,
        np.where((low < 0) & (low > -_SMALLEST), -_SMALLEST, low),
    )
    high = np.where(
        (high < 0) & (high > -_SMALLEST),
        0.0,
        np.where((high > 0) & (high < _SMALLEST), _SMALLEST, high),
    )
    return Floats(low, high, np.asarray(nan, np.bool_) | unknown)


def point(value: float) -> Floats:
    """Return the interval of one value, as float32 rounds it."""
    with np.errstate(over="ignore"):
        exact = float(np.float32(value)) == value
    if exact:
        return Floats(np.asarray(value), np.asarray(value), np.asarray(False))
    return widened(value, value, np.isnan(value))


def anything() -> Floats:
    """Return the interval of all floats and NaN."""
    return Floats(np.asarray(-np.inf), np.asarray(np.inf), np.asarray(True))


def arithmetic(op: BinaryOp, a: Floats, b: Floats) -> Floats:
    """Bound `a op b`."""
    nan = a.nan | b.nan
    with np.errstate(all="ignore"):
        match op:
            case BinaryOp.ADD:
                opposite = (_has(a, np.inf) & _has(b, -np.inf)) | (
                    _has(a, -np.inf) & _has(b, np.inf)
                )
                return widened(a.low + b.low, a.high + b.high, nan | opposite)
            case BinaryOp.SUB:
                return arithmetic(BinaryOp.ADD, a, negate(b))
            case BinaryOp.MUL:
                return _corners(
                    np.multiply, a, b, nan | _zero_times_inf(a, b) | _zero_times_inf(b, a)
                )
            case BinaryOp.DIV:
                return _divide(a, b, nan)
            case BinaryOp.FLOORDIV:
                edge = nan | _infinite(a)  # infinity, or NaN, by whichever formula
                return _or_zero(apply_function(Function.FLOOR, [_divide(a, b, edge)]), b)
            case BinaryOp.MOD:
                edge = nan | _infinite(a) | _infinite(b)
                # As a - floor(a / b) * b it is off by a rounding of a.
                error = _MARGIN * np.maximum(np.abs(a.low), np.abs(a.high))
                return widened(
                    np.minimum(b.low, 0.0) - error, np.maximum(b.high, 0.0) + error, edge
                )
            case BinaryOp.POW:
                return _power(a, b, nan)


def _corners(f: Callable[[Any, Any], Any], a: Floats, b: Floats, nan: BoolArray) -> Floats:
    corners = [f(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return widened(reduce(np.minimum, corners), reduce(np.maximum, corners), nan)


def _divide(a: Floats, b: Floats, nan: BoolArray) -> Floats:
    zero = (b.low <= 0) & (b.high >= 0)
    quotient = _corners(np.divide, a, b, nan | (_infinite(a) & _infinite(b)))
    return Floats(
        np.where(zero, -np.inf, quotient.low),
        np.where(zero, np.inf, quotient.high),
        quotient.nan | zero,
    )


def _or_zero(quotient: Floats, b: Floats) -> Floats:
    """`//` by 0 gives 0; by infinity it gives -1 or 0, by whichever formula."""
    zero = ((b.low <= 0) & (b.high >= 0)) | _infinite(b)
    return Floats(
        np.where(zero, np.minimum(quotient.low, -1.0), quotient.low),
        np.where(zero, np.maximum(quotient.high, 0.0), quotient.high),
        quotient.nan,
    )


def _power(a: Floats, b: Floats, nan: BoolArray) -> Floats:
    """Bound `a ** b`: by its corners for a positive base, anything else may be NaN."""
    result = _corners(np.power, a, b, nan)
    positive = a.low > 0
    return Floats(
        np.where(positive, result.low, -np.inf),
        np.where(positive, result.high, np.inf),
        result.nan | ~positive,
    )


def integer_power(a: Floats, exponent: int) -> Floats:
    """Bound `a ** exponent` for a constant, non-negative int."""
    with np.errstate(all="ignore"):
        result = _corners(lambda x, _: np.power(x, float(exponent)), a, a, a.nan)
    if exponent % 2 == 0 and exponent > 0:
        across = (a.low <= 0) & (a.high >= 0)
        return Floats(np.where(across, 0.0, result.low), result.high, result.nan)
    return result


def negate(a: Floats) -> Floats:
    """Bound `-a`."""
    return Floats(-a.high, -a.low, a.nan)


def apply_function(function: Function, args: list[Floats]) -> Floats:
    """Bound an elementwise function of floats."""
    a = args[0]
    nan = reduce(np.logical_or, (x.nan for x in args))
    match function:
        case Function.MIN | Function.MAX:
            pick = np.minimum if function == Function.MIN else np.maximum
            low, high = (reduce(pick, [x.low for x in args]), reduce(pick, [x.high for x in args]))
            return _with_skipped_nan(args, low, high, nan)
        case Function.CLAMP:
            low = np.minimum(np.maximum(a.low, args[1].low), args[2].low)
            high = np.minimum(np.maximum(a.high, args[1].high), args[2].high)
            return _with_skipped_nan(args, low, high, nan)
        case Function.ABS:
            low = np.maximum(np.maximum(a.low, -a.high), 0.0)
            return Floats(low, np.maximum(-a.low, a.high), nan)
        case Function.SIN | Function.COS:
            return widened(-1.0, 1.0, nan | _infinite(a), _FUNCTION_MARGIN)
        case Function.GELU | Function.SILU:
            with np.errstate(all="ignore"):
                low = np.where(a.low >= 0, apply(function, [a.low]), -_FLAT)
                high = np.where(a.high > 0, apply(function, [a.high]), 0.0)
            return widened(low, high, nan | np.isneginf(a.low), _FUNCTION_MARGIN)
        case Function.RSQRT:
            root = apply_function(Function.SQRT, [a])
            return arithmetic(BinaryOp.DIV, point(1.0), root)
        case _ if function in _RISING:
            return _rising(function, a, nan)
    return anything()


def _rising(function: Function, a: Floats, nan: BoolArray) -> Floats:
    edge = _DOMAIN.get(function, -1.0 if function == Function.LOG1P else -np.inf)
    outside = a.low < edge
    with np.errstate(all="ignore"):
        low = apply(function, [np.maximum(a.low, edge)])
        high = apply(function, [np.maximum(a.high, edge)])
    if function in _EXACT:
        return Floats(low, high, nan)
    return widened(low, high, nan | outside, _FUNCTION_MARGIN)


def _with_skipped_nan(
    args: list[Floats], low: FloatArray, high: FloatArray, nan: BoolArray
) -> Floats:
    """Where an argument may be NaN, an implementation may return another argument or NaN."""
    lows = reduce(np.minimum, [x.low for x in args])
    highs = reduce(np.maximum, [x.high for x in args])
    return Floats(np.where(nan, lows, low), np.where(nan, highs, high), nan)


def _has(a: Floats, value: float) -> BoolArray:
    return np.asarray((a.low == value) | (a.high == value))


def _infinite(a: Floats) -> BoolArray:
    return np.isinf(a.low) | np.isinf(a.high)


def _zero_times_inf(a: Floats, b: Floats) -> BoolArray:
    return np.asarray((a.low <= 0) & (a.high >= 0) & _infinite(b))
