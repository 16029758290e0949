"""Tile verdicts against every element, and how many tiles stay unknown for the usual masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_terms import (
    CAUSAL,
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
    either,
    load,
    num,
    op,
    scalar,
    to_float,
)
from mask_strategies import calls, masks

from attnlang.ir.nodes import BOOL, INT, Expr
from attnlang.symbolic.masks import (
    EMPTY,
    FULL,
    UNKNOWN,
    MaskEnv,
    brute_force,
    elements,
    split_mask,
    tile_verdicts,
    verdicts_of,
)


def true_verdicts(kept: np.ndarray, q_tile: int, kv_tile: int) -> np.ndarray:
    """What is so of each tile: UNKNOWN where it holds both."""
    return np.array(
        [
            [
                FULL if tile.all() else UNKNOWN if tile.any() else EMPTY
                for k in range(0, kept.shape[1], kv_tile)
                for tile in [kept[q : q + q_tile, k : k + kv_tile]]
            ]
            for q in range(0, kept.shape[0], q_tile)
        ]
    )


def check(mask: Expr, env: MaskEnv, q_tile: int, kv_tile: int) -> float:
    """Assert that each verdict holds; return the share of decided tiles left unknown."""
    found = tile_verdicts(mask, env, q_tile=q_tile, kv_tile=kv_tile)
    truth = true_verdicts(brute_force(mask, env), q_tile, kv_tile)
    assert found.shape == truth.shape
    assert found.dtype == np.int8
    wrong = (found != UNKNOWN) & (found != truth)
    assert not wrong.any(), (found, truth)
    decided = truth != UNKNOWN
    return float((found[decided] == UNKNOWN).mean()) if decided.any() else 0.0


@settings(max_examples=250, deadline=None)
@given(masks, calls(), st.integers(1, 9), st.integers(1, 9))
def test_a_verdict_holds_for_every_element(
    mask: Expr, env: MaskEnv, q_tile: int, kv_tile: int
) -> None:
    check(mask, env, q_tile, kv_tile)


def call_of(q_len: int, kv_len: int, **values: object) -> MaskEnv:
    scalars = {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}
    tensors = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
    return MaskEnv(1, 0, 0, q_len, kv_len, kv_len - q_len, 0, {}, scalars, tensors)


DISTANCE = op("-", Q_IDX, KV_IDX)
WINDOW = both(compare("<=", num(0), DISTANCE), compare("<", DISTANCE, scalar("w", INT)))
PREFIX = either(CAUSAL, compare("<", KV_IDX, load("prefix", B, kind=INT)))
PADDING = compare("<", KV_IDX, load("length", B, kind=INT))
DOCUMENT = compare("==", load("doc", B, Q_IDX, kind=INT), load("doc", B, KV_IDX, kind=INT))
CHUNK = op("//", Q_IDX, scalar("c", INT))
CHUNKED = both(CAUSAL, compare("==", CHUNK, op("//", KV_IDX, scalar("c", INT))))
BLOCK_CAUSAL = compare("<=", op("//", KV_IDX, num(16)), op("//", Q_IDX, num(16)))
DOCS = np.repeat(np.arange(8), 25)[None].repeat(2, 0)
GLOBAL = either(
    compare("<=", call("abs", DISTANCE), scalar("w", INT)), compare("<", Q_IDX, num(40))
)


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (CAUSAL, {}),
        (WINDOW, {"w": 37}),
        (PREFIX, {"prefix": np.array([9, 70])}),
        (PADDING, {"length": np.array([9, 131])}),
        (DOCUMENT, {"doc": DOCS}),
        (both(CAUSAL, DOCUMENT), {"doc": DOCS}),
        (CHUNKED, {"c": 48}),
        (BLOCK_CAUSAL, {}),
        (TRUE, {}),
        (FALSE, {}),
    ],
    ids=[
        "causal",
        "window",
        "prefix",
        "padding",
        "document",
        "packed",
        "chunked",
        "blocks",
        "full",
        "none",
    ],
)
@pytest.mark.parametrize(("q_len", "kv_len"), [(200, 200), (61, 200), (200, 61)])
def test_the_usual_masks_leave_no_decided_tile_unknown(
    mask: Expr, values: dict[str, object], q_len: int, kv_len: int
) -> None:
    env = call_of(q_len, kv_len, **values)
    for q_tile, kv_tile in [(16, 16), (64, 32), (1, 64), (7, 13)]:
        assert check(mask, env, q_tile, kv_tile) == 0.0


def test_a_tile_that_two_alternatives_cover_together_stays_unknown() -> None:
    mask = either(compare("<", Q_IDX, num(8)), compare(">=", Q_IDX, num(8)))
    env = call_of(16, 16)
    assert check(mask, env, 16, 16) == 1.0
    assert check(mask, env, 8, 16) == 0.0
    assert check(GLOBAL, call_of(200, 200, w=20), 16, 16) == 0.0


def test_a_huge_window_is_no_window() -> None:
    for mask in (WINDOW, compare("<", DISTANCE, scalar("w", INT))):
        env = call_of(64, 64, w=2**63 - 1)
        assert check(mask, env, 16, 16) == 0.0


def test_a_remainder_of_a_huge_divisor_may_be_huge() -> None:
    for divisor, op_, bound in ((2**63 - 1, "<", 2**61), (-(2**63), ">", -(2**61) - 1)):
        rest = op("%", op("-", Q_IDX, num(5)), scalar("w", INT))
        check(compare(op_, rest, num(bound)), call_of(16, 16, w=divisor), 1, 1)


def test_a_dilated_mask_is_unknown_where_a_period_fits_and_safe() -> None:
    mask = compare("==", op("%", DISTANCE, num(3)), num(0))
    check(mask, call_of(40, 40), 8, 8)
    assert (tile_verdicts(mask, call_of(40, 40), q_tile=1, kv_tile=1) != UNKNOWN).all()


def test_a_table_of_blocks_is_read_exactly() -> None:
    table = np.random.default_rng(0).random((8, 8)) < 0.5
    mask = load("R", op("//", Q_IDX, num(16)), op("//", KV_IDX, num(16)), kind=BOOL)
    env = call_of(128, 128, R=table)
    found = tile_verdicts(mask, env, q_tile=16, kv_tile=16)
    np.testing.assert_array_equal(found, np.where(table, FULL, EMPTY))


def test_what_reads_the_score_is_unknown_unless_something_else_decides() -> None:
    mask = both(CAUSAL, compare(">", RAW, num(0.0)))
    env = call_of(64, 64)
    found = tile_verdicts(mask, env, q_tile=16, kv_tile=16)
    assert (found[np.triu_indices(4, 1)] == EMPTY).all()
    assert (found[np.tril_indices(4)] == UNKNOWN).all()
    with pytest.raises(ValueError, match="without q and k"):
        brute_force(mask, env)


def test_a_number_that_may_be_nan_decides_nothing() -> None:
    bias = np.zeros(64, np.float32)
    bias[3] = np.nan
    mask = compare("<=", load("bias", KV_COL), num(1.0))
    found = tile_verdicts(mask, call_of(16, 64, bias=bias), q_tile=16, kv_tile=16)
    assert found.tolist() == [[UNKNOWN, FULL, FULL, FULL]]


def test_floats_are_judged_with_room_for_float32() -> None:
    # In float32 16777217.0 is 16777216.0, so a strict comparison of the two is false there.
    mask = compare("<", num(16777216.0), to_float(op("+", KV_IDX, num(16777217))))
    assert tile_verdicts(mask, call_of(1, 1), q_tile=1, kv_tile=1).tolist() == [[UNKNOWN]]


def test_what_infinity_leaves_of_a_whole_division_is_not_known() -> None:
    mask = compare("<", to_float(Q_IDX), op("//", num(float("inf")), to_float(Q_IDX)))
    env = call_of(4, 9)
    assert tile_verdicts(mask, env, q_tile=4, kv_tile=9).tolist() == [[UNKNOWN]]


def test_no_tile_without_rows_or_columns() -> None:
    assert tile_verdicts(CAUSAL, call_of(0, 5), q_tile=4, kv_tile=4).shape == (0, 2)
    assert tile_verdicts(CAUSAL, call_of(5, 0), q_tile=4, kv_tile=4).shape == (2, 0)


def test_an_empty_tensor_reads_as_zero() -> None:
    mask = load("keep", KV_COL, kind=BOOL)
    env = call_of(4, 4, keep=np.zeros(0, np.bool_))
    assert tile_verdicts(mask, env, q_tile=4, kv_tile=4).tolist() == [[EMPTY]]


def test_no_object_of_the_size_of_the_mask_is_built() -> None:
    import tracemalloc

    n = 1 << 16
    env = call_of(n, n, doc=np.repeat(np.arange(n // 512), 512)[None].repeat(2, 0))
    tracemalloc.start()
    found = tile_verdicts(both(CAUSAL, DOCUMENT), env, q_tile=512, kv_tile=512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found != EMPTY).sum() == n // 512
    assert peak < 512 * n  # n * n would be 4 GiB of bools


def test_the_mask_splits_by_whether_a_conjunct_reads_a_row() -> None:
    keep = load("keep", H, KV_COL, kind=BOOL)
    flag = scalar("flag", BOOL)
    by_row = load("rows", Q_ROW, kind=BOOL)
    by_score = compare(">", RAW, num(0.0))
    mask = both(both(both(keep, CAUSAL), both(flag, by_row)), by_score)
    columns, rest = split_mask(mask)
    assert columns == (keep, flag)
    assert rest == (CAUSAL, by_row, by_score)
    assert split_mask(either(keep, CAUSAL)) == ((), (either(keep, CAUSAL),))


@pytest.mark.parametrize("mask", [CAUSAL, WINDOW, CHUNKED, BLOCK_CAUSAL, TRUE, FALSE])
def test_verdicts_of_single_blocks_hold_and_are_decided(mask: Expr) -> None:
    rng = np.random.default_rng(0)
    env = call_of(200, 200, w=37, c=16)
    rows, columns = (np.sort(rng.integers(0, 200, (2, 60)), axis=0) for _ in range(2))
    found = verdicts_of(mask, env, (rows[0], rows[1]), (columns[0], columns[1]))
    for i, verdict in enumerate(found):
        q, k = (np.arange(x[0, i], x[1, i] + 1) for x in (rows, columns))
        kept = elements(mask, env, q.reshape(-1, 1), k.reshape(1, -1))
        truth = FULL if kept.all() else UNKNOWN if kept.any() else EMPTY
        assert verdict == truth
