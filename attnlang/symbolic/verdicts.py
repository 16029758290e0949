"""Three-valued bools, for all tiles of a mask at once.

Maps what the operands may be to what the result may be. A condition over a tile may be true
somewhere, false somewhere, or both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnlang.ir.nodes import CompareOp
from attnlang.symbolic.float_intervals import Floats
from attnlang.symbolic.int_intervals import Ints

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]

EMPTY, FULL, UNKNOWN = np.int8(0), np.int8(1), np.int8(2)


@dataclass(frozen=True, slots=True)
class Bools:
    """Whether a condition may be true, and whether it may be false, somewhere in each tile."""

    true: BoolArray
    false: BoolArray

    @property
    def verdict(self) -> npt.NDArray[np.int8]:
        """Return EMPTY, FULL or UNKNOWN for each tile."""
        return np.where(~self.true, EMPTY, np.where(~self.false, FULL, UNKNOWN)).astype(np.int8)


def point(value: bool | BoolArray) -> Bools:
    """Return a condition that is known."""
    value = np.asarray(value, np.bool_)
    return Bools(value, ~value)


def anything() -> Bools:
    """Return a condition of which nothing is known."""
    return Bools(np.asarray(True), np.asarray(True))


def conjunction(a: Bools, b: Bools) -> Bools:
    """Judge `a and b`."""
    return Bools(a.true & b.true, a.false | b.false)


def disjunction(a: Bools, b: Bools) -> Bools:
    """Judge `a or b`."""
    return Bools(a.true | b.true, a.false & b.false)


def negation(a: Bools) -> Bools:
    """Judge `not a`."""
    return Bools(a.false, a.true)


def compare(op: CompareOp, a: Ints | Floats, b: Ints | Floats) -> Bools:
    """Judge `a op b`; a comparison with NaN is false, but for `!=`."""
    least_a, greatest_a, nan_a = _extremes(a)
    least_b, greatest_b, nan_b = _extremes(b)
    nan = nan_a | nan_b
    match op:
        case CompareOp.LT:
            return Bools(least_a < greatest_b, (greatest_a >= least_b) | nan)
        case CompareOp.LE:
            return Bools(least_a <= greatest_b, (greatest_a > least_b) | nan)
        case CompareOp.GT:
            return compare(CompareOp.LT, b, a)
        case CompareOp.GE:
            return compare(CompareOp.LE, b, a)
        case CompareOp.EQ:
            meet = (least_a <= greatest_b) & (least_b <= greatest_a)
            same = (least_a == greatest_b) & (least_b == greatest_a)  # so all four are one
            return Bools(meet, ~same | nan)
        case CompareOp.NE:
            return negation(compare(CompareOp.EQ, a, b))


def _extremes(a: Ints | Floats) -> tuple[Array, Array, BoolArray]:
    if isinstance(a, Ints):
        return a.least, a.greatest, np.asarray(False)
    return a.low, a.high, a.nan


def compare_bools(op: CompareOp, a: Bools, b: Bools) -> Bools:
    """Judge `a == b` or `a != b` of two conditions."""
    equal = Bools((a.true & b.true) | (a.false & b.false), (a.true & b.false) | (a.false & b.true))
    return equal if op == CompareOp.EQ else negation(equal)
