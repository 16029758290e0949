"""A mask in closed form: its boolean structure, and the comparisons in it solved.

Maps a condition and a direction to a `Tree`, bottom up, each shared node once. What no rule solves
stays as `Unsolved`, which is always safe.
"""

from __future__ import annotations

from attnlang.ir.nodes import (
    BOOL,
    FLOAT,
    INT,
    Call,
    Cast,
    Compare,
    CompareOp,
    Const,
    Expr,
    Function,
    Kind,
    Logic,
    LogicOp,
    Select,
    Unary,
)
from attnlang.ir.traverse import walk
from attnlang.symbolic.build import MIRRORED, const
from attnlang.symbolic.range_tree import (
    ALL,
    NONE,
    Condition,
    Direction,
    Guarded,
    Tree,
    Unsolved,
    complement,
    intersection,
    leaves,
    union,
)
from attnlang.symbolic.solve_ints import IntSolver
from attnlang.symbolic.variability import Variabilities

_MAX_LEAVES = 64  # of one tree: it is evaluated for each block
_EXACT = 2.0**24  # ints up to here are floats of 32 bits; above, rounding keeps their order


def solve(mask: Expr, direction: Direction) -> Tree:
    """Return the closed form of a mask, solved for the keys of rows or the rows of keys."""
    return _MaskSolver(direction).solve(mask)


class _MaskSolver:
    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self._variabilities = Variabilities()
        self._trees: dict[int, Tree] = {}

    def solve(self, mask: Expr) -> Tree:
        for node in walk(mask):
            if node.type == BOOL:
                self._trees[id(node)] = _bounded(node, self._node(node))
        return self._trees[id(mask)]

    def _of(self, expr: Expr) -> Tree:
        return self._trees[id(expr)]

    def _reads(self, expr: Expr) -> bool:
        return not self._variabilities.of(expr).isdisjoint(
            {self._direction.letter, "raw", "acc", "d"}
        )

    def _node(self, expr: Expr) -> Tree:
        if not self._reads(expr):
            if isinstance(expr, Const):
                return ALL if expr.value else NONE
            return Condition(expr)
        match expr:
            case Logic(op, left, right):
                join = intersection if op == LogicOp.AND else union
                return join((self._of(left), self._of(right)))
            case Unary(_, operand):
                return complement(self._of(operand))
            case Select(condition, then, otherwise):
                return _choice(self._of(condition), self._of(then), self._of(otherwise))
            case Compare(_, left, _):
                match left.type.kind:
                    case Kind.BOOL:
                        return self._bools(expr)
                    case Kind.INT:
                        return IntSolver(self._direction, self._reads, self._of).compare(expr)
                    case Kind.FLOAT:
                        return self._floats(expr)
        return Unsolved(expr, "a tensor is read")

    def _bools(self, expr: Compare) -> Tree:
        """Solve `a == b`, which is `b if a else not b`."""
        a, b = self._of(expr.left), self._of(expr.right)
        equal = union((intersection((a, b)), intersection((complement(a), complement(b)))))
        return equal if expr.op == CompareOp.EQ else complement(equal)

    def _floats(self, expr: Compare) -> Tree:
        """Solve `float(F) < x` as `F < ceil(x)`, and so on: for |x| < 2 ** 24, in float32 too."""
        match expr:
            case Compare(_, Cast(x), y) if x.type == INT and not self._reads(y):
                ordered = expr
            case Compare(op, y, Cast(x)) if x.type == INT and not self._reads(y):
                ordered = Compare(MIRRORED[op], Cast(x, FLOAT, span=expr.span), y, span=expr.span)
            case _:
                return Unsolved(expr, "floats that no rule solves")
        span = expr.span

        def relation(op: CompareOp, rounding: Function) -> Tree:
            whole = Cast(Call(rounding, (y,), FLOAT, span=span), INT, span=span)
            ends = const(-int(_EXACT), span), const(int(_EXACT), span)
            bound = Call(Function.CLAMP, (whole, *ends), INT, span=span)
            comparison = Compare(op, x, bound, span=span)
            return IntSolver(self._direction, self._reads, self._of).compare(comparison)

        match ordered.op:
            case CompareOp.LE | CompareOp.GT:
                tree = relation(ordered.op, Function.FLOOR)
            case CompareOp.LT | CompareOp.GE:
                tree = relation(ordered.op, Function.CEIL)
            case CompareOp.EQ | CompareOp.NE:
                below = relation(CompareOp.LE, Function.FLOOR)
                equal = intersection((below, relation(CompareOp.GE, Function.CEIL)))
                tree = equal if ordered.op == CompareOp.EQ else complement(equal)
        if isinstance(tree, Unsolved):
            return Unsolved(expr, tree.reason)
        low = Compare(CompareOp.LT, const(-_EXACT, span), y, span=span)
        high = Compare(CompareOp.LT, y, const(_EXACT, span), span=span)
        return Guarded(Logic(LogicOp.AND, low, high, span=span), tree)


def _choice(condition: Tree, then: Tree, otherwise: Tree) -> Tree:
    return union(
        (
            intersection((condition, then)),
            intersection((complement(condition), otherwise)),
            intersection((then, otherwise)),
        )
    )


def _bounded(expr: Expr, tree: Tree) -> Tree:
    return tree if len(leaves(tree)) <= _MAX_LEAVES else Unsolved(expr, "too many alternatives")
