"""From what a kernel evaluates to what its backward evaluates beside it.

Maps `Lowered` to the derivatives of its expressions: by the dot product, which lead on to q and k,
and by each float parameter that they read. Invariant: a derivative reads the nodes of the lowered
expressions, so what the forward pass computed for an element is computed once there too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from attnlang.ir.nodes import (
    FLOAT,
    QK,
    Coord,
    CoordName,
    Dot,
    Expr,
    Load,
    Scalar,
)
from attnlang.ir.traverse import walk
from attnlang.passes.lowered import Lowered
from attnlang.symbolic.build import const, divide, multiply, subtract
from attnlang.symbolic.derivative import differentiate
from attnlang.symbolic.products import scaled
from attnlang.symbolic.simplify import Simplifier
from attnlang.symbolic.variability import Level, Variabilities, level_of

_LN2 = math.log(2)


class Source(StrEnum):
    """What is differentiated (`attnlang::cpu::Source`)."""

    ARGUMENT = "argument"  # softmax's argument; without a softmax, the weight
    FACTOR = "factor"
    SINK = "sink"
    SHIFT = "shift"


@dataclass(frozen=True, slots=True)
class Partial:
    """The derivative of one source by one read of a parameter."""

    source: Source
    variable: Load | Scalar
    slope: Expr

    @property
    def parameter(self) -> str:
        """The parameter's name."""
        variable = self.variable
        return variable.tensor if isinstance(variable, Load) else variable.name

    @property
    def reach(self) -> Level:
        """The finest loop that the read's index needs; a row and a column are side by side."""
        if isinstance(self.variable, Scalar):
            return Level.REQUEST
        levels = Variabilities()
        found = level_of(frozenset[str]().union(*(levels.of(i) for i in self.variable.indices)))
        return Level.REQUEST if found == Level.CALL else found

    @property
    def by_head(self) -> bool:
        """Whether the read's index holds the head: no two heads meet in an entry."""
        heads = (CoordName.H, CoordName.H_KV)
        return isinstance(self.variable, Load) and any(
            isinstance(i, Coord) and i.name in heads for i in self.variable.indices
        )


@dataclass(frozen=True, slots=True)
class Adjoint:
    """`argument` and `factor` are derivatives by the dot product; None: it is not read."""

    argument: Expr | None
    factor: Expr | None
    partials: tuple[Partial, ...]

    @property
    def roots(self) -> tuple[Expr, ...]:
        """All expressions that the backward adds to those of the forward kernel."""
        dots = (e for e in (self.argument, self.factor) if e is not None)
        return (*dots, *(p.slope for p in self.partials))


def adjoint(lowered: Lowered) -> Adjoint:
    """Differentiate what a kernel evaluates.

    `exponent`, `sink` and `shift` are times log2(e); their derivatives are those of the natural
    values. Raises ValueError where an expression reads a product of whole vectors, whose gradient
    is no sum over elements.
    """
    roots = (
        (Source.ARGUMENT, lowered.exponent, _LN2),
        (Source.ARGUMENT, lowered.weight, 1.0),
        (Source.FACTOR, lowered.factor, 1.0),
        (Source.SINK, lowered.sink, _LN2),
        (Source.SHIFT, lowered.shift, _LN2),
    )
    dots: dict[Source, Expr] = {}
    partials: list[Partial] = []
    run = Simplifier()
    for source, root, unit in roots:
        if root is None:
            continue
        if any(isinstance(e, Dot) for e in walk(root)):
            raise ValueError("a gradient does not go through `dot` in a score yet")
        for variable, slope in _derivatives(root, unit):
            slope = run.simplify(slope)
            if isinstance(variable, QK):
                dots[source] = slope
            else:
                partials.append(Partial(source, variable, slope))
    partials += _of_dropout(lowered, run)
    return Adjoint(dots.get(Source.ARGUMENT), dots.get(Source.FACTOR), tuple(partials))


def _of_dropout(lowered: Lowered, run: Simplifier) -> Iterator[Partial]:
    """Yield what reaches a dropout's probability: an element that is kept is divided by 1 - p."""
    p = lowered.dropout
    if p is None:
        return
    soft = lowered.exponent is not None
    kept = lowered.factor if soft else lowered.weight
    below = subtract(const(1.0, p.span), p)
    whole = divide(const(1.0, p.span) if kept is None else kept, below)
    for variable, slope in _derivatives(p, 1.0):
        assert not isinstance(variable, QK)
        source = Source.FACTOR if soft else Source.ARGUMENT
        yield Partial(source, variable, run.simplify(multiply(whole, slope)))


def _derivatives(root: Expr, unit: float) -> Iterator[tuple[QK | Load | Scalar, Expr]]:
    for variable, slope in differentiate(root, _is_variable).partials.items():
        assert isinstance(variable, QK | Load | Scalar)
        yield variable, scaled(slope, unit)


def _is_variable(expr: Expr) -> bool:
    return isinstance(expr, QK | Load | Scalar) and expr.type == FLOAT
