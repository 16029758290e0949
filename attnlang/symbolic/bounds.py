"""Bounds of a score in closed form: an interval whose ends are expressions over the call.

Maps a scalar expression of the IR to a lower and an upper end made of parameters, sizes and
constants, each None where there is none: `cap * tanh(score / cap)` lies in [-cap, cap], `scale *
dot(l2_norm(q), l2_norm(k))` in [-abs(scale), abs(scale)] by Cauchy-Schwarz. Invariant: for every
call with finite inputs that meets the variant's requirements, the value in real arithmetic lies
between the ends; a kernel's differs by its rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnlang.ir.nodes import (
    FLOAT,
    INT,
    Anchor,
    Binary,
    BinaryOp,
    Call,
    CallScale,
    Cast,
    Const,
    Coord,
    CoordName,
    Expr,
    Function,
    Kind,
    L2Norm,
    Raw,
    RmsNorm,
    Rope,
    Scalar,
    Select,
    Size,
    Slice,
    Unary,
    UnaryOp,
    Variant,
)
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import children, walk
from attnlang.symbolic.bound_arithmetic import (
    UNKNOWN,
    BoundArithmetic,
    Bounds,
    between,
    cast,
    finite,
    hull,
    negated,
    symmetric,
)
from attnlang.symbolic.build import binary, const, negate
from attnlang.symbolic.evaluate import Leaf, evaluate
from attnlang.symbolic.magnitudes import cannot_wrap
from attnlang.symbolic.signs import Signs, signs_of
from attnlang.symbolic.simplify import Simplifier

__all__ = ["Bounds", "bounds", "bounds_at", "describe_bounds", "score_bounds"]

_EXTENTS = {
    CoordName.B: "B",
    CoordName.H: "HQ",
    CoordName.H_KV: "HKV",
    CoordName.Q_ROW: "Q",
    CoordName.KV_COL: "KV",
}


def score_bounds(variant: Variant) -> Bounds:
    """Return bounds of softmax's argument, or of the last score where there is no softmax."""
    argument = variant.weights.softmax
    return bounds(variant.score if argument is None else argument, variant)


def bounds(
    expr: Expr, variant: Variant, signs: Signs | None = None, *, fixed_lengths: bool = True
) -> Bounds:
    """Return the bounds of a scalar expression of a variant, simplified.

    `signs` is what is known, by default by the variant's requirements. Without `fixed_lengths` the
    ends are in terms of the tensors' `Q` and `KV`, which a request's own may stay below.
    """
    run = Simplifier()
    rules = BoundArithmetic(signs_of(variant.requires) if signs is None else signs)
    found = _Bounder(variant, rules, fixed_lengths).of(run.simplify(expr))
    low, high = (None if e is None else run.simplify(e) for e in (found.low, found.high))
    return Bounds(finite(low), finite(high))


def describe_bounds(found: Bounds, name: str = "score") -> str:
    """Return the bounds as mathematics: `abs(score) <= cap`; of an unbounded one, "unbounded"."""
    low, high = found.low, found.high
    if low is None and high is None:
        return "unbounded"
    if low is None:
        assert high is not None
        return f"{name} <= {print_expr(high)}"
    if high is None:
        return f"{print_expr(low)} <= {name}"
    if Simplifier().simplify(negate(low)) == high:
        return f"abs({name}) <= {print_expr(high)}"
    return f"{print_expr(low)} <= {name} <= {print_expr(high)}"


def bounds_at(
    found: Bounds,
    scalars: Mapping[str, bool | int | float],
    sizes: Mapping[str, int],
    scale: float,
) -> tuple[float, float]:
    """Return the ends at given parameters, sizes and call's scale; infinite where unknown."""

    def leaf(node: Leaf) -> object:
        match node:
            case Scalar(name):
                return scalars[name]
            case Size(name):
                return sizes[name]
            case CallScale():
                return scale
        raise AssertionError(f"{type(node).__name__} in a bound")

    def read(name: str, _: object) -> object:
        raise AssertionError(f"{name} is read in a bound")

    def at(end: Expr | None, unknown: float) -> float:
        return unknown if end is None else float(evaluate(end, leaf, read))

    return at(found.low, -float("inf")), at(found.high, float("inf"))


@dataclass(frozen=True, slots=True)
class _Bounder:
    """Bounds of every node of an expression, its operands first."""

    variant: Variant
    arithmetic: BoundArithmetic
    fixed_lengths: bool

    def of(self, root: Expr) -> Bounds:
        known: dict[int, Bounds] = {}
        for node in walk(root):
            if not node.type.vector:
                operands = [known.get(id(c), UNKNOWN) for c in children(node)]
                known[id(node)] = self._node(node, operands)
        return known[id(root)]

    def _node(self, expr: Expr, x: list[Bounds]) -> Bounds:
        if expr.type.kind == Kind.BOOL or (expr.type == INT and not cannot_wrap(expr)):
            return UNKNOWN
        match expr:
            case Size("Q" | "KV") if not self.fixed_lengths:
                return Bounds(const(0, expr.span), expr)
            case Const() | Scalar() | Size() | CallScale():
                return Bounds(expr, expr)
            case Coord(name) if name in _EXTENTS:
                extent = Size(_EXTENTS[name], span=expr.span)
                one = const(1, expr.span)
                return Bounds(const(0, expr.span), binary(BinaryOp.SUB, extent, one, expr.span))
            case Anchor(CoordName.Q_ROW):
                return self._node(Coord(CoordName.Q_ROW, span=expr.span), x)
            case Raw():
                return self._raw(expr)
            case Unary(UnaryOp.NEG):
                return negated(x[0])
            case Binary(op):
                return self.arithmetic.arithmetic(expr, op, *x)
            case Select(_, then, otherwise):
                return x[1] if then == otherwise else hull(x[1], x[2])
            case Cast(operand, kind):
                if operand.type.kind == Kind.BOOL:
                    return between(0, 1, expr)
                return Bounds(*(cast(end, kind.kind) for end in (x[0].low, x[0].high)))
            case Call(function):
                return self.arithmetic.call(expr, function, x)
        return UNKNOWN

    def _raw(self, expr: Raw) -> Bounds:
        """Bound `scale * dot(q', k')` by Cauchy-Schwarz."""
        q, k = self._norm(self.variant.q), self._norm(self.variant.k)
        scale = self.arithmetic.magnitude(self.of(self.variant.scale))
        if q is None or k is None or scale is None:
            return UNKNOWN
        root = isinstance(q, Call) and q == k
        product = (
            q.args[0] if root and isinstance(q, Call) else binary(BinaryOp.MUL, q, k, expr.span)
        )
        return symmetric(binary(BinaryOp.MUL, scale, product, expr.span))

    def _norm(self, vector: Expr) -> Expr | None:
        """Return an upper bound of a vector's Euclidean norm."""
        match vector:
            case L2Norm():
                return const(1.0, vector.span)
            case RmsNorm(operand, None) if not any(isinstance(e, Slice) for e in walk(operand)):
                size = Cast(Size("D", span=vector.span), FLOAT, span=vector.span)
                return Call(Function.SQRT, (size,), FLOAT, span=vector.span)
            case Rope(operand) | Slice(operand) | Unary(UnaryOp.NEG, operand):
                return self._norm(operand)
            case Binary(BinaryOp.MUL | BinaryOp.DIV as op, x, y) if not y.type.vector:
                return self._scaled_norm(op, x, y)
            case Binary(BinaryOp.MUL, x, y) if not x.type.vector:
                return self._scaled_norm(BinaryOp.MUL, y, x)
        return None

    def _scaled_norm(self, op: BinaryOp, vector: Expr, factor: Expr) -> Expr | None:
        norm = self._norm(vector)
        if norm is None:
            return None
        product = Binary(op, norm, factor, FLOAT, span=vector.span)
        length = Bounds(norm, norm)
        scaled = self.arithmetic.arithmetic(product, op, length, self.of(factor))
        return self.arithmetic.magnitude(scaled)
