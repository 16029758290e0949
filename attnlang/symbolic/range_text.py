"""Ranges as mathematics, for people.

Maps a mask and a direction to the text of its closed form: `max(0, i0 - w + 1) .. i1` for the keys
of the query rows at positions i0 to i1. Positions are written as with no `kv_offset`, where those
of the keys run from 0 to KV - 1 and those of the queries from KV - Q to KV - 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import assert_never

from attnlang.ir.nodes import (
    BOOL,
    INT,
    Binary,
    BinaryOp,
    Call,
    Compare,
    Const,
    Coord,
    CoordName,
    Expr,
    Function,
    Scalar,
    Unary,
    UnaryOp,
)
from attnlang.ir.printer import print_expr
from attnlang.symbolic.affine import Affine, affine, build_sum
from attnlang.symbolic.build import conjuncts, const
from attnlang.symbolic.range_tree import (
    Complement,
    Condition,
    Direction,
    Guarded,
    HalfLine,
    Intersection,
    Side,
    Tree,
    Union,
    Unsolved,
    leaves,
    parts_of,
)
from attnlang.symbolic.solve_mask import solve
from attnlang.symbolic.variability import variability

_MAX_PIECES = 16
_WIDE = 2**24  # a clamp to so much is the solver's own
_FIRST_LAST = {
    CoordName.Q_IDX: ("i0", "i1"),
    CoordName.Q_ROW: ("r0", "r1"),
    CoordName.KV_IDX: ("j0", "j1"),
    CoordName.KV_COL: ("c0", "c1"),
}


@dataclass(frozen=True, slots=True)
class RangeText:
    """The closed form of a mask as text.

    `may` holds alternatives: outside all of them every element is false. Inside one of `must` every
    element is true. `provided` is what the form takes for granted and a kernel checks; `unsolved`
    are the conditions left to tile verdicts, each with the reason.
    """

    direction: Direction
    may: tuple[str, ...]
    must: tuple[str, ...]
    provided: tuple[str, ...]
    unsolved: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Say it in a few lines."""
        keys = self.direction == Direction.KEYS
        block = "keys of query rows [i0, i1]" if keys else "query rows of keys [j0, j1]"
        lines = [f"{block}: {_joined(self.may)}", f"all kept: {_joined(self.must)}"]
        lines += [f"provided {x}" for x in self.provided]
        lines += [f"by tile verdicts: {x} ({why})" for x, why in self.unsolved]
        return "\n".join(lines)


def describe_ranges(mask: Expr, direction: Direction = Direction.KEYS) -> RangeText:
    """Return the closed form of a mask as text."""
    tree = solve(mask, direction)
    found = leaves(tree)
    return RangeText(
        direction=direction,
        may=_texts(tree, direction, generous=True),
        must=_texts(tree, direction, generous=False),
        provided=_unique(
            print_expr(_tidy(t)) for g in _guards(tree) for t in conjuncts(g) if not _is_width(t)
        ),
        unsolved=tuple(
            dict.fromkeys(
                (print_expr(_tidy(u.expr)), u.reason) for u in found if isinstance(u, Unsolved)
            )
        ),
    )


def _joined(pieces: tuple[str, ...]) -> str:
    return " and ".join(pieces) if pieces else "none"


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _is_width(guard: Expr) -> bool:
    """Whether a guard says no more than that a number is not huge."""
    match guard:
        case Compare(_, Const(value), _) | Compare(_, _, Const(value)):
            return abs(value) >= _WIDE
    return False


def _guards(tree: Tree) -> list[Expr]:
    own = [tree.guard] if isinstance(tree, Guarded) else []
    return own + [g for part in parts_of(tree) for g in _guards(part)]


@dataclass(frozen=True, slots=True)
class _Bound:
    side: Side
    text: str


@dataclass(frozen=True, slots=True)
class _Where:
    text: str


_Literal = _Bound | _Where
_Piece = tuple[_Literal, ...]  # all of them


def _texts(tree: Tree, direction: Direction, *, generous: bool) -> tuple[str, ...]:
    pieces = _Pieces(direction, generous).of(tree, negated=False)
    if pieces is None:
        return ("any",) if generous else ()
    return _unique(_text(piece, direction) for piece in pieces)


def _text(piece: _Piece, direction: Direction) -> str:
    lower = _unique(x.text for x in piece if isinstance(x, _Bound) and x.side == Side.LEAST)
    upper = _unique(x.text for x in piece if isinstance(x, _Bound) and x.side == Side.MOST)
    where = _unique(x.text for x in piece if isinstance(x, _Where))
    first = "0" if direction == Direction.KEYS else "KV - Q"
    if not any(x.isdigit() for x in lower) or first != "0":
        lower = (first, *(x for x in lower if x != first))
    text = f"{_extreme_of('max', lower)} .. {_extreme_of('min', upper or ('KV - 1',))}"
    return f"{text} where {' and '.join(where)}" if where else text


def _extreme_of(name: str, texts: tuple[str, ...]) -> str:
    return texts[0] if len(texts) == 1 else f"{name}({', '.join(texts)})"


@dataclass(frozen=True, slots=True)
class _Pieces:
    """A tree as alternatives, each a conjunction."""

    direction: Direction
    generous: bool

    def of(self, tree: Tree, *, negated: bool) -> list[_Piece] | None:
        """Return the alternatives of a tree, or of its complement; None for too many."""
        match tree:
            case HalfLine():
                return [(self._bound(tree, negated),)]
            case Condition(expr):
                return [(self._where(expr, negated),)]
            case Unsolved():
                return [()] if self.generous else []
            case Guarded(_, part):
                return self.of(part, negated=negated)
            case Complement(part):
                return self.of(part, negated=not negated)
            case Union(parts) | Intersection(parts):
                found = [self.of(part, negated=negated) for part in parts]
                alternatives = [x for x in found if x is not None]
                if len(alternatives) < len(found):
                    return None
                if isinstance(tree, Union) != negated:
                    pieces = [piece for each in alternatives for piece in each]
                else:
                    pieces = [()]
                    for each in alternatives:
                        pieces = [a + b for a, b in product(pieces, each)]
                        if len(pieces) > _MAX_PIECES:
                            return None
                return pieces if len(pieces) <= _MAX_PIECES else None
            case _:
                assert_never(tree)

    def _bound(self, line: HalfLine, negated: bool) -> _Bound:
        side, bound = line.side, line.bound
        if negated:
            found = affine(bound)
            assert found is not None
            step = -1 if side == Side.LEAST else 1
            bound = build_sum(found.minus(Affine((), -step)), bound.span)
            side = side.other
        text = self._extreme(bound, least=self.generous == (side == Side.LEAST))
        if line.coord in (CoordName.Q_ROW, CoordName.KV_COL) and self.direction == Direction.ROWS:
            text = f"{text} + KV - Q"
        return _Bound(side, text)

    def _extreme(self, bound: Expr, *, least: bool) -> str:
        found = _monotone(_tidy(bound), least)
        if found is not None:
            return print_expr(found)
        return f"{'least' if least else 'greatest'}({print_expr(_tidy(bound))})"

    def _where(self, expr: Expr, negated: bool) -> _Where:
        if negated:
            expr = Unary(UnaryOp.NOT, expr, BOOL, span=expr.span)
        block = "q" if self.direction == Direction.KEYS else "kv"
        text = print_expr(_tidy(expr))
        if block not in variability(expr):
            return _Where(text)
        return _Where(f"{text} for {'some' if self.generous else 'each'}")


def _tidy(expr: Expr) -> Expr:
    """Leave out what the solver put in for the machine's sake."""
    match expr:
        case Call(Function.CLAMP, (x, Const(), Const(int(high)))) if high >= _WIDE:
            return _tidy(x)
        case Unary():
            return replace(expr, operand=_tidy(expr.operand))
        case Binary():
            expr = replace(expr, left=_tidy(expr.left), right=_tidy(expr.right))
            found = affine(expr) if expr.type == INT else None
            return expr if found is None else build_sum(found, expr.span)
        case Call():
            return replace(expr, args=tuple(_tidy(x) for x in expr.args))
    return expr


def _monotone(expr: Expr, least: bool) -> Expr | None:
    """Return the least or the greatest value over the block, by its first and last position."""
    if variability(expr).isdisjoint({"q", "kv"}):
        return expr
    match expr:
        case Coord(name) if name in _FIRST_LAST:
            return Scalar(_FIRST_LAST[name][0 if least else 1], INT, span=expr.span)
        case Unary(UnaryOp.NEG, x):
            return _rebuilt(expr, (_monotone(x, not least),))
        case Binary(BinaryOp.ADD, a, b):
            return _rebuilt(expr, (_monotone(a, least), _monotone(b, least)))
        case Binary(BinaryOp.SUB, a, b):
            return _rebuilt(expr, (_monotone(a, least), _monotone(b, not least)))
        case Binary(BinaryOp.MUL, a, Const(int(n))):
            return _rebuilt(expr, (_monotone(a, least == (n > 0)), const(n, expr.span)))
        case Binary(BinaryOp.FLOORDIV | BinaryOp.MUL, a, b) if not variability(b) & {"q", "kv"}:
            # The solver divides and multiplies by what is positive, or guarded to be.
            return _rebuilt(expr, (_monotone(a, least), b))
        case Call(Function.MIN | Function.MAX | Function.CLAMP, args):
            return _rebuilt(expr, tuple(_monotone(x, least) for x in args))
    return None


def _rebuilt(expr: Expr, operands: tuple[Expr | None, ...]) -> Expr | None:
    known = tuple(x for x in operands if x is not None)
    if len(known) < len(operands):
        return None
    match expr:
        case Unary():
            return replace(expr, operand=known[0])
        case Binary():
            return replace(expr, left=known[0], right=known[1])
        case Call():
            return replace(expr, args=known)
    return None
