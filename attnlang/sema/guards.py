"""Which optional tensors a condition proves to be given, from what its operands prove."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from attnlang.ir import nodes as ir


class Given(NamedTuple):
    """The tensors that are there whenever the condition is false, and whenever it is true."""

    if_false: frozenset[str]
    if_true: frozenset[str]


NOTHING: Final = Given(frozenset(), frozenset())


def given_by(condition: ir.Expr, operands: Sequence[Given]) -> Given:
    """Return what a condition proves."""
    match condition:
        case ir.Given(name):
            return Given(frozenset(), frozenset({name}))
        case ir.Unary(ir.UnaryOp.NOT, _):
            return Given(operands[0].if_true, operands[0].if_false)
        case ir.Logic(op, _, _):
            x, y = operands
            if op == ir.LogicOp.AND:
                return Given(x.if_false & y.if_false, x.if_true | y.if_true)
            return Given(x.if_false | y.if_false, x.if_true & y.if_true)
        case _:
            return NOTHING
