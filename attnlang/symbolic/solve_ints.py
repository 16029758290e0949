"""Solving a comparison of ints for one coordinate: `F <= G`, where F reads it and G does not.

Maps `F <= G` or `F >= G` to a `Tree`. F is a sum in which one term reads the coordinate; what else
it holds goes to the other side, and a named rule takes the term apart, until the coordinate stands
alone. `NoWrap` has shown (or guards) that ints do not wrap, so the rules are those of mathematics.
"""

from __future__ import annotations

from collections.abc import Callable

from attnlang.ir.nodes import (
    BOOL,
    INT,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
    CompareOp,
    Const,
    Coord,
    Expr,
    Function,
    Select,
)
from attnlang.symbolic.affine import Affine, affine, build_sum
from attnlang.symbolic.build import MIRRORED, binary, conjunction, const, negate
from attnlang.symbolic.no_wrap import NoWrap
from attnlang.symbolic.range_tree import (
    Direction,
    Guarded,
    HalfLine,
    Side,
    Tree,
    Unsolved,
    complement,
    intersection,
    union,
)
from attnlang.symbolic.relations import (
    ceil_divide,
    decided,
    floor_divide,
    minus,
    negated,
    plus,
    relate,
    within,
)

_MAX_COEFFICIENT = 2**20
_MAX_STEPS = 256  # of one comparison


class IntSolver:
    """Solves one comparison; what it needs to hold at run time is in `no_wrap.guards`."""

    def __init__(
        self,
        direction: Direction,
        reads: Callable[[Expr], bool],
        condition: Callable[[Expr], Tree],
    ) -> None:
        self.direction = direction
        self.reads = reads  # whether an expression reads the solved coordinate
        self.condition = condition  # the tree of a condition that stands inside the comparison
        self.no_wrap = NoWrap(lambda e: not reads(e))
        self._steps = 0

    def compare(self, comparison: Compare) -> Tree:
        """Return the tree of a comparison of ints that reads the coordinate."""
        op, left, right = comparison.op, comparison.left, comparison.right
        if not self.reads(left):
            op, left, right = MIRRORED[op], right, left
        bounds = self.no_wrap.range(left)
        if bounds is None:
            return Unsolved(comparison, "64 bits may not hold it, or it reads a tensor")
        if self.reads(right):
            if self.no_wrap.range(right) is None:
                return Unsolved(comparison, "64 bits may not hold it, or it reads a tensor")
            left = binary(BinaryOp.SUB, left, right, comparison.span)
            right = const(0, comparison.span)
        elif self.no_wrap.static(right) is None:
            right = within(right, bounds[0] - 1, bounds[1] + 1)
        return self._guard(comparison, self._relation(op, left, right))

    def _relation(self, op: CompareOp, left: Expr, right: Expr) -> Tree:
        match op:
            case CompareOp.LE:
                return self.half(Side.MOST, left, right)
            case CompareOp.LT:
                return self.half(Side.MOST, left, plus(right, -1))
            case CompareOp.GE:
                return self.half(Side.LEAST, left, right)
            case CompareOp.GT:
                return self.half(Side.LEAST, left, plus(right, 1))
            case CompareOp.EQ:
                return intersection(self.half(side, left, right) for side in Side)
            case CompareOp.NE:
                return complement(self._relation(CompareOp.EQ, left, right))

    def _guard(self, comparison: Compare, tree: Tree) -> Tree:
        if not self.no_wrap.guards or isinstance(tree, Unsolved):
            return tree
        return Guarded(conjunction(tuple(self.no_wrap.guards), comparison.span), tree)

    def half(self, side: Side, left: Expr, bound: Expr) -> Tree:
        """Solve `left >= bound` or `left <= bound`."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            return Unsolved(relate(side, left, bound), "it takes too many steps")
        if not self.reads(left):
            return decided(side, left, bound)
        found = affine(left)
        if found is None:
            return Unsolved(relate(side, left, bound), "a sum of too many terms")
        terms = [(t, c) for t, c in found.terms if self.reads(t)]
        rest = Affine(tuple((t, c) for t, c in found.terms if not self.reads(t)), found.constant)
        if not terms:
            return decided(side, build_sum(rest, left.span), bound)
        (term, factor), *others = terms
        if others or abs(factor) > _MAX_COEFFICIENT:
            return Unsolved(relate(side, left, bound), f"several terms read the {self.direction}")
        return self._term(*_isolated(side, term, factor, minus(bound, rest)))

    def _term(self, side: Side, term: Expr, bound: Expr) -> Tree:
        for rule in RULES:
            tree = rule(self, side, term, bound)
            if tree is not None:
                return tree
        return Unsolved(relate(side, term, bound), "no rule solves it")


def _isolated(side: Side, term: Expr, factor: int, bound: Expr) -> tuple[Side, Expr, Expr]:
    """Divide `factor * term <= bound` (or `>=`) by the factor."""
    size = const(abs(factor), bound.span)
    if factor < 0:
        side, bound = side.other, negated(bound)
    if abs(factor) == 1:
        return side, term, bound
    return side, term, (ceil_divide if side == Side.LEAST else floor_divide)(bound, size)


# The rules: each takes a term apart, or returns None.


def coordinate(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`x <= G`: solved."""
    if not isinstance(term, Coord):
        return None
    if solver.no_wrap.range(bound) is None:
        return Unsolved(relate(side, term, bound), "64 bits may not hold its bound")
    return HalfLine(term.name, side, bound)


def quotient(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`F // n <= G` is `F <= G * n + n - 1` and `F // n >= G` is `F >= G * n`, for n > 0."""
    match term:
        case Binary(BinaryOp.FLOORDIV, x, n) if not solver.reads(n):
            span = term.span
        case _:
            return None
    if isinstance(n, Const) and n.value < 0:
        x, n = negate(x), const(-int(n.value), span)
    if not solver.no_wrap.positive(n):
        return None
    first = binary(BinaryOp.MUL, bound, n, span)
    if side == Side.LEAST:
        return solver.half(side, x, first)
    return solver.half(side, x, binary(BinaryOp.ADD, first, plus(n, -1), span))


def remainder(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`F % n`, for n > 0, is from 0 to n - 1; between them it is periodic and stays unsolved."""
    match term:
        case Binary(BinaryOp.MOD, _, n) if not solver.reads(n) and solver.no_wrap.positive(n):
            first, last = const(0, term.span), plus(n, -1)
        case _:
            return None
    always, sometimes = (first, last) if side == Side.LEAST else (last, first)
    periodic = Unsolved(relate(side, term, bound), "it is periodic")
    return union(
        (
            decided(side, always, bound),
            intersection((decided(side, sometimes, bound), periodic)),
        )
    )


def product(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`F * n <= G` is `F <= G // n`, for n > 0."""
    match term:
        case Binary(BinaryOp.MUL, x, n) if not solver.reads(n):
            pass
        case Binary(BinaryOp.MUL, n, x) if not solver.reads(n):
            pass
        case _:
            return None
    if not solver.no_wrap.positive(n):
        return None
    divide = ceil_divide if side == Side.LEAST else floor_divide
    return solver.half(side, x, divide(bound, n))


def least_and_greatest(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`min(F, H) <= G` is `F <= G or H <= G`, `min(F, H) >= G` both; `max` the other way round."""
    match term:
        case Call(Function.MIN | Function.MAX as function, args):
            parts = [solver.half(side, x, bound) for x in args]
            any_of_them = (function == Function.MIN) == (side == Side.MOST)
            return union(parts) if any_of_them else intersection(parts)
    return None


def clamped(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`clamp(x, a, b)` is `min(max(x, a), b)`."""
    match term:
        case Call(Function.CLAMP, (x, low, high)):
            raised = Call(Function.MAX, (x, low), INT, span=term.span)
            lowered = Call(Function.MIN, (raised, high), INT, span=term.span)
            return solver.half(side, lowered, bound)
    return None


def absolute(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`abs(F) <= G` is `-G <= F <= G`, `abs(F) >= G` is `F >= G or F <= -G`."""
    match term:
        case Call(Function.ABS, (x,)):
            parts = (solver.half(side, x, bound), solver.half(side.other, x, negated(bound)))
            return intersection(parts) if side == Side.MOST else union(parts)
    return None


def chosen(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`(F if c else H) <= G` is `F <= G` where c and `H <= G` where not."""
    match term:
        case Select(c, then, otherwise):
            pass
        case Cast(c) if c.type == BOOL:
            then, otherwise = const(1, term.span), const(0, term.span)
        case _:
            return None
    where = solver.condition(c)
    first, second = (solver.half(side, x, bound) for x in (then, otherwise))
    return union(
        (
            intersection((where, first)),
            intersection((complement(where), second)),
            intersection((first, second)),
        )
    )


def positive_part(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`relu(F)` is `max(F, 0)`."""
    match term:
        case Call(Function.RELU, (x,)):
            part = Call(Function.MAX, (x, const(0, term.span)), INT, span=term.span)
            return solver.half(side, part, bound)
    return None


def sign(solver: IntSolver, side: Side, term: Expr, bound: Expr) -> Tree | None:
    """`sign(F)` is `clamp(F, -1, 1)`."""
    match term:
        case Call(Function.SIGN, (x,)):
            ends = const(-1, term.span), const(1, term.span)
            return solver.half(side, Call(Function.CLAMP, (x, *ends), INT, span=term.span), bound)
    return None


Rule = Callable[[IntSolver, Side, Expr, Expr], Tree | None]

RULES: tuple[Rule, ...] = (
    coordinate,
    quotient,
    remainder,
    product,
    least_and_greatest,
    clamped,
    absolute,
    chosen,
    positive_part,
    sign,
)
