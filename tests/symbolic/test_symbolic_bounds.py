"""Bounds of a score: what they say of a spec, and that no value leaves them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_terms import (
    CALL_SCALE,
    CAUSAL,
    KV_COL,
    KV_IDX,
    Q_IDX,
    RAW,
    SPAN,
    H,
    call,
    compare,
    load,
    neg,
    num,
    op,
    scalar,
    select,
    size,
    to_float,
    variant,
    vector,
)

from attnlang.ir.nodes import (
    INT,
    VECTOR,
    Binary,
    BinaryOp,
    CallScale,
    Coord,
    Expr,
    L2Norm,
    Raw,
    Require,
    RmsNorm,
    Rope,
    Scalar,
    Size,
    Variant,
    Weights,
)
from attnlang.symbolic.bounds import bounds, bounds_at, describe_bounds, score_bounds
from attnlang.symbolic.evaluate import evaluate

CAP, ANY, N = scalar("cap"), scalar("any"), scalar("n", INT)
EPS = num(1e-6)
REQUIRES = (
    Require(compare(">", CAP, num(0.0)), None, span=SPAN),
    Require(compare("<=", num(0), N), None, span=SPAN),
)


def spec(score: Expr, **changes: Expr) -> Variant:
    made = replace(variant(score=score), requires=REQUIRES, **changes)
    return replace(made, weights=replace(made.weights, softmax=score))


def unit(name: str) -> Expr:
    return L2Norm(vector(name), EPS, span=SPAN)


def normed(name: str) -> Expr:
    return RmsNorm(vector(name), None, EPS, span=SPAN)


def turned(x: Expr, position: Expr) -> Expr:
    return Rope(x, position, num(1e4), None, num(0), None, False, span=SPAN)


COSINE = {"q": unit("q"), "k": turned(unit("k"), KV_IDX)}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (spec(op("*", CAP, call("tanh", op("/", RAW, CAP)))), "abs(score) <= cap"),
        (spec(op("*", ANY, call("tanh", RAW))), "abs(score) <= abs(any)"),
        (
            spec(op("+", op("*", CAP, call("sigmoid", RAW)), num(1.0))),
            "1.0 <= score <= cap + 1.0",
        ),
        (spec(call("clamp", RAW, neg(CAP), CAP)), "abs(score) <= cap"),
        (spec(call("clamp", RAW, num(-1.0), num(2.0))), "-1.0 <= score <= 2.0"),
        (
            spec(call("clamp", RAW, ANY, num(2.0))),
            "min(any, 2.0) <= score <= 2.0",
        ),
        (spec(call("min", RAW, num(3.0))), "score <= 3.0"),
        (spec(call("relu", RAW)), "0.0 <= score"),
        (spec(RAW), "unbounded"),
        (spec(op("+", RAW, load("bias", H))), "unbounded"),
        (spec(RAW, **COSINE), "abs(score) <= abs(scale)"),
        (
            spec(op("/", RAW, call("max", load("tau", H), num(0.5))), **COSINE),
            "abs(score) <= abs(scale) / 0.5",
        ),
        (
            spec(RAW, scale=op("/", num(1.0), call("max", load("tau", H), num(0.5))), **COSINE),
            "abs(score) <= 2.0",
        ),
        (
            spec(RAW, q=turned(normed("q"), Q_IDX), k=normed("k"), scale=num(0.5)),
            "abs(score) <= 0.5 * D",
        ),
        (
            spec(RAW, q=Binary(BinaryOp.MUL, unit("q"), ANY, VECTOR, span=SPAN), k=unit("k")),
            "abs(score) <= abs(scale) * abs(any)",
        ),
        (spec(RAW, q=unit("q"), k=vector("k")), "unbounded"),
        (
            spec(select(CAUSAL, call("tanh", RAW), num(-math.inf))),
            "score <= 1.0",
        ),
        (
            spec(to_float(call("min", KV_COL, N))),
            "0.0 <= score <= float(min(KV - 1, n))",
        ),
    ],
)
def test_a_score_is_bounded(made: Variant, expected: str) -> None:
    assert describe_bounds(score_bounds(made)) == expected


def test_a_weight_without_softmax_has_bounds_too() -> None:
    factor = op("*", call("sigmoid", RAW), num(0.5))
    made = variant(weights=Weights(None, None, factor, None, span=SPAN))
    assert describe_bounds(bounds(factor, made), "weight") == "0.0 <= weight <= 0.5"
    assert describe_bounds(score_bounds(made)) == "unbounded"


def test_the_ends_have_values_at_given_parameters() -> None:
    capped = score_bounds(spec(op("*", CAP, call("tanh", RAW))))
    assert bounds_at(capped, {"cap": 30.0}, {}, 0.125) == (-30.0, 30.0)
    wide = score_bounds(spec(call("relu", op("*", RAW, to_float(size("D")))), **COSINE))
    assert bounds_at(wide, {}, {"D": 64}, -0.125) == (0.0, 8.0)
    assert bounds_at(score_bounds(spec(RAW)), {}, {}, 1.0) == (-math.inf, math.inf)


LEAVES = [RAW, CAP, ANY, num(2.0), num(-0.5), num(0.0), to_float(KV_COL), to_float(N), CALL_SCALE]
UNARY = ["tanh", "sigmoid", "abs", "relu", "exp", "silu", "gelu", "softplus", "erf", "sin", "sqrt"]


def _extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.one_of(
        st.builds(op, st.sampled_from(["+", "-", "*", "/"]), inner, inner),
        st.builds(neg, inner),
        st.builds(call, st.sampled_from([*UNARY, "floor", "round", "log1p", "sign"]), inner),
        st.builds(call, st.sampled_from(["min", "max"]), inner, inner),
        st.builds(lambda x, y, z: call("clamp", x, y, z), inner, inner, inner),
        st.builds(lambda x, n: op("**", x, num(n)), inner, st.integers(0, 4)),
        st.builds(lambda x, y: select(CAUSAL, x, y), inner, inner),
    )


scores = st.recursive(st.sampled_from(LEAVES), _extend, max_leaves=7)


@settings(max_examples=300, deadline=None)
@given(scores, st.integers(0, 2**31))
def test_no_value_leaves_its_bounds(score: Expr, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = 64
    dots = rng.uniform(-1, 1, points)  # of unit vectors
    scalars = {"cap": float(rng.uniform(0.1, 4)), "any": float(rng.normal()), "n": 3}
    columns, rows, scale = rng.integers(0, 9, points), rng.integers(0, 9, points), 0.7

    def leaf(found: Expr) -> object:
        match found:
            case Raw():
                return scale * dots
            case CallScale():
                return scale
            case Scalar(name, _):
                return scalars[name]
            case Size():
                return 9
            case Coord(name):
                return {"kv_col": columns, "kv_idx": columns, "q_idx": rows}[name]
        raise AssertionError(found)

    def read(_name: str, _indices: object) -> object:
        raise AssertionError

    found = bounds(score, spec(score, q=unit("q"), k=unit("k")))
    low, high = bounds_at(found, scalars, {"KV": 9, "D": 16}, scale)
    values = np.asarray(evaluate(score, leaf, read))
    # What is no number, and ends that are none (`exp` of a large end), say nothing.
    values = values[np.isfinite(values)]
    slack = 1e-9 * np.maximum(1.0, np.abs(values))
    assert math.isnan(low) or (values >= low - slack).all()
    assert math.isnan(high) or (values <= high + slack).all()
