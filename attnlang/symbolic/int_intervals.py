"""Intervals of ints, for all tiles of a mask at once.

Maps bounds of the operands to bounds of the result. Ints have 64 bits and wrap. A bound of `LIMIT`
means "LIMIT or more" below and "anything" above (so does its negative, the other way round): what
cannot have wrapped keeps its bounds, what may have wrapped becomes `anything`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

LIMIT = 2**61  # the sum of two such bounds still fits
_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True)
class Ints:
    """`low <= x <= high` for each tile; the arrays broadcast against those of other intervals."""

    low: IntArray
    high: IntArray

    @property
    def saturated(self) -> BoolArray:
        """Where a bound is not known to 64 bits, so that arithmetic may wrap."""
        return (self.low <= -LIMIT) | (self.high >= LIMIT)

    @property
    def least(self) -> IntArray:
        """The least int that the interval holds."""
        return np.where(self.low <= -LIMIT, _INT64.min, self.low)

    @property
    def greatest(self) -> IntArray:
        """The greatest int that the interval holds."""
        return np.where(self.high >= LIMIT, _INT64.max, self.high)


def point(value: int | IntArray) -> Ints:
    """Return the interval of one value."""
    return between(value, value)


def between(low: int | IntArray, high: int | IntArray) -> Ints:
    """Return an interval, its bounds brought to within LIMIT."""
    return Ints(_clip(low), _clip(high))


def anything() -> Ints:
    """Return the interval of all ints."""
    return between(-LIMIT, LIMIT)


def _clip(x: int | IntArray) -> IntArray:
    if isinstance(x, int):
        x = np.asarray(min(max(x, -LIMIT), LIMIT), dtype=np.int64)
    return np.clip(x, -LIMIT, LIMIT).astype(np.int64)


def _unless(wraps: BoolArray, low: IntArray, high: IntArray) -> Ints:
    return Ints(np.where(wraps, -LIMIT, _clip(low)), np.where(wraps, LIMIT, _clip(high)))


def add(a: Ints, b: Ints) -> Ints:
    """Bound `a + b`."""
    return _unless(a.saturated | b.saturated, a.low + b.low, a.high + b.high)


def subtract(a: Ints, b: Ints) -> Ints:
    """Bound `a - b`."""
    return _unless(a.saturated | b.saturated, a.low - b.high, a.high - b.low)


def negate(a: Ints) -> Ints:
    """Bound `-a`, which wraps for the least int alone."""
    return _unless(a.low <= -LIMIT, -a.high, -a.low)


def multiply(a: Ints, b: Ints) -> Ints:
    """Bound `a * b`."""
    corners = [(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    size = _magnitude(a) * _magnitude(b)
    wraps = a.saturated | b.saturated | (size >= LIMIT)
    with np.errstate(over="ignore"):
        products = [x * y for x, y in corners]
    return _unless(wraps, _least(products), _greatest(products))


def floor_divide(a: Ints, b: Ints) -> Ints:
    """Bound `a // b`, 0 where b is 0."""
    low, high = np.asarray(LIMIT), np.asarray(-LIMIT)
    for part, there in _signed_parts(b):
        corners = [x // y for x in (a.low, a.high) for y in (part.low, part.high)]
        low = np.minimum(low, np.where(there, _least(corners), LIMIT))
        high = np.maximum(high, np.where(there, _greatest(corners), -LIMIT))
    zero = (b.low <= 0) & (b.high >= 0)
    low, high = np.where(zero, np.minimum(low, 0), low), np.where(zero, np.maximum(high, 0), high)
    return _unless(a.saturated, low, high)


def _signed_parts(b: Ints) -> list[tuple[Ints, BoolArray]]:
    """Return the negative and the positive part, each with where it is not empty."""
    negative = Ints(np.minimum(b.low, -1), np.minimum(b.high, -1))
    positive = Ints(np.maximum(b.low, 1), np.maximum(b.high, 1))
    return [(negative, b.low < 0), (positive, b.high > 0)]


def modulo(a: Ints, b: Ints) -> Ints:
    """Bound `a % b`, which has b's sign, and is 0 where b is 0."""
    low = np.where(b.low <= -LIMIT, -LIMIT, np.minimum(b.low + 1, 0))
    high = np.where(b.high >= LIMIT, LIMIT, np.maximum(b.high - 1, 0))
    small = (a.low >= 0) & (b.low > 0)  # then a % b <= a
    high = np.where(small, np.minimum(high, a.high), high)
    same = small & (a.high < b.low)  # then a % b == a
    divisor = np.where(b.low == b.high, b.low, 0)
    safe = np.where(divisor == 0, 1, divisor)
    # Within one period of a single divisor the remainder grows with a.
    period = (divisor != 0) & (a.low // safe == a.high // safe) & ~a.saturated & ~b.saturated
    low = np.where(same, a.low, np.where(period, a.low % safe, low))
    high = np.where(same, a.high, np.where(period, a.high % safe, high))
    return between(low, high)


def power(a: Ints, exponent: int) -> Ints:
    """Bound `a ** exponent` for a constant, non-negative exponent."""
    if exponent == 0:
        return point(1)
    if exponent > 62:  # of 64 bits, only 0, 1 and -1 have such a power
        return anything()
    with np.errstate(over="ignore"):
        wraps = a.saturated | (_magnitude(a) ** exponent >= LIMIT)
        corners = [a.low**exponent, a.high**exponent]
    low, high = _least(corners), _greatest(corners)
    if exponent % 2 == 0:
        low = np.where((a.low <= 0) & (a.high >= 0), 0, low)
    return _unless(wraps, low, high)


def absolute(a: Ints) -> Ints:
    """Bound `abs(a)`, which wraps for the least int alone."""
    low = np.maximum(np.maximum(a.low, -a.high), 0)
    return _unless(a.low <= -LIMIT, low, np.maximum(-a.low, a.high))


def sign(a: Ints) -> Ints:
    """Bound `sign(a)`."""
    return Ints(np.sign(a.low), np.sign(a.high))


def minimum(a: Ints, b: Ints) -> Ints:
    """Bound `min(a, b)`."""
    return Ints(np.minimum(a.low, b.low), np.minimum(a.high, b.high))


def maximum(a: Ints, b: Ints) -> Ints:
    """Bound `max(a, b)`."""
    return Ints(np.maximum(a.low, b.low), np.maximum(a.high, b.high))


def _magnitude(a: Ints) -> npt.NDArray[np.float64]:
    return np.maximum(np.abs(a.low), np.abs(a.high)).astype(np.float64)


def _least(arrays: Sequence[IntArray]) -> IntArray:
    return np.asarray(np.min(np.broadcast_arrays(*arrays), axis=0))


def _greatest(arrays: Sequence[IntArray]) -> IntArray:
    return np.asarray(np.max(np.broadcast_arrays(*arrays), axis=0))
