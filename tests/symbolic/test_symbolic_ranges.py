"""Closed-form ranges against every element: both directions, each rule, and random masks."""

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
    size,
    to_float,
    to_int,
)
from mask_strategies import calls, masks

from attnlang.ir.nodes import BOOL, FLOAT, INT, Expr
from attnlang.symbolic.masks import MaskEnv, brute_force
from attnlang.symbolic.range_tree import Direction, Guarded, HalfLine, Unsolved, leaves
from attnlang.symbolic.solve_mask import solve
from attnlang.symbolic.tile_ranges import tile_ranges

DISTANCE = op("-", Q_IDX, KV_IDX)
W, C, G = scalar("w", INT), scalar("c", INT), scalar("g", INT)


def members(ranges: tuple[tuple[int, int], ...], extent: int) -> np.ndarray:
    found = np.zeros(extent, np.bool_)
    for begin, end in ranges:
        assert 0 <= begin < end <= extent
        assert not found[begin:end].any()
        found[begin:end] = True
    return found


def check(mask: Expr, env: MaskEnv, tile: int) -> tuple[int, int]:
    """Assert that all ranges hold; return how many lines they decide, and how many could be."""
    kept = brute_force(mask, env)
    decided = decidable = 0
    for direction in Direction:
        lines = kept if direction == Direction.KEYS else kept.T
        found = tile_ranges(mask, env, tile=tile, direction=direction)
        assert len(found) == -(-lines.shape[0] // tile)
        for i, coverage in enumerate(found):
            block = lines[i * tile : (i + 1) * tile]
            may = members(coverage.may, lines.shape[1])
            must = members(coverage.must, lines.shape[1])
            assert not (block.any(axis=0) & ~may).any(), (direction, i, coverage)
            assert not (must & ~block.all(axis=0)).any(), (direction, i, coverage)
            decided += int((~may | must).sum())
            decidable += int((~block.any(axis=0) | block.all(axis=0)).sum())
    return decided, decidable


@settings(max_examples=200, deadline=None)
@given(masks, calls(), st.integers(1, 9))
def test_ranges_hold_for_every_element(mask: Expr, env: MaskEnv, tile: int) -> None:
    check(mask, env, tile)


_small = st.integers(-9, 30)
_positions = st.sampled_from([Q_IDX, KV_IDX, Q_ROW, KV_COL, DISTANCE, neg(DISTANCE)])
_terms = st.recursive(
    _positions,
    lambda x: st.one_of(
        st.builds(lambda a, n: op("+", a, num(n)), x, _small),
        st.builds(lambda a, n: op("*", a, num(n)), x, st.integers(-3, 3)),
        st.builds(lambda a, n: op("//", a, num(n)), x, st.integers(-3, 7)),
        st.builds(lambda a: op("//", a, scalar("m", INT)), x),
        st.builds(lambda a: op("*", a, scalar("m", INT)), x),
        st.builds(lambda a: op("+", a, scalar("n", INT)), x),
        st.builds(lambda a, n: op("%", a, num(n)), x, st.integers(-3, 7)),
        st.builds(lambda a: call("abs", a), x),
        st.builds(lambda a: call("sign", a), x),
        st.builds(lambda a, b: call("min", a, b), x, st.one_of(x, _small.map(num))),
        st.builds(lambda a, b: call("max", a, b), x, st.one_of(x, _small.map(num))),
        st.builds(lambda a, m, n: call("clamp", a, num(m), num(n)), x, _small, _small),
        st.builds(lambda a, b: select(compare("<", KV_IDX, num(5)), a, b), x, x),
    ),
    max_leaves=3,
)
_relations = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
_atoms = st.one_of(
    st.builds(compare, _relations, _terms, _terms),
    st.builds(compare, _relations, _terms, st.sampled_from([scalar("n", INT), scalar("m", INT)])),
    st.builds(lambda r, a: compare(r, to_float(a), scalar("x")), _relations, _terms),
    st.builds(lambda r, a: compare(r, scalar("x"), to_float(a)), _relations, _terms),
)
_structured = st.recursive(
    _atoms,
    lambda x: st.one_of(
        st.builds(both, x, x),
        st.builds(either, x, x),
        st.builds(no, x),
        st.builds(select, x, x, x),
        st.builds(compare, st.sampled_from(["==", "!="]), x, x),
    ),
    max_leaves=4,
)


@settings(max_examples=250, deadline=None)
@given(_structured, calls(), st.integers(1, 9))
def test_ranges_through_every_rule_hold(mask: Expr, env: MaskEnv, tile: int) -> None:
    check(mask, env, tile)


def env_of(q_len: int, kv_len: int, q_offset: int = 3, kv_offset: int = -7, **v: object) -> MaskEnv:
    scalars = {k: x for k, x in v.items() if not isinstance(x, np.ndarray)}
    tensors = {k: x for k, x in v.items() if isinstance(x, np.ndarray)}
    return MaskEnv(1, 0, 0, q_len, kv_len, q_offset, kv_offset, {}, scalars, tensors)


EXACT = {
    "coordinate": compare("<=", KV_IDX, Q_IDX),
    "columns": compare("<", KV_COL, op("-", size("KV"), size("Q"))),
    "coefficient": compare("<=", op("*", num(3), KV_IDX), op("+", Q_IDX, num(1))),
    "negative-coefficient": compare("<", op("*", num(-2), KV_IDX), Q_IDX),
    "chain": both(compare("<=", num(0), DISTANCE), compare("<", DISTANCE, W)),
    "sides": compare("<=", op("+", KV_IDX, Q_IDX), W),
    "quotient": compare("<=", op("//", KV_IDX, C), op("//", Q_IDX, C)),
    "quotient-constant": compare(">", op("//", KV_IDX, num(6)), op("//", Q_IDX, num(6))),
    "negative-divisor": compare(">", op("//", KV_IDX, num(-6)), op("//", Q_IDX, num(-6))),
    "chunk": compare("==", op("//", KV_IDX, C), op("//", Q_IDX, C)),
    "other-chunk": compare("!=", op("//", KV_IDX, C), op("//", Q_IDX, C)),
    "product": compare("<", op("*", KV_IDX, C), Q_IDX),
    "least": compare("<=", call("min", KV_IDX, num(9)), Q_IDX),
    "greatest": compare("<", call("max", KV_IDX, num(2), num(5)), Q_IDX),
    "clamped": compare("==", call("clamp", KV_IDX, num(2), num(12)), num(12)),
    "absolute": compare("<=", call("abs", DISTANCE), W),
    "outside": compare(">", call("abs", DISTANCE), W),
    "tiles": compare("<=", call("abs", op("-", op("//", Q_IDX, C), op("//", KV_IDX, C))), num(1)),
    "sign": compare("==", call("sign", DISTANCE), num(1)),
    "if": compare("<", select(compare("<", KV_IDX, num(4)), num(0), DISTANCE), W),
    "prefix": either(CAUSAL, compare("<", KV_IDX, load("p", B, kind=INT))),
    "sinks": both(CAUSAL, either(compare("<", KV_IDX, G), compare("<", DISTANCE, W))),
    "global": either(compare("<=", call("abs", DISTANCE), W), compare("<", Q_IDX, G)),
    "not": no(compare("<=", KV_IDX, Q_IDX)),
    "same": compare("==", compare("<", KV_IDX, num(4)), compare("<", Q_IDX, num(4))),
    "float-window": compare("<", to_float(DISTANCE), scalar("x")),
    "float-most": compare(">=", scalar("x"), to_float(DISTANCE)),
    "float-equal": compare("==", to_float(KV_IDX), scalar("y")),
    "remainder-bound": compare("<=", op("%", KV_IDX, C), op("+", C, Q_ROW)),
    "constant": TRUE,
    "nothing": FALSE,
}
VALUES = {"w": 11, "c": 7, "g": 3, "x": 5.5, "y": 4.0, "p": np.array([1, 9])}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("shape", [(40, 40), (17, 53), (53, 17), (1, 30)])
def test_what_is_solved_decides_all_that_can_be(name: str, shape: tuple[int, int]) -> None:
    tree = solve(EXACT[name], Direction.KEYS)
    assert name == "remainder-bound" or not any(isinstance(x, Unsolved) for x in leaves(tree))
    for tile in (1, 5, 8):
        decided, decidable = check(EXACT[name], env_of(*shape, **VALUES), tile)
        assert decided >= 0.98 * decidable, (decided, decidable)


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (compare("<", DISTANCE, W), {"w": 2**63 - 1}),
        (compare("<", DISTANCE, W), {"w": -(2**63)}),
        (compare("<=", KV_IDX, op("+", Q_IDX, W)), {"w": 2**63 - 1}),
        (compare("<", op("-", KV_IDX, W), Q_IDX), {"w": -(2**63)}),
        (compare("<=", call("abs", op("+", DISTANCE, W)), num(5)), {"w": -(2**63) + 3}),
        (compare("<=", op("*", KV_IDX, W), Q_IDX), {"w": 2**62}),
        (compare("==", op("//", KV_IDX, C), op("//", Q_IDX, C)), {"c": 0}),
        (compare("==", op("//", KV_IDX, C), op("//", Q_IDX, C)), {"c": -4}),
        (compare("<=", op("%", KV_IDX, C), num(1)), {"c": 0}),
        (compare("<", to_float(DISTANCE), scalar("x", FLOAT)), {"x": float("nan")}),
        (compare("<", to_float(DISTANCE), scalar("x", FLOAT)), {"x": float("inf")}),
        (no(compare("<", to_float(DISTANCE), scalar("x", FLOAT))), {"x": float("nan")}),
        (compare("!=", to_float(DISTANCE), scalar("x", FLOAT)), {"x": float("nan")}),
        (compare("<", DISTANCE, to_int(scalar("x", FLOAT))), {"x": 6.9}),
    ],
)
def test_what_is_extreme_is_safe(mask: Expr, values: dict[str, object]) -> None:
    for tile in (1, 5, 16):
        check(mask, env_of(23, 31, **values), tile)


def test_a_huge_window_is_no_window() -> None:
    mask = both(CAUSAL, compare("<", DISTANCE, W))
    env = env_of(64, 64, 0, 0, w=2**63 - 1)
    causal = tile_ranges(CAUSAL, env, tile=16)
    assert tile_ranges(mask, env, tile=16) == causal
    assert causal[1].may == ((0, 32),)
    assert causal[1].must == ((0, 17),)


def test_what_reads_the_score_or_a_tensor_of_keys_is_unsolved_inside_the_rest() -> None:
    hidden = load("keep", KV_COL, kind=BOOL)
    for inner in (compare(">", RAW, num(0.0)), hidden, no(hidden)):
        tree = solve(both(CAUSAL, inner), Direction.KEYS)
        assert sum(isinstance(x, HalfLine) for x in leaves(tree)) == 1
        assert sum(isinstance(x, Unsolved) for x in leaves(tree)) == 1
    env = env_of(40, 40, 0, 0, keep=np.arange(40) % 3 == 0)
    ranges = tile_ranges(both(CAUSAL, hidden), env, tile=8)
    assert [c.may for c in ranges] == [((0, i + 8),) for i in range(0, 40, 8)]
    assert all(c.must == () for c in ranges)


def test_what_the_call_alone_knows_is_guarded() -> None:
    tree = solve(compare("==", op("//", KV_IDX, C), op("//", Q_IDX, C)), Direction.KEYS)
    assert isinstance(tree, Guarded)
    plain = solve(both(compare("<=", num(0), DISTANCE), compare("<", DISTANCE, W)), Direction.KEYS)
    assert not any(isinstance(x, Guarded) for x in leaves(plain))


def test_a_condition_of_many_alternatives_stays_small() -> None:
    mask, term = CAUSAL, DISTANCE
    for i in range(40):
        mask = select(compare("<", KV_IDX, num(i)), mask, no(mask))
        term = call("min", call("abs", term), call("abs", op("-", term, num(i))))
    for hard in (mask, compare("<", term, W)):
        assert len(leaves(solve(hard, Direction.KEYS))) <= 64
        check(hard, env_of(16, 24, w=3), 4)


def test_a_million_rows_take_linear_memory() -> None:
    import tracemalloc

    n = 1_000_000
    mask = both(compare("<=", num(0), DISTANCE), compare("<", DISTANCE, W))
    env = env_of(n, n, 0, 0, w=1024)
    tracemalloc.start()
    ranges = tile_ranges(mask, env, tile=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ranges) == 15_625
    assert peak < 2000 * len(ranges)
    assert ranges[0].may == ((0, 64),)
    for i in range(20, len(ranges), 997):
        assert ranges[i].may == ((64 * i - 1023, 64 * i + 64),)
        assert ranges[i].must == ((64 * i + 63 - 1023, 64 * i + 1),)
