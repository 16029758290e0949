"""Ranges as mathematics: the text of usual masks, and its numbers against the ranges themselves."""

import pytest
from ir_terms import CAUSAL, KV_IDX, Q_IDX, RAW, both, call, compare, either, load, num, op, scalar

from attnlang.ir.nodes import BOOL, INT, Expr
from attnlang.symbolic.masks import MaskEnv
from attnlang.symbolic.range_text import describe_ranges
from attnlang.symbolic.range_tree import Direction
from attnlang.symbolic.tile_ranges import tile_ranges

DISTANCE = op("-", Q_IDX, KV_IDX)
W, C, N = scalar("w", INT), scalar("c", INT), scalar("n", INT)
WINDOW = both(compare("<=", num(0), DISTANCE), compare("<", DISTANCE, W))
SINKS = both(CAUSAL, either(compare("<", KV_IDX, N), compare("<", DISTANCE, W)))
CHUNK = compare("==", op("//", Q_IDX, C), op("//", KV_IDX, C))
LOCAL = compare("<=", call("abs", DISTANCE), W)
OUTSIDE = compare(">", call("abs", DISTANCE), W)
PADDING = compare("<", KV_IDX, load("length", scalar("r", INT), kind=INT))


@pytest.mark.parametrize(
    ("mask", "may", "must"),
    [
        (CAUSAL, ["0 .. i1"], ["0 .. i0"]),
        (WINDOW, ["max(0, i0 - w + 1) .. i1"], ["max(0, i1 - w + 1) .. i0"]),
        (LOCAL, ["max(0, i0 - w) .. w + i1"], ["max(0, i1 - w) .. w + i0"]),
        (
            SINKS,
            ["0 .. min(i1, n - 1)", "max(0, i0 - w + 1) .. i1"],
            ["0 .. min(i0, n - 1)", "max(0, i1 - w + 1) .. i0"],
        ),
        (
            CHUNK,
            ["max(0, i0 // c * c) .. i1 // c * c + c - 1"],
            ["max(0, i1 // c * c) .. i0 // c * c + c - 1"],
        ),
        (
            OUTSIDE,
            ["0 .. i1 - w - 1", "max(0, w + i0 + 1) .. KV - 1"],
            ["0 .. i0 - w - 1", "max(0, w + i1 + 1) .. KV - 1"],
        ),
    ],
)
def test_the_text_of_usual_masks(mask: Expr, may: list[str], must: list[str]) -> None:
    text = describe_ranges(mask)
    assert sorted(text.may) == sorted(may)
    assert sorted(text.must) == sorted(must)
    assert text.unsolved == ()
    assert text.provided == (("c >= 1",) if mask is CHUNK else ())


@pytest.mark.parametrize("mask", [CAUSAL, WINDOW, LOCAL, SINKS, CHUNK, OUTSIDE])
@pytest.mark.parametrize("direction", Direction)
def test_the_text_computes_the_ranges(mask: Expr, direction: Direction) -> None:
    """The text is Python too: evaluated at a block, it gives what the kernel finds."""
    values = {"w": 9, "c": 5, "n": 3}
    env = MaskEnv(0, 0, 0, 30, 40, 10, 0, {}, values, {})
    text = describe_ranges(mask, direction)
    shift, first = (0, 10) if direction == Direction.KEYS else (10, 0)
    for block, coverage in enumerate(tile_ranges(mask, env, tile=10, direction=direction)):
        names = {**values, "KV": 40, "Q": 30, "max": max, "min": min}
        for start in "ij":
            names |= {f"{start}0": first + block * 10, f"{start}1": first + block * 10 + 9}
        for pieces, ranges in ((text.may, coverage.may), (text.must, coverage.must)):
            said = set()
            for piece in pieces:
                ends, _, where = piece.partition(" where ")
                if where and not _holds(where, names):
                    continue
                low, high = (eval(end, {"__builtins__": {}}, names) for end in ends.split(" .. "))
                said |= set(range(low - shift, min(high, 39) - shift + 1))
            assert said == {x for begin, end in ranges for x in range(begin, end)}


def _holds(where: str, names: dict[str, object]) -> bool:
    condition, _, quantity = where.rpartition(" for ")
    join = any if quantity == "some" else all
    block = range(int(str(names["j0"])), int(str(names["j1"])) + 1)
    return join(eval(condition, {"__builtins__": {}}, {**names, "kv_idx": j}) for j in block)


def test_it_says_what_is_left_and_why() -> None:
    hidden = load("keep", KV_IDX, kind=BOOL)
    dilated = compare("==", op("%", DISTANCE, num(4)), num(0))
    text = describe_ranges(both(both(CAUSAL, hidden), both(dilated, compare(">", RAW, num(0.5)))))
    assert text.may == ("0 .. i1",)
    assert text.must == ()
    reasons = dict(text.unsolved)
    assert reasons["keep[kv_idx]"] == "a tensor is read"
    assert any("periodic" in reason for reason in reasons.values())
    assert str(text).splitlines()[:2] == [
        "keys of query rows [i0, i1]: 0 .. i1",
        "all kept: none",
    ]


def test_what_only_the_call_knows_is_a_condition() -> None:
    mask = either(scalar("flag", BOOL), both(PADDING, compare("<", Q_IDX, N)))
    text = describe_ranges(mask)
    assert text.may == (
        "0 .. KV - 1 where flag",
        "0 .. length[r] - 1 where q_idx < n for some",
    )
