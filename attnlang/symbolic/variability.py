"""Which coordinates an expression depends on, and the coarsest loop that has them all.

Maps an IR expression to a set of coordinates, and that to a level. Invariant: an expression keeps
its value while every coordinate outside its variability changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import assert_never

from attnlang.ir.nodes import (
    QK,
    Anchor,
    Binary,
    Call,
    CallScale,
    Cast,
    Compare,
    Const,
    Coord,
    CoordName,
    Dot,
    Expr,
    Given,
    L2Norm,
    Load,
    Logic,
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
    Vector,
    VectorName,
)
from attnlang.ir.traverse import children

Variability = frozenset[str]  # of b, h, q, kv, d, raw, acc

_NONE: Variability = frozenset()
_ELEMENT: Variability = frozenset({"b", "h", "q", "kv", "raw"})

_COORDS: dict[CoordName, Variability] = {
    CoordName.B: frozenset({"b"}),
    CoordName.H: frozenset({"h"}),
    CoordName.H_KV: frozenset({"h"}),
    CoordName.Q_IDX: frozenset({"q", "b"}),  # an offset is the request's
    CoordName.KV_IDX: frozenset({"kv", "b"}),
    CoordName.Q_ROW: frozenset({"q"}),
    CoordName.KV_COL: frozenset({"kv"}),
    CoordName.PART: frozenset({"b"}),  # one KV part of a plan is worked on as a request
    CoordName.D: frozenset({"d"}),
}

_VECTORS: dict[VectorName, Variability] = {
    VectorName.Q: frozenset({"b", "h", "q", "d"}),
    VectorName.K: frozenset({"b", "h", "kv", "d"}),
    VectorName.V: frozenset({"b", "h", "kv", "d"}),
    VectorName.ACC: frozenset({"b", "h", "q", "d", "acc"}),
}


class Level(StrEnum):
    """The loops, from the coarsest; a row and a column are side by side."""

    CALL = "call"
    REQUEST = "request"  # one (request, head)
    ROW = "row"
    COLUMN = "column"
    ELEMENT = "element"

    @property
    def depth(self) -> int:
        """How deep the loop lies: 0 for the call, 2 for both rows and columns."""
        return _DEPTHS[self]


_DEPTHS = {Level.CALL: 0, Level.REQUEST: 1, Level.ROW: 2, Level.COLUMN: 2, Level.ELEMENT: 3}


def variability(expr: Expr) -> Variability:
    """Return the coordinates that an expression depends on."""
    return Variabilities().of(expr)


def level(expr: Expr) -> Level:
    """Return the coarsest loop that has all coordinates of an expression."""
    return level_of(variability(expr))


def level_of(coords: Iterable[str]) -> Level:
    """Return the coarsest loop that has these coordinates."""
    have = frozenset(coords)
    if have & {"raw", "acc", "d"} or {"q", "kv"} <= have:
        return Level.ELEMENT
    if "q" in have:
        return Level.ROW
    if "kv" in have:
        return Level.COLUMN
    return Level.REQUEST if have else Level.CALL


class Variabilities:
    """Variabilities of many expressions, each shared node looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Expr, Variability]] = {}  # the node, so that its id stays its

    def of(self, expr: Expr) -> Variability:
        """Return the coordinates that an expression depends on."""
        stack = [expr]
        while id(expr) not in self._known:
            node = stack[-1]
            missing = [c for c in children(node) if id(c) not in self._known]
            if missing:
                stack += missing
                continue
            below = _NONE.union(*(self._known[id(c)][1] for c in children(node)))
            self._known[id(node)] = (node, _own(node, below))
            stack.pop()
        return self._known[id(expr)][1]

    def level(self, expr: Expr) -> Level:
        """Return the coarsest loop that has all coordinates of an expression."""
        return level_of(self.of(expr))


def _own(expr: Expr, below: Variability) -> Variability:
    """Return what a node depends on, its operands depending on `below` together."""
    match expr:
        case Const() | Scalar() | Given() | CallScale():
            return _NONE
        case Size(name):
            return frozenset({"b"}) if name in ("Q", "KV") else _NONE
        case Coord(name):
            return _COORDS[name]
        case Anchor():
            return frozenset({"b"})  # a query tile is worked on as a request
        case Vector(name):
            return _VECTORS[name]
        case Raw() | QK():
            return _ELEMENT
        case RowSum() | Lse():
            return frozenset({"b", "h", "q", "acc"})
        case Dot():
            return below - {"d"}
        case Slice() | RmsNorm() | L2Norm() | Rope():
            return below | {"d"}
        case Load() | Unary() | Binary() | Compare() | Logic() | Select() | Cast() | Call():
            return below
        case _:
            assert_never(expr)
