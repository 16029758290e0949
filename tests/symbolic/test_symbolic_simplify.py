"""The simplifier as a whole: same values, fewer operations, and it settles."""

import numpy as np
import pytest
from hypothesis import given, settings
from ir_terms import (
    CAUSAL,
    RAW,
    TRUE,
    both,
    compare,
    neg,
    num,
    op,
    scalar,
    select,
    to_float,
)
from mask_strategies import calls, floats, ints, masks

from attnlang.ir.nodes import BOOL, INT, Binary, BinaryOp, Expr, Kind
from attnlang.ir.traverse import children, walk
from attnlang.symbolic.build import Interner
from attnlang.symbolic.evaluate import evaluate
from attnlang.symbolic.masks import MaskEnv, brute_force
from attnlang.symbolic.rules.rule import Rule
from attnlang.symbolic.simplify import DoesNotSettleError, count_operations, simplify

X = scalar("x")


def values(expr: Expr, env: MaskEnv) -> np.ndarray:
    """The values of any scalar over a call's elements."""
    rows = np.arange(env.q_len).reshape(-1, 1)
    columns = np.arange(env.kv_len).reshape(1, -1)

    def leaf(found: Expr) -> object:
        match type(found).__name__:
            case "Coord":
                return env.coordinate(found.name, rows, columns)
            case "Size":
                return env.size(found.name)
            case "Scalar":
                return env.scalars[found.name]
        raise AssertionError(found)

    def read(name: str, indices: tuple[np.ndarray, ...]) -> object:
        tensor = env.tensors[name]
        limits = zip(indices, tensor.shape, strict=True)
        return tensor[tuple(np.clip(i, 0, n - 1) for i, n in limits)]

    return np.broadcast_to(evaluate(expr, leaf, read), (env.q_len, env.kv_len))


@settings(max_examples=120, deadline=None)
@given(masks, calls())
def test_a_condition_keeps_its_value(mask: Expr, env: MaskEnv) -> None:
    simpler, _ = simplify(mask)
    np.testing.assert_array_equal(brute_force(simpler, env), brute_force(mask, env))


@settings(max_examples=100, deadline=None)
@given(ints, calls())
def test_an_int_keeps_its_value_and_loses_operations(expr: Expr, env: MaskEnv) -> None:
    simpler, _ = simplify(expr)
    assert simpler.type == INT
    assert count_operations([simpler]) <= count_operations([expr])
    np.testing.assert_array_equal(values(simpler, env), values(expr, env))


@settings(max_examples=100, deadline=None)
@given(floats, calls())
def test_a_float_keeps_its_value(expr: Expr, env: MaskEnv) -> None:
    simpler, _ = simplify(expr)
    np.testing.assert_allclose(values(simpler, env), values(expr, env), rtol=1e-12, atol=1e-300)


@settings(max_examples=100, deadline=None)
@given(masks)
def test_it_settles_and_reports_each_step(mask: Expr) -> None:
    simpler, fired = simplify(mask)
    again, nothing = simplify(simpler)
    assert (again, nothing) == (simpler, ())
    assert all(step.before.type == step.after.type for step in fired)
    assert fired or simpler == mask


def test_a_window_of_a_constant_width_is_two_comparisons_of_one_operation() -> None:
    distance = op("-", scalar("q", INT), scalar("k", INT))
    assert simplify(both(TRUE, compare("<", distance, num(3))))[0] == compare("<", distance, num(3))


def test_what_may_be_nan_is_not_cancelled() -> None:
    for expr in (op("-", X, X), op("*", X, num(0.0)), op("/", X, X), compare("==", X, X)):
        assert simplify(expr)[0] == expr


def test_constants_meet_through_branches() -> None:
    expr = select(both(CAUSAL, TRUE), op("*", RAW, num(1.0)), op("+", RAW, num(0.0)))
    simpler, fired = simplify(expr)
    assert simpler == RAW
    assert [f.rule for f in fired] == [
        "logic-constant",
        "multiply-one",
        "add-zero",
        "select-constant",
    ]


def test_rules_that_run_in_circles_raise() -> None:
    swap = Rule("swap", lambda e: _swapped(e))
    with pytest.raises(DoesNotSettleError, match="swap"):
        simplify(op("+", X, scalar("y")), [swap])


def _swapped(expr: Expr) -> Expr | None:
    if isinstance(expr, Binary) and expr.op == BinaryOp.ADD:
        return op("+", expr.right, expr.left)
    return None


def test_equal_parts_become_one_and_count_once() -> None:
    def square() -> Expr:
        return op("*", op("+", X, num(1.0)), op("+", X, num(1.0)))

    whole = op("-", square(), square())
    assert count_operations([whole]) == 3
    interned = Interner().intern(whole)
    assert isinstance(interned, Binary)
    assert interned.left is interned.right
    assert interned == whole


def test_zeros_of_both_signs_stay_apart() -> None:
    expr = select(scalar("c", BOOL), num(0.0), num(-0.0))
    interned = Interner().intern(expr)
    first, second = list(children(interned))[1:]
    assert first is not second


def test_a_shared_sum_takes_no_more_than_linear_work() -> None:
    expr: Expr = to_float(scalar("n", INT))
    for _ in range(200):
        expr = neg(op("+", expr, expr))
    simpler, _ = simplify(expr)
    assert sum(1 for _ in walk(simpler)) <= 402
    whole: Expr = scalar("n", INT)
    for _ in range(40):
        whole = op("+", whole, whole)
    small, _ = simplify(whole)
    assert small.type.kind == Kind.INT
