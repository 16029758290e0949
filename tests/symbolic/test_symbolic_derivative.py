"""Partial derivatives against float64 autograd of the reference's own functions."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_terms import (
    H,
    both,
    call,
    compare,
    load,
    neg,
    num,
    op,
    scalar,
    select,
    to_float,
    vector,
)

from attnlang.ir.nodes import (
    INT,
    VECTOR,
    Binary,
    Call,
    Cast,
    Compare,
    Const,
    Expr,
    Function,
    Load,
    Logic,
    LogicOp,
    Scalar,
    Select,
    Unary,
    UnaryOp,
)
from attnlang.ir.traverse import children, walk
from attnlang.reference import functions
from attnlang.symbolic.derivative import differentiate
from attnlang.symbolic.derivative_rules import OPERATORS, RULES
from attnlang.symbolic.evaluate import evaluate

X, Y, Z = scalar("x"), scalar("y"), scalar("z")
N = scalar("n", INT)
Values = Mapping[str, np.ndarray]


def is_scalar(expr: Expr) -> bool:
    return isinstance(expr, Scalar)


def derivatives(root: Expr, values: Values) -> dict[str, np.ndarray]:
    """Evaluate each partial at the values, all points at once."""
    found = differentiate(root, is_scalar)
    points = np.broadcast_shapes(*(v.shape for v in values.values()))

    def leaf(expr):
        return values[expr.name]

    return {
        x.name: np.broadcast_to(evaluate(d, leaf, None), points)
        for x, d in found.partials.items()
        if isinstance(x, Scalar)
    }


def autograd(root: Expr, values: Values) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Evaluate the root in torch as the reference does, and differentiate it."""
    leaves = {
        name: torch.tensor(v, requires_grad=v.dtype == np.float64) for name, v in values.items()
    }
    done: dict[int, torch.Tensor] = {}
    for expr in walk(root):
        x = [done[id(c)] for c in children(expr)]
        match expr:
            case Const(value):
                done[id(expr)] = torch.tensor(value, dtype=_dtype(expr))
            case Scalar(name):
                done[id(expr)] = leaves[name]
            case Unary(kind):
                done[id(expr)] = functions.unary(kind, x[0])
            case Binary(kind):
                done[id(expr)] = functions.binary(kind, x[0], x[1])
            case Compare(kind):
                done[id(expr)] = functions.compare(kind, x[0], x[1])
            case Logic(kind):
                done[id(expr)] = x[0] & x[1] if kind == LogicOp.AND else x[0] | x[1]
            case Select():
                done[id(expr)] = torch.where(x[0], x[1], x[2])
            case Cast():
                done[id(expr)] = x[0].to(_dtype(expr))
            case Call(function):
                done[id(expr)] = functions.call(function, tuple(torch.broadcast_tensors(*x)))
            case _:
                raise AssertionError(type(expr))
    value = done[id(root)]
    wanted = [name for name, leaf in leaves.items() if leaf.requires_grad]
    if not value.requires_grad:
        return value.numpy(), {}
    grads = torch.autograd.grad(value.sum(), [leaves[name] for name in wanted], allow_unused=True)
    found = {n: g.numpy() for n, g in zip(wanted, grads, strict=True) if g is not None}
    return value.detach().numpy(), found


def _dtype(expr: Expr) -> torch.dtype:
    return {"float": torch.float64, "int": torch.int64, "bool": torch.bool}[expr.type.kind.value]


def check(root: Expr, values: Values) -> None:
    _, expected = autograd(root, values)
    actual = derivatives(root, values)
    for name, gradient in expected.items():
        got = actual.get(name, np.zeros_like(gradient))
        np.testing.assert_allclose(got, gradient, rtol=1e-10, atol=1e-12, err_msg=name)
    assert actual.keys() <= expected.keys()


RNG = np.random.default_rng(7)
ANY = np.concatenate([RNG.normal(scale=3, size=40), [-1.0, 0.0, 1.0, 0.5]])
POSITIVE = np.exp(RNG.normal(size=44))
_DOMAIN: dict[Function, np.ndarray] = {
    Function.SQRT: POSITIVE,
    Function.RSQRT: POSITIVE,
    Function.LOG: POSITIVE,
    Function.LOG2: POSITIVE,
    Function.LOG1P: POSITIVE - 0.9,
}
_SEVERAL = (Function.MIN, Function.MAX, Function.CLAMP, Function.BIT)
_FLAT = (Function.SIGN, Function.FLOOR, Function.CEIL, Function.ROUND)


@pytest.mark.parametrize("function", [f for f in Function if f not in _SEVERAL])
def test_function_of_one_argument(function):
    check(op("*", call(function.value, X), Y), {"x": _DOMAIN.get(function, ANY), "y": ANY})


def test_every_function_has_a_rule_or_is_flat():
    assert set(Function) == {*RULES, *_FLAT, Function.BIT}


@pytest.mark.parametrize("symbol", [o.value for o in OPERATORS])
def test_operator(symbol):
    y = ANY if symbol != "/" else np.where(ANY == 0, 2.0, ANY)
    x = POSITIVE if symbol == "**" else ANY
    check(op(symbol, X, Y), {"x": x, "y": RNG.permutation(y)})


def test_modulo_by_zero_is_flat():
    check(op("%", X, Y), {"x": ANY, "y": np.zeros_like(ANY)})


def test_floor_division_is_flat():
    assert differentiate(op("//", X, Y), is_scalar).partials == {}


@pytest.mark.parametrize("n", [-2, 0, 1, 2, 3])
def test_power_with_a_constant_int_exponent(n):
    x = ANY if n >= 0 else np.where(ANY == 0, 2.0, ANY)
    check(op("**", X, num(n)), {"x": x})


def test_power_with_an_int_exponent():
    n = RNG.integers(0, 4, size=ANY.shape)
    check(op("**", X, N), {"x": ANY, "n": n})


def test_power_of_zero():
    y = np.array([0.0, 0.5, 1.0, 2.0])
    check(op("**", X, Y), {"x": np.zeros(4), "y": np.array([0.0, 1.0, 2.0, 3.0])})
    assert not np.isnan(derivatives(op("**", X, Y), {"x": np.zeros(4), "y": y})["y"]).any()


@pytest.mark.parametrize("name", ["min", "max"])
def test_ties_share(name):
    x, y = np.array([1.0, 2.0, 2.0]), np.array([2.0, 2.0, 1.0])
    check(call(name, X, Y), {"x": x, "y": y})
    check(call(name, X, Y, Z, X), {"x": x, "y": y, "z": np.array([2.0, 2.0, 2.0])})


def test_clamp_at_and_beyond_its_bounds():
    grid = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    x, low, high = (a.ravel() for a in np.meshgrid(grid, grid, grid))
    check(call("clamp", X, Y, Z), {"x": x, "y": low, "z": high})


def test_a_branch_that_is_not_taken_gives_nothing_even_where_it_is_singular():
    root = select(compare(">", X, num(0.0)), op("/", num(1.0), call("sqrt", X)), op("*", X, X))
    found = derivatives(root, {"x": np.array([-1.0, 0.0, 4.0])})["x"]
    np.testing.assert_allclose(found, [-2.0, 0.0, -0.5 * 4.0**-1.5])


def test_a_value_used_under_two_guards():
    inner = call("log", X)
    positive, small = compare(">", X, num(0.0)), compare("<", X, num(2.0))
    root = op(
        "+",
        select(both(positive, small), inner, num(0.0)),
        select(positive, op("*", inner, Y), Y),
    )
    found = derivatives(root, {"x": np.array([-1.0, 0.0, 1.0, 4.0]), "y": np.full(4, 3.0)})
    np.testing.assert_allclose(found["x"], [0.0, 0.0, 4.0, 0.75])
    np.testing.assert_allclose(found["y"], [1.0, 1.0, 0.0, math.log(4.0)])


def test_what_the_forward_pass_computed_is_read_again():
    root = op("*", Y, call("tanh", op("/", X, Y)))
    found = differentiate(root, is_scalar)
    (tanh,) = (e for e in walk(found.forward) if isinstance(e, Call))
    tanhs = [e for e in walk(*found.partials.values()) if isinstance(e, Call)]
    assert tanhs == [tanh]
    assert tanhs[0] is tanh


def test_a_tensor_is_a_variable_by_its_read():
    read = load("slopes", H)
    root = op("+", op("*", read, to_float(H)), op("*", X, read))
    found = differentiate(root, lambda e: isinstance(e, Load))
    assert list(found.partials) == [read]


def test_whole_vectors_have_no_scalar_derivative():
    root = Unary(UnaryOp.NEG, vector("q"), VECTOR, span=X.span)
    with pytest.raises(TypeError, match="whole vectors"):
        differentiate(root, is_scalar)


_ONE: list[Callable[[Expr], Expr]] = [
    neg,
    *(lambda x, f=f: call(f, x) for f in ("tanh", "sigmoid", "silu", "gelu", "erf", "softplus")),
    *(lambda x, f=f: call(f, x) for f in ("sin", "cos", "abs", "relu", "floor")),
    lambda x: call("exp", call("min", x, num(1.0))),
    lambda x: call("log1p", call("abs", x)),
    lambda x: call("clamp", x, num(-1.5), num(1.5)),
    lambda x: op("**", x, num(2)),
]
_TWO: list[Callable[[Expr, Expr], Expr]] = [
    *(lambda x, y, s=s: op(s, x, y) for s in "+-*"),
    lambda x, y: op("/", x, op("+", num(1.0), op("*", y, y))),
    lambda x, y: call("max", x, y),
    lambda x, y: call("min", x, y, num(0.25)),
    lambda x, y: select(compare("<", x, y), op("*", x, y), y),
]


def _extend(inner):
    return st.one_of(
        st.builds(lambda f, x: f(x), st.sampled_from(_ONE), inner),
        st.builds(lambda f, x, y: f(x, y), st.sampled_from(_TWO), inner, inner),
    )


EXPRESSIONS = st.recursive(st.sampled_from([X, Y, Z, num(0.5)]), _extend, max_leaves=12)


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, st.integers(0, 2**32 - 1))
def test_random_expressions(root, seed):
    rng = np.random.default_rng(seed)
    check(root, {name: rng.normal(size=16) for name in "xyz"})
