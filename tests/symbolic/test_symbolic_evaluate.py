"""The evaluator against the language's rules, operation by operation."""

import math

import numpy as np
import pytest
from ir_terms import (
    FALSE,
    TRUE,
    both,
    call,
    compare,
    either,
    load,
    neg,
    no,
    num,
    op,
    scalar,
    select,
    to_float,
    to_int,
    vector,
)

from attnlang.ir.nodes import INT, Dot, Expr
from attnlang.symbolic.evaluate import VectorExpression, evaluate


def value(expr: Expr, **scalars: object) -> object:
    def read(_name: str, indices: tuple[np.ndarray, ...]) -> object:
        return np.asarray([10, 20, 30])[indices]

    return evaluate(expr, lambda leaf: scalars[leaf.name], read).item()


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (op("//", num(-7), num(2)), -4),
        (op("//", num(7), num(-2)), -4),
        (op("%", num(-7), num(3)), 2),
        (op("%", num(7), num(-3)), -2),
        (op("//", num(7), num(0)), 0),
        (op("%", num(7), num(0)), 0),
        (op("%", num(-7.5), num(2.0)), 0.5),
        (op("**", num(0), num(0)), 1),
        (op("**", num(0.0), num(0)), 1.0),
        (op("**", num(-2.0), num(3)), -8.0),
        (op("/", num(1), num(4)), 0.25),
        (op("+", num(2**63 - 1), num(1)), -(2**63)),
        (call("round", num(2.5)), 2.0),
        (call("round", num(3.5)), 4.0),
        (call("floor", num(-0.5)), -1.0),
        (call("clamp", num(7), num(0), num(5)), 5),
        (call("min", num(3), num(1), num(2)), 1),
        (call("sign", num(-3)), -1),
        (call("bit", num(-1), num(63)), True),
        (call("bit", num(5), num(1)), False),
        (call("bit", num(1), num(-4)), True),  # n is clamped, as indices are
        (call("sigmoid", num(-800.0)), 0.0),
        (call("softplus", num(800.0)), 800.0),
        (call("gelu", num(1.0)), 0.5 * (1 + math.erf(math.sqrt(0.5)))),
        (call("silu", num(1.0)), 1 / (1 + math.exp(-1.0))),
        (call("rsqrt", num(4.0)), 0.5),
        (call("log1p", num(0.0)), 0.0),
        (to_int(num(-2.9)), -2),
        (to_float(TRUE), 1.0),
        (neg(num(3)), -3),
        (no(TRUE), False),
        (both(TRUE, FALSE), False),
        (either(FALSE, TRUE), True),
        (compare("!=", num(math.nan), num(math.nan)), True),
        (compare("<=", num(math.nan), num(1.0)), False),
        (select(FALSE, num(1), num(2)), 2),
        (load("t", num(1), kind=INT), 20),
    ],
)
def test_value(expr: Expr, expected: object) -> None:
    found = value(expr)
    assert found == pytest.approx(expected, rel=1e-15)
    assert type(found) is type(expected)


def test_leaves_broadcast() -> None:
    rows, columns = np.arange(2).reshape(-1, 1), np.arange(3)
    table = {"i": rows, "j": columns}
    expr = op("-", scalar("i", INT), scalar("j", INT))
    found = evaluate(expr, lambda leaf: table[leaf.name], lambda *_: None)
    assert found.tolist() == [[0, -1, -2], [1, 0, -1]]


def test_what_is_made_of_vectors_has_no_scalar_value() -> None:
    q = vector("q")
    with pytest.raises(VectorExpression, match="Vector"):
        value(Dot(q, q, span=q.span))
