"""The closed form of a mask: which keys a block of query rows keeps, or the other way round.

    Tree = HalfLine | Condition | Unsolved | Guarded | Union | Intersection | Complement

One coordinate is solved for (the keys of a block of rows, or the rows of a block of keys); the rest
is known within the block. A tree stands for two sets of that coordinate: `may`, outside which no
element of the block is true, and `must`, inside which all are. A bound is an IR int expression that
does not read the solved coordinate; over the block it has a least and a greatest value, and `may`
takes the more generous of them, `must` the other. Both sets follow from the operands' by the
tree alone, a complement exchanging them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from attnlang.ir.nodes import CoordName, Expr


class Direction(StrEnum):
    """What is solved for."""

    KEYS = "keys"  # of a block of query rows
    ROWS = "rows"  # of a block of key columns

    @property
    def letter(self) -> str:
        """The solved coordinate, as variability names it."""
        return "kv" if self == Direction.KEYS else "q"

    @property
    def position(self) -> CoordName:
        """The position in the sequence that is solved for."""
        return CoordName.KV_IDX if self == Direction.KEYS else CoordName.Q_IDX


class Side(StrEnum):
    """Which half-line a bound leaves."""

    LEAST = ">="
    MOST = "<="

    @property
    def other(self) -> Side:
        """The half-line to the other side."""
        return Side.MOST if self == Side.LEAST else Side.LEAST


@dataclass(frozen=True, slots=True)
class HalfLine:
    """`coord >= bound` or `coord <= bound`."""

    coord: CoordName
    side: Side
    bound: Expr


@dataclass(frozen=True, slots=True)
class Condition:
    """Everything where the condition holds, nothing elsewhere; it reads no solved coordinate."""

    expr: Expr


@dataclass(frozen=True, slots=True)
class Unsolved:
    """A condition that no rule solves: `may` is everything, `must` nothing."""

    expr: Expr
    reason: str


@dataclass(frozen=True, slots=True)
class Guarded:
    """`part` where the guard holds over the whole block; else as `Unsolved`."""

    guard: Expr
    part: Tree


@dataclass(frozen=True, slots=True)
class Union:
    """At least one of the parts; nothing if there is none."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Intersection:
    """All of the parts; everything if there is none."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Complement:
    """All but the part."""

    part: Tree


Tree = HalfLine | Condition | Unsolved | Guarded | Union | Intersection | Complement

ALL = Intersection(())
NONE = Union(())


def union(parts: Iterable[Tree]) -> Tree:
    """Return the union, flat and without what adds nothing."""
    found: list[Tree] = []
    for part in parts:
        if part == ALL:
            return ALL
        found += part.parts if isinstance(part, Union) else (part,)
    return found[0] if len(found) == 1 else Union(tuple(found))


def intersection(parts: Iterable[Tree]) -> Tree:
    """Return the intersection, flat and without what takes nothing away."""
    found: list[Tree] = []
    for part in parts:
        if part == NONE:
            return NONE
        found += part.parts if isinstance(part, Intersection) else (part,)
    return found[0] if len(found) == 1 else Intersection(tuple(found))


def complement(part: Tree) -> Tree:
    """Return the complement; a double one is none."""
    match part:
        case Complement(inner):
            return inner
        case Union(()):
            return ALL
        case Intersection(()):
            return NONE
    return Complement(part)


def parts_of(tree: Tree) -> tuple[Tree, ...]:
    """Return the direct operands of a tree."""
    match tree:
        case Union(parts) | Intersection(parts):
            return parts
        case Complement(part) | Guarded(_, part):
            return (part,)
    return ()


def leaves(tree: Tree) -> list[Tree]:
    """Return the half-lines, conditions and unsolved parts from left to right."""
    found: list[Tree] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        below = parts_of(node)
        stack.extend(reversed(below))
        if not below and not isinstance(node, Union | Intersection):
            found.append(node)
    return found
