"""The exponent: equal to log2(e) times the argument, and its invariant factors in one place."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_terms import (
    CALL_SCALE,
    CAUSAL,
    KV_IDX,
    Q_IDX,
    RAW,
    SPAN,
    B,
    H,
    call,
    load,
    neg,
    num,
    op,
    scalar,
    select,
    to_float,
)

from attnlang.ir.nodes import FLOAT, QK, Binary, BinaryOp, CallScale, Coord, Expr, Raw, Scalar
from attnlang.ir.traverse import walk
from attnlang.passes.exponent import LOG2E, exponent, weight
from attnlang.symbolic.evaluate import evaluate
from attnlang.symbolic.simplify import count_operations
from attnlang.symbolic.variability import Level, level

DOT = QK(span=SPAN)
CAP, TEMPERATURE = scalar("cap"), scalar("t")
SLOPE = load("m", H)
DISTANCE = to_float(op("-", KV_IDX, Q_IDX))


def times(*factors: Expr) -> Expr:
    result = factors[0]
    for factor in factors[1:]:
        result = op("*", result, factor)
    return result


SCALE_LOG2E = times(CALL_SCALE, num(LOG2E))


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (RAW, times(DOT, SCALE_LOG2E)),
        (neg(RAW), times(DOT, times(CALL_SCALE, num(-LOG2E)))),
        (
            times(CAP, call("tanh", op("/", RAW, CAP))),
            times(call("tanh", times(DOT, op("/", CALL_SCALE, CAP))), times(CAP, num(LOG2E))),
        ),
        (
            op("+", RAW, times(SLOPE, DISTANCE)),
            op("+", times(DOT, SCALE_LOG2E), times(DISTANCE, times(SLOPE, num(LOG2E)))),
        ),
        (
            select(CAUSAL, op("/", RAW, num(2.0)), num(-math.inf)),
            select(CAUSAL, times(DOT, times(CALL_SCALE, num(LOG2E / 2))), num(-math.inf)),
        ),
        # What hoists to one loop is added up there.
        (
            op("+", op("+", RAW, load("u", B, Q_IDX)), CAP),
            op(
                "+",
                times(DOT, SCALE_LOG2E),
                op("+", times(load("u", B, Q_IDX), num(LOG2E)), times(CAP, num(LOG2E))),
            ),
        ),
        # A difference of a row's and a column's term may cancel: it is taken first, as written.
        (
            op("+", RAW, op("-", load("c", Q_IDX), load("c", KV_IDX))),
            op(
                "+",
                times(DOT, SCALE_LOG2E),
                times(op("-", load("c", Q_IDX), load("c", KV_IDX)), num(LOG2E)),
            ),
        ),
        # The row's factors on the dot product, the column's beside them.
        (
            times(RAW, to_float(Q_IDX), op("/", to_float(KV_IDX), TEMPERATURE)),
            times(
                DOT,
                op("/", times(CALL_SCALE, num(LOG2E), to_float(Q_IDX)), TEMPERATURE),
                to_float(KV_IDX),
            ),
        ),
    ],
    ids=["plain", "negated", "cap", "alibi", "select", "row", "difference", "row-and-column"],
)
def test_factors_meet(score: Expr, expected: Expr) -> None:
    assert exponent(score, CALL_SCALE) == expected


def test_a_scale_of_the_spec_takes_the_place_of_the_calls() -> None:
    scale = op("/", num(1.0), call("max", SLOPE, num(0.01)))
    expr = exponent(RAW, scale)
    assert isinstance(expr, Binary)
    assert expr.left == DOT
    assert level(expr.right) == Level.REQUEST


def test_each_factor_of_the_inner_loop_is_one_multiplication() -> None:
    expr = exponent(op("+", times(CAP, op("+", RAW, SLOPE), TEMPERATURE), CAP), CALL_SCALE)
    inner = [e for e in walk(expr) if level(e) == Level.ELEMENT and not isinstance(e, QK)]
    assert [e.op for e in inner if isinstance(e, Binary)] == [BinaryOp.MUL, BinaryOp.ADD]


def test_a_weight_takes_no_log2e() -> None:
    expr = weight(call("sigmoid", op("+", RAW, CAP)), CALL_SCALE)
    assert expr == call("sigmoid", op("+", times(DOT, CALL_SCALE), CAP))


def test_products_and_sums_of_shared_ones_stay_small() -> None:
    # 2 ** 60 factors, and as many terms: expressions are not printed where this fails.
    score: Expr = RAW
    for _ in range(60):
        score = op("*", score, score)
    factors = count_operations([exponent(score, CALL_SCALE)])
    for _ in range(60):
        score = op("+", score, score)
    terms = count_operations([exponent(score, CALL_SCALE)])
    assert factors < 2000
    assert terms < 6000


LEAVES = [RAW, CAP, TEMPERATURE, SLOPE, DISTANCE, to_float(Q_IDX), num(2.0), num(-1.0), num(0.5)]


def _extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.one_of(
        st.builds(op, st.sampled_from(["+", "-", "*", "*", "/"]), inner, inner),
        st.builds(neg, inner),
        st.builds(lambda f, x: call(f, x), st.sampled_from(["tanh", "sigmoid", "abs"]), inner),
        st.builds(lambda x, y: call("max", x, y), inner, inner),
        st.builds(lambda x, y: select(CAUSAL, x, y), inner, inner),
    )


scores = st.recursive(st.sampled_from(LEAVES), _extend, max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(scores, st.integers(0, 2**31))
def test_the_exponent_is_the_argument_times_log2e(score: Expr, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 16
    scale, dot = rng.normal(size=n), rng.normal(size=n)
    values = {"cap": rng.normal(size=n), "t": rng.normal(size=n)}
    rows, columns = rng.integers(0, 9, n), rng.integers(0, 9, n)
    slope = rng.normal(size=n)

    def leaf(found: Expr) -> object:
        match found:
            case Raw():
                return scale * dot
            case QK():
                return dot
            case CallScale():
                return scale
            case Scalar(name, _):
                return values[name]
            case Coord(name):
                return {"q_idx": rows, "kv_idx": columns, "h": 0}[name]
        raise AssertionError(found)

    def read(_name: str, _indices: object) -> object:
        return slope

    with np.errstate(all="ignore"):
        wanted = np.asarray(evaluate(score, leaf, read)) * LOG2E
        found = np.asarray(evaluate(exponent(score, CALL_SCALE), leaf, read))
    # Cancelling sums lose relative accuracy either way: compare where nothing blows up.
    fine = np.isfinite(wanted) & np.isfinite(found) & (np.abs(wanted) < 1e6)
    np.testing.assert_allclose(found[fine], wanted[fine], rtol=1e-6, atol=1e-6)
    assert score.type == FLOAT
