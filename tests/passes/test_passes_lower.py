"""All passes: what is constant folds, what does nothing goes, the rest keeps its value."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from ir_terms import (
    CALL_SCALE,
    CAUSAL,
    KV_COL,
    KV_IDX,
    Q_IDX,
    RAW,
    SPAN,
    B,
    H,
    both,
    call,
    compare,
    load,
    num,
    op,
    scalar,
    select,
    variant,
)

from attnlang.compiler import check_source
from attnlang.ir.nodes import (
    BOOL,
    INT,
    QK,
    Binary,
    BinaryOp,
    Const,
    Expr,
    Given,
    Kind,
    Raw,
    Scalar,
    ScalarParam,
    TensorParam,
    Weights,
)
from attnlang.ir.traverse import walk
from attnlang.ir.verify import verify
from attnlang.passes.describe import describe
from attnlang.passes.exponent import LOG2E
from attnlang.passes.lower import PASSES, lower
from attnlang.passes.lowered import Lowered
from attnlang.passes.simplify_pass import simplify_pass
from attnlang.passes.specialise import specialise
from attnlang.sources import Source

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.attn"))
NOTHING: frozenset[str] = frozenset()
DOT = QK(span=SPAN)

WINDOW = scalar("window", INT)
CONST_WINDOW = ScalarParam("window", Kind.INT, const=True, default=None, span=SPAN)
BIAS = TensorParam("bias", Kind.FLOAT, (), optional=True, span=SPAN)
DISTANCE = op("-", Q_IDX, KV_IDX)


def softmax(score: Expr, **others: Expr) -> Weights:
    weights = Weights(score, None, None, None, span=SPAN)
    return replace(weights, **others)


def test_const_parameters_and_given_become_constant_everywhere() -> None:
    windowed = variant(
        mask=compare("<", DISTANCE, WINDOW),
        score=select(Given("bias", BOOL, span=SPAN), load("bias", H), RAW),
        params=[CONST_WINDOW, BIAS],
    )
    special = specialise(windowed, {"window": 5}, NOTHING)
    found = [e for root in (special.mask, special.score) for e in walk(root)]
    assert not any(isinstance(e, Given | Scalar) for e in found)
    assert special.mask == compare("<", DISTANCE, num(5))
    assert special.params == windowed.params
    assert lower(windowed, consts={"window": 5}, given=NOTHING).variant.score == RAW
    with_bias = lower(windowed, consts={"window": 5}, given=frozenset({"bias"}))
    assert with_bias.variant.score == load("bias", H)


def test_a_default_fills_in_and_takes_the_parameters_kind() -> None:
    cap = ScalarParam("cap", Kind.FLOAT, const=True, default=50.0, span=SPAN)
    capped = variant(score=op("*", RAW, scalar("cap")), params=[cap])
    assert specialise(capped, {}, NOTHING).score == op("*", RAW, num(50.0))
    assert specialise(capped, {"cap": 3}, NOTHING).score == op("*", RAW, num(3.0))
    with pytest.raises(ValueError, match="window"):
        specialise(variant(params=[CONST_WINDOW]), {}, NOTHING)


def test_what_does_nothing_leaves_nothing() -> None:
    busy = variant(
        score=RAW,
        mask=both(compare("<", KV_COL, num(10**9)), compare(">=", KV_COL, num(0))),
        weights=softmax(
            call("clamp", op("*", RAW, num(1.0)), num(-math.inf), num(math.inf)),
            factor=op("-", num(2.0), num(1.0)),
            sink=num(-math.inf),
            dropout=op("*", num(0.0), num(1.0)),
        ),
    )
    simple, fired = simplify_pass(busy)
    assert simple.weights == softmax(RAW)
    assert simple.mask == compare("<", KV_COL, num(10**9))
    names = {f.rule for f in fired}
    assert {"factor-of-one", "sink-of-nothing", "dropout-of-nothing", "compare-range"} <= names


def test_a_factor_of_one_without_softmax_is_the_weight() -> None:
    flat = variant(weights=Weights(None, None, num(1.0), None, span=SPAN))
    assert lower(flat, consts={}, given=NOTHING).weight == num(1.0)


def test_a_softmax_lowers_to_an_exponent_and_a_sink() -> None:
    sunk = variant(mask=CAUSAL, weights=softmax(RAW, sink=load("sink", H)))
    low = lower(sunk, consts={}, given=NOTHING)
    assert low.exponent == op("*", DOT, op("*", CALL_SCALE, num(LOG2E)))
    assert low.sink == op("*", load("sink", H), num(LOG2E))
    assert low.weight is None
    assert low.mask == CAUSAL
    assert low.column_mask is None


def test_a_weight_stays_in_base_e() -> None:
    score = call("sigmoid", op("+", RAW, scalar("bias")))
    low = lower(
        variant(weights=Weights(None, None, score, None, span=SPAN)), consts={}, given=NOTHING
    )
    assert low.weight == call("sigmoid", op("+", op("*", DOT, CALL_SCALE), scalar("bias")))
    assert low.exponent is None


def test_a_mask_that_reads_the_score_reads_the_dot_product() -> None:
    length = compare("<", KV_IDX, load("length", B, kind=INT))
    low = lower(variant(mask=both(length, compare(">", RAW, num(0.0)))), consts={}, given=NOTHING)
    assert low.mask == both(length, compare(">", op("*", CALL_SCALE, DOT), num(0.0)))
    assert low.column_mask == length


def test_a_mask_that_hides_all_is_false() -> None:
    low = lower(variant(mask=both(CAUSAL, compare("<", num(2), num(1)))), consts={}, given=NOTHING)
    assert isinstance(low.mask, Const)
    assert low.mask.value is False


def test_a_whole_window_of_constant_width() -> None:
    keep = both(CAUSAL, both(compare("<=", num(0), DISTANCE), compare("<", DISTANCE, WINDOW)))
    low = lower(variant(mask=keep, params=[CONST_WINDOW]), consts={"window": 7}, given=NOTHING)
    assert low.mask == both(CAUSAL, compare(">", KV_IDX, op("-", Q_IDX, num(7))))
    assert low.operations[1] < low.operations[0]
    assert low.rules["compare-sides"] == 2


def test_the_passes_are_named_and_say_why_they_stand_where_they_do() -> None:
    assert len({p.name for p in PASSES}) == len(PASSES)
    assert PASSES[0].name == "specialise"
    assert all(p.reason for p in PASSES)


def check_lowered(low: Lowered) -> None:
    for _, expr in low.roots:
        assert not any(isinstance(e, Raw) for e in walk(expr))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_lowers_and_stays_well_formed(path: Path) -> None:
    result = check_source(Source(path.name, path.read_text(encoding="utf-8")), folder=path.parent)
    assert not result.errors
    for item in result.variants:
        tensors = frozenset(p.name for p in item.params if isinstance(p, TensorParam))
        for given in (tensors, NOTHING):
            low = lower(item, consts={}, given=given, verify=lambda state: verify(state.variant))
            check_lowered(low)
            assert low.operations[1] <= low.operations[0]
            text = describe(low)
            assert f"variant {item.name}\n" in text
            assert "operations for each element" in text


def test_describe_shows_expressions_loops_rules_and_counts() -> None:
    score = op("+", RAW, op("*", load("m", H), scalar("t")))
    low = lower(
        variant(score=score, mask=both(CAUSAL, compare("<=", KV_IDX, Q_IDX))),
        consts={},
        given=NOTHING,
    )
    assert describe(low) == (
        "variant made\n"
        f"  exponent = dot(q, k) * (scale * {LOG2E})\n"
        f"  shift = t * {LOG2E} * m[h]\n"
        "  mask = kv_idx <= q_idx\n"
        "\n"
        "computed outside the loop over elements:\n"
        f"  call     scale * {LOG2E}\n"
        f"  request  t * {LOG2E} * m[h]\n"
        "\n"
        "operations for each element: 7 as written, 2 as lowered\n"
        "\n"
        "rules, with the operations for each element of what they rewrote:\n"
        "    1  logic-repeated         2 -> 1\n"
        "    1  shift-invariance       1 -> 0\n"
        "\n"
        "what did not apply:\n"
        "       score-bounds: nothing bounds a term of the score\n"
        "\n"
        "facts:\n"
        "       non-empty-rows: a row keeps the first column if KV > 0 and kv_offset <= q_idx; "
        "with the default q_offset every row does if KV > 0 and Q <= KV\n"
        f"       shift: lse is that of the exponent plus t * {LOG2E} * m[h], in base 2\n"
    )


def test_products_fold_once_the_exponent_has_brought_them_together() -> None:
    low = lower(variant(score=op("/", RAW, num(LOG2E))), consts={}, given=NOTHING)
    assert low.exponent == Binary(BinaryOp.MUL, DOT, CALL_SCALE, DOT.type, span=SPAN)
