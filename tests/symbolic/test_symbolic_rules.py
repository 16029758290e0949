"""Each rule by itself: what it makes of a node, and what it must leave alone."""

import math

import numpy as np
import pytest
from ir_terms import (
    FALSE,
    KV_COL,
    KV_IDX,
    Q_IDX,
    Q_ROW,
    RAW,
    TRUE,
    B,
    H,
    both,
    call,
    compare,
    coord,
    either,
    load,
    neg,
    no,
    num,
    op,
    scalar,
    select,
    size,
    to_float,
    to_int,
)

from attnlang.ir.nodes import BOOL, FLOAT, INT, VECTOR, Binary, BinaryOp, Expr, Raw, Scalar
from attnlang.symbolic.evaluate import evaluate
from attnlang.symbolic.rules import RULES

BY_NAME = {rule.name: rule for rule in RULES}
X, Y = scalar("x"), scalar("y")
N, M = scalar("n", INT), scalar("m", INT)
C, D = scalar("c", BOOL), scalar("d", BOOL)
INF = num(math.inf)
DISTANCE = op("-", Q_IDX, KV_IDX)

CASES: list[tuple[str, Expr, Expr | None]] = [
    ("fold-constants", op("*", num(2.0), num(3.5)), num(7.0)),
    ("fold-constants", op("//", num(-7), num(2)), num(-4)),
    ("fold-constants", op("%", num(-7), num(3)), num(2)),
    ("fold-constants", op("//", num(1), num(0)), None),
    ("fold-constants", op("%", num(1), num(0)), None),
    ("fold-constants", op("**", num(0.0), num(0)), num(1.0)),
    ("fold-constants", op("**", num(-2.0), num(3)), num(-8.0)),
    ("fold-constants", op("**", num(3), num(4)), num(81)),
    ("fold-constants", op("**", num(3), num(400)), None),
    ("fold-constants", op("+", num(2**63 - 1), num(1)), None),
    ("fold-constants", op("/", num(1.0), num(0.0)), INF),
    ("fold-constants", op("-", INF, INF), None),
    ("fold-constants", call("round", num(2.5)), num(2.0)),
    ("fold-constants", call("sqrt", num(-1.0)), None),
    ("fold-constants", call("clamp", num(9), num(0), num(4)), num(4)),
    ("fold-constants", call("bit", num(6), num(1)), TRUE),
    ("fold-constants", compare("<", num(1), num(2)), TRUE),
    ("fold-constants", to_float(num(3)), num(3.0)),
    ("fold-constants", to_int(num(-2.7)), num(-2)),
    ("fold-constants", to_int(INF), None),
    ("fold-constants", no(FALSE), TRUE),
    ("fold-constants", op("+", N, num(1)), None),
    ("add-zero", op("+", X, num(0.0)), X),
    ("add-zero", op("+", num(0), N), N),
    ("add-zero", op("-", X, num(0.0)), X),
    ("add-zero", op("-", num(0.0), X), neg(X)),
    ("add-zero", op("+", X, num(1.0)), None),
    ("multiply-one", op("*", X, num(1.0)), X),
    ("multiply-one", op("/", X, num(1.0)), X),
    ("multiply-one", op("*", num(1), N), N),
    ("multiply-one", op("//", N, num(1)), N),
    ("multiply-one", op("//", X, num(1.0)), None),
    ("multiply-one", op("*", X, num(-1.0)), neg(X)),
    ("int-zero", op("*", num(0), N), num(0)),
    ("int-zero", op("-", N, N), num(0)),
    ("int-zero", op("%", N, num(1)), num(0)),
    ("int-zero", op("%", num(0), N), num(0)),
    ("int-zero", op("//", num(0), N), num(0)),
    ("int-zero", op("*", num(0.0), X), None),
    ("int-zero", op("-", X, X), None),
    ("int-zero", op("-", N, M), None),
    ("power", op("**", X, num(1)), X),
    ("power", op("**", X, num(0)), num(1.0)),
    ("power", op("**", N, num(0)), num(1)),
    ("power", op("**", X, num(2)), op("*", X, X)),
    ("power", op("**", X, num(3)), None),
    ("double-negation", neg(neg(X)), X),
    ("double-negation", op("+", X, neg(Y)), op("-", X, Y)),
    ("double-negation", op("-", X, neg(Y)), op("+", X, Y)),
    ("double-negation", op("+", neg(X), Y), op("-", Y, X)),
    ("negated-difference", neg(op("-", X, Y)), op("-", Y, X)),
    ("cast-twice", to_int(to_float(N)), N),
    ("cast-twice", to_float(to_int(X)), None),
    ("logic-constant", both(TRUE, C), C),
    ("logic-constant", both(C, FALSE), FALSE),
    ("logic-constant", either(C, TRUE), TRUE),
    ("logic-constant", either(FALSE, C), C),
    ("logic-chain", both(C, both(D, C)), both(both(C, D), C)),
    ("logic-chain", both(C, either(D, C)), None),
    ("logic-repeated", both(C, C), C),
    ("logic-repeated", both(both(C, D), C), both(C, D)),
    ("logic-repeated", both(either(C, D), C), None),
    ("logic-complement", both(C, no(C)), FALSE),
    ("logic-complement", either(no(C), C), TRUE),
    ("logic-complement", both(C, no(D)), None),
    ("logic-absorbed", both(C, either(C, D)), C),
    ("logic-absorbed", either(both(D, C), C), C),
    ("logic-absorbed", both(C, both(C, D)), None),
    ("not-pushed", no(no(C)), C),
    ("not-pushed", no(compare("<", N, M)), compare(">=", N, M)),
    ("not-pushed", no(compare("<", X, Y)), None),
    ("not-pushed", no(compare("==", X, Y)), compare("!=", X, Y)),
    ("select-constant", select(TRUE, X, Y), X),
    ("select-constant", select(FALSE, X, Y), Y),
    ("select-constant", select(C, X, X), X),
    ("select-constant", select(C, num(0.0), num(-0.0)), None),
    ("select-negated", select(no(C), X, Y), select(C, Y, X)),
    ("select-nested", select(C, select(C, X, Y), num(1.0)), select(C, X, num(1.0))),
    ("select-nested", select(C, X, select(C, Y, num(1.0))), select(C, X, num(1.0))),
    ("select-nested", select(C, X, select(D, Y, num(1.0))), None),
    ("select-bool", select(C, D, FALSE), both(C, D)),
    ("select-bool", select(C, TRUE, D), either(C, D)),
    ("select-bool", select(C, FALSE, D), both(no(C), D)),
    ("select-bool", select(C, D, TRUE), either(no(C), D)),
    ("select-bool", select(C, X, Y), None),
    ("min-max", call("min", X, INF), X),
    ("min-max", call("max", X, INF), None),
    ("min-max", call("max", X, Y, X), call("max", X, Y)),
    ("min-max", call("min", call("min", X, Y), X), call("min", X, Y)),
    ("min-max", call("min", N, M), None),
    ("clamp-open", call("clamp", X, num(-math.inf), INF), X),
    ("clamp-open", call("clamp", X, num(-math.inf), Y), call("min", X, Y)),
    ("clamp-open", call("clamp", X, Y, INF), call("max", X, Y)),
    ("clamp-open", call("clamp", X, num(0.0), Y), None),
    ("abs-of-sign", call("abs", neg(X)), call("abs", X)),
    ("abs-of-sign", call("abs", call("abs", N)), call("abs", N)),
    ("abs-of-sign", call("relu", call("relu", X)), call("relu", X)),
    ("abs-of-sign", call("relu", neg(X)), None),
    ("whole-number", call("floor", to_float(N)), to_float(N)),
    ("whole-number", call("ceil", call("round", X)), call("round", X)),
    ("whole-number", call("ceil", X), None),
    (
        "clamp-point",
        call("clamp", call("clamp", X, num(0.0), num(1.0)), num(0.0), num(1.0)),
        call("clamp", X, num(0.0), num(1.0)),
    ),
    ("clamp-point", call("clamp", call("clamp", X, num(0.0), Y), num(0.0), Y), None),
    ("collect-terms", op("-", op("+", Q_IDX, num(1)), Q_IDX), num(1)),
    ("collect-terms", op("+", N, N), None),
    ("collect-terms", op("+", op("+", N, N), N), op("*", N, num(3))),
    ("collect-terms", op("+", op("-", Q_IDX, KV_IDX), num(0)), DISTANCE),
    ("collect-terms", op("-", op("+", N, num(2)), num(3)), op("-", N, num(1))),
    ("collect-terms", op("-", op("+", X, num(1.0)), X), None),
    ("collect-terms", op("+", num(2**62), op("+", num(2**62), N)), None),
    (
        "expand-products",
        op("-", op("*", op("+", Q_IDX, num(1)), N), op("*", Q_IDX, N)),
        N,
    ),
    ("expand-products", op("+", op("*", op("+", Q_IDX, num(1)), N), M), None),
    ("compare-same", compare("<=", N, N), TRUE),
    ("compare-same", compare("!=", C, C), FALSE),
    ("compare-same", compare("==", X, X), None),
    ("compare-bool", compare("==", C, TRUE), C),
    ("compare-bool", compare("!=", TRUE, C), no(C)),
    ("compare-bool", compare("==", C, D), None),
    ("compare-widened", compare("<", to_float(N), to_float(M)), compare("<", N, M)),
    ("compare-widened", compare("<", to_float(N), num(3.0)), compare("<", N, num(3))),
    ("compare-widened", compare("<", to_float(N), num(3.5)), None),
    ("compare-widened", compare("<", to_float(N), X), None),
    ("compare-range", compare(">=", KV_COL, num(0)), TRUE),
    ("compare-range", compare("<=", num(-1), Q_ROW), TRUE),
    ("compare-range", compare("<", KV_COL, size("KV")), TRUE),
    ("compare-range", compare("<", KV_IDX, size("KV")), None),
    ("compare-range", compare(">=", KV_IDX, num(0)), None),
    ("compare-range", compare(">=", KV_COL, num(1)), None),
    ("compare-sides", compare("<=", num(0), DISTANCE), compare("<=", KV_IDX, Q_IDX)),
    (
        "compare-sides",
        compare("<", DISTANCE, num(4)),
        compare(">", KV_IDX, op("-", Q_IDX, num(4))),
    ),
    ("compare-sides", compare("<", KV_IDX, op("+", Q_IDX, num(1))), compare("<=", KV_IDX, Q_IDX)),
    ("compare-sides", compare("<", op("-", KV_IDX, KV_IDX), num(1)), TRUE),
    # A run-time parameter may be 2 ** 63 - 1, so that q_idx - w would leave 64 bits.
    ("compare-sides", compare("<", DISTANCE, N), None),
    ("compare-sides", compare("<=", KV_IDX, Q_IDX), None),
    ("compare-sides", compare("<", DISTANCE, load("w", H, kind=INT)), None),
    ("log-of-exp", call("log", call("exp", X)), X),
    ("log-of-exp", call("exp2", call("log2", call("abs", X))), call("abs", X)),
    ("log-of-exp", call("exp", call("log", X)), None),
    ("log-of-exp", call("log2", call("exp", X)), None),
    ("exp-product", op("*", call("exp", X), call("exp", Y)), call("exp", op("+", X, Y))),
    ("exp-product", op("/", call("exp2", X), call("exp2", Y)), call("exp2", op("-", X, Y))),
    ("exp-product", op("/", num(1.0), call("exp", X)), call("exp", neg(X))),
    ("exp-product", op("*", call("exp", X), call("exp2", Y)), None),
    (
        "sigmoid-form",
        op("/", num(1.0), op("+", num(1.0), call("exp", neg(X)))),
        call("sigmoid", X),
    ),
    (
        "sigmoid-form",
        op("/", num(1.0), op("+", call("exp", X), num(1.0))),
        call("sigmoid", neg(X)),
    ),
    ("sigmoid-form", op("*", X, call("sigmoid", X)), call("silu", X)),
    ("sigmoid-form", op("*", call("sigmoid", X), X), call("silu", X)),
    ("sigmoid-form", op("*", Y, call("sigmoid", X)), None),
    ("sigmoid-form", op("/", num(1.0), op("+", num(2.0), call("exp", X))), None),
    (
        "tanh-form",
        op("-", op("*", num(2.0), call("sigmoid", X)), num(1.0)),
        call("tanh", op("*", X, num(0.5))),
    ),
    ("tanh-form", op("-", op("*", num(3.0), call("sigmoid", X)), num(1.0)), None),
    ("softplus-form", call("log1p", call("exp", X)), call("softplus", X)),
    ("softplus-form", call("log", op("+", num(1.0), X)), call("log1p", X)),
    ("softplus-form", call("log", op("+", X, num(1.0))), call("log1p", X)),
    ("softplus-form", call("log", op("+", X, num(2.0))), None),
    ("reciprocal-root", op("/", num(1.0), call("sqrt", X)), call("rsqrt", X)),
    ("reciprocal-root", op("/", X, call("sqrt", X)), None),
    ("negated-factor", neg(op("*", X, num(2.0))), op("*", X, num(-2.0))),
    ("negated-factor", neg(op("/", X, num(2.0))), op("/", X, num(-2.0))),
    ("negated-factor", neg(op("*", N, num(2))), None),
    ("negated-factor", neg(op("*", X, Y)), None),
]


@pytest.mark.parametrize(
    ("name", "before", "after"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_rule(name: str, before: Expr, after: Expr | None) -> None:
    found = BY_NAME[name](before)
    assert found == after
    assert found is None or found.type == before.type


def test_every_rule_has_a_case_that_fires_and_says_what_it_does() -> None:
    assert {name for name, _, after in CASES if after is not None} == set(BY_NAME)
    assert len(BY_NAME) == len(RULES)
    assert all(rule.doc.endswith(".") for rule in RULES)


def test_a_rule_never_turns_a_vector_into_a_scalar() -> None:
    gate = load("gate", H, coord("d"), kind=VECTOR)
    square = Binary(BinaryOp.POW, gate, num(0), VECTOR, span=gate.span)
    assert all(rule(square) is None for rule in RULES)


def test_a_leaf_is_left_alone() -> None:
    for leaf in (RAW, X, N, B, num(1.0), size("Q")):
        assert all(rule(leaf) is None for rule in RULES)


POINTS = np.array([-30.0, -2.5, -0.5, -0.0, 0.0, 1e-3, 0.7, 3.0, 25.0, 600.0, -math.inf, math.inf])


@pytest.mark.parametrize("name", [r.name for r in RULES])
def test_a_rule_keeps_the_value(name: str) -> None:
    for rule, before, after in CASES:
        if rule == name and after is not None and before.type == FLOAT:
            x, y = (p.ravel() for p in np.meshgrid(POINTS, POINTS))
            wanted, found = (_value(e, x, y) for e in (before, after))
            fine = ~np.isnan(wanted) & ~np.isinf(wanted)
            np.testing.assert_allclose(found[fine], wanted[fine], rtol=1e-11, atol=1e-15)


def _value(expr: Expr, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def leaf(node: Expr) -> object:
        match node:
            case Scalar("x"):
                return x
            case Scalar("y"):
                return y
            case Scalar(_, kind):
                return 3 if kind == INT else True
            case Raw():
                return x - y
        return 5

    return np.broadcast_to(evaluate(expr, leaf, lambda *_: 0.5), x.shape)
