"""The door to sympy: what goes over comes back with its value and its kinds."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from ir_terms import (
    KV_IDX,
    Q_IDX,
    Q_ROW,
    SPAN,
    call,
    load,
    neg,
    num,
    op,
    scalar,
    size,
    to_float,
)
from mask_strategies import calls, floats, ints
from test_symbolic_simplify import values

from attnlang.ir.nodes import INT, Expr, Kind
from attnlang.symbolic.bridge import Bridge, expanded
from attnlang.symbolic.masks import MaskEnv

X, N = scalar("x"), scalar("n", INT)


def there_and_back(expr: Expr) -> Expr:
    bridge = Bridge()
    return bridge.to_ir(bridge.to_sympy(expr), expr.type.kind, SPAN)


@pytest.mark.parametrize(
    "expr",
    [
        op("-", X, X),
        op("*", X, num(0.0)),
        op("+", op("*", X, num(2.0)), num(0.1)),
        op("/", num(1.0), call("tanh", neg(X))),
        op("**", X, num(3)),
        op("*", to_float(op("-", Q_IDX, KV_IDX)), X),
        call("log", X),
        op("//", N, num(2)),
        op("+", call("exp", X), load("bias", Q_IDX)),
        op("*", num(0.1), num(0.2)),
    ],
)
def test_floats_are_carried_as_they_are(expr: Expr) -> None:
    assert there_and_back(expr) == expr


@settings(max_examples=100, deadline=None)
@given(ints, calls())
def test_an_int_keeps_its_value(expr: Expr, env: MaskEnv) -> None:
    back = there_and_back(expr)
    assert back.type == INT
    np.testing.assert_array_equal(values(back, env), values(expr, env))


@settings(max_examples=100, deadline=None)
@given(floats, calls())
def test_a_float_keeps_its_value(expr: Expr, env: MaskEnv) -> None:
    back = there_and_back(expr)
    assert back.type == expr.type
    np.testing.assert_allclose(values(back, env), values(expr, env), rtol=1e-12, atol=1e-300)


def test_ints_are_one_ring() -> None:
    bridge = Bridge()
    square = op("*", op("+", N, num(1)), op("+", N, num(1)))
    other = op("+", op("*", N, op("+", N, num(2))), num(1))
    assert (bridge.to_sympy(square) - bridge.to_sympy(other)).expand() == 0


def test_assumptions_are_no_more_than_is_known() -> None:
    bridge = Bridge()
    assert bridge.to_sympy(Q_ROW).is_nonnegative
    assert bridge.to_sympy(size("KV")).is_nonnegative
    assert bridge.to_sympy(Q_IDX).is_nonnegative is None
    assert bridge.to_sympy(Q_IDX).is_integer
    assert bridge.to_sympy(X).is_finite is None


def test_a_derivative_comes_back() -> None:
    bridge = Bridge()
    x = bridge.to_sympy(X)
    slope = bridge.to_sympy(call("tanh", X)).diff(x)
    back = bridge.to_ir(slope, Kind.FLOAT, SPAN)
    assert back == op("-", num(1.0), op("**", call("tanh", X), num(2)))


def test_a_polynomial_that_would_explode_is_not_expanded() -> None:
    expr: Expr = op("+", Q_IDX, KV_IDX)
    for _ in range(6):
        expr = op("*", expr, expr)
    assert expanded(op("+", expr, num(1)), 64) is None


def test_the_symbolic_layer_imports_no_sympy_until_it_needs_it() -> None:
    code = "import sys, attnlang.passes; sys.exit('sympy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_coefficient_beyond_64_bits_is_not_made() -> None:
    large = num(2**40)
    product = op("*", op("+", Q_IDX, large), op("+", KV_IDX, large))
    assert expanded(op("-", product, op("*", Q_IDX, KV_IDX)), 64) is None
