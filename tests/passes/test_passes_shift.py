"""Shift invariance: what leaves the argument comes back in the lse, and nothing else changes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_terms import (
    CAUSAL,
    KV_COL,
    KV_IDX,
    Q_IDX,
    Q_ROW,
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
    to_float,
    variant,
)
from support import Sizes, assert_accurate, make_qkv

import attnlang
from attnlang.ir.nodes import (
    INT,
    Anchor,
    CallScale,
    Coord,
    CoordName,
    Expr,
    Raw,
    Scalar,
    TensorParam,
    Variant,
    Weights,
)
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import walk
from attnlang.passes.lower import lower
from attnlang.passes.lowered import Lowered
from attnlang.symbolic.evaluate import evaluate
from attnlang.symbolic.shift import split_row
from attnlang.symbolic.simplify import simplify
from attnlang.symbolic.variability import variability

DISTANCE = to_float(op("-", KV_IDX, Q_IDX))
SLOPE, ROW, COLUMN = load("m", H), load("u", Q_ROW), load("w", KV_COL)
PAIR = load("t", Q_ROW, KV_COL)
T = scalar("t")


def finite(text: str) -> str:
    return f"({text} if abs({text}) < inf else 0.0)"


@pytest.mark.parametrize(
    ("argument", "rest", "shift"),
    [
        (op("+", RAW, ROW), "raw", "u[q_row]"),
        (op("-", op("+", RAW, SLOPE), T), "raw", "m[h] - t"),
        (op("-", RAW, op("-", ROW, PAIR)), "raw + t[q_row, kv_col]", "-u[q_row]"),
        (
            op("*", T, op("+", RAW, op("/", ROW, SLOPE))),
            "raw * t",
            "u[q_row] / m[h] * t",
        ),
        (
            op("+", RAW, op("*", SLOPE, DISTANCE)),
            "raw + (kv_idx - anchor(q_idx)) * m[h]",
            "(anchor(q_idx) - q_idx) * m[h]",
        ),
        (
            op("-", op("+", RAW, ROW), COLUMN),
            f"raw + ({finite('u[anchor(q_row)]')} - w[kv_col])",
            f"u[q_row] - {finite('u[anchor(q_row)]')}",
        ),
    ],
    ids=["row", "coarser", "pair", "factor", "alibi", "forgetting"],
)
def test_a_row_leaves(argument: Expr, rest: str, shift: str) -> None:
    low = lower(variant(score=argument), consts={}, given=frozenset())
    assert low.rules["shift-invariance"] == 1
    found = split_row(argument)
    assert found is not None
    assert print_expr(simplify(found.rest)[0]) == rest
    assert print_expr(simplify(found.shift)[0]) == shift


WHOLE = op("+", RAW, ROW)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (variant(score=RAW), "no term of the score reads the row alone"),
        (variant(score=op("+", RAW, COLUMN)), "no term of the score reads the row alone"),
        (variant(score=call("tanh", WHOLE)), "no term of the score reads the row alone"),
        (variant(score=select(CAUSAL, WHOLE, RAW)), "no term of the score reads the row alone"),
        (
            variant(score=op("+", RAW, op("+", COLUMN, T))),
            "no term of the score reads the row alone",
        ),
        (variant(score=ROW), "the terms of the row cost nothing where they stand"),
        # An int that may wrap is no sum.
        (
            variant(score=op("+", RAW, to_float(op("-", KV_IDX, scalar("n", INT))))),
            "no term of the score reads the row alone",
        ),
        (
            variant(weights=Weights(None, None, WHOLE, None, span=SPAN)),
            "there is no softmax",
        ),
        (
            variant(score=WHOLE, mask=compare(">", WHOLE, num(0.0))),
            "the mask or a factor reads the same score, which is computed once",
        ),
    ],
)
def test_what_stays_says_why(made: Variant, reason: str) -> None:
    low = lower(made, consts={}, given=frozenset())
    assert low.shift is None
    assert low.rules["shift-invariance"] == 0
    assert [d.reason for d in low.declined if d.rule == "shift-invariance"] == [reason]


def test_a_mask_keeps_the_whole_score() -> None:
    capped = op("*", WHOLE, num(2.0))
    low = lower(
        variant(score=capped, mask=compare(">", WHOLE, num(0.0))), consts={}, given=frozenset()
    )
    assert low.shift is not None
    assert any(isinstance(e, type(ROW)) and e == ROW for e in walk(low.mask))


LEAVES = [RAW, ROW, COLUMN, PAIR, SLOPE, T, DISTANCE, to_float(Q_IDX), num(2.0), num(-0.5)]


def _extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.one_of(
        st.builds(op, st.sampled_from(["+", "-", "+", "-", "*", "/"]), inner, inner),
        st.builds(neg, inner),
        st.builds(call, st.sampled_from(["tanh", "abs"]), inner),
        st.builds(lambda x, y: select(CAUSAL, x, y), inner, inner),
    )


scores = st.recursive(st.sampled_from(LEAVES), _extend, max_leaves=9)


@settings(max_examples=300, deadline=None)
@given(scores, st.integers(0, 2**31))
def test_rest_and_shift_make_the_argument(score: Expr, seed: int) -> None:
    found = split_row(score)
    if found is None:
        return
    assert not variability(found.shift) & {"kv", "raw"}
    rng = np.random.default_rng(seed)
    q, kv, anchor = 5, 7, int(rng.integers(0, 5))
    rows, columns = np.arange(q).reshape(-1, 1), np.arange(kv).reshape(1, -1)
    dots, t = rng.normal(size=(q, kv)), rng.normal()
    tensors = {
        "m": rng.normal(size=1),
        "u": rng.normal(size=q),
        "w": rng.normal(size=kv),
        "t": rng.normal(size=(q, kv)),
    }
    tensors["u"][rng.integers(0, q)] = rng.choice([1.0, -math.inf, math.nan])

    def leaf(node: Expr) -> object:
        match node:
            case Raw():
                return dots
            case CallScale() | Scalar():
                return t
            case Coord(name):
                return {"q_idx": rows, "q_row": rows, "kv_idx": columns, "kv_col": columns}.get(
                    name, 0
                )
            case Anchor(name):
                assert name in (CoordName.Q_IDX, CoordName.Q_ROW)
                return anchor
        raise AssertionError(node)

    def read(name: str, indices: tuple[np.ndarray, ...]) -> object:
        return tensors[name][indices]

    with np.errstate(all="ignore"):
        wanted = np.broadcast_to(evaluate(score, leaf, read), (q, kv))
        sums = evaluate(found.rest, leaf, read) + evaluate(found.shift, leaf, read)
    fine = np.isfinite(wanted) & (np.abs(wanted) < 1e6)
    np.testing.assert_allclose(
        np.broadcast_to(sums, (q, kv))[fine], wanted[fine], rtol=1e-8, atol=1e-8
    )


# Kernels

SPECS = """
attention shifted(c: float[B, HQ, KV], u: float[HQ, Q], m: float[HQ], s: float[HQ]):
    score = 0.5 * (score + 2 * m[h] * (kv_idx - q_idx)) + c[b, h, q_idx] - c[b, h, kv_idx]
    score = score + u[h, q_row]
    mask = causal
    weights = softmax(score, sink=s[h])

attention biased(u: float[B, Q], flag: bool = true):
    score = score + (u[b, q_row] if flag else 1.0)
    mask = kv_idx <= q_idx + 3

attention slopes(m: float[HQ]):
    score = score + alibi(m[h])
    mask = sliding_window(100)
"""


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, attnlang.Variant]:
    path = tmp_path_factory.mktemp("shift") / "shift.attn"
    path.write_text(SPECS)
    found = attnlang.load_all(path)
    for item in found.values():
        tensors = frozenset(p.name for p in item.ir.params if isinstance(p, TensorParam))
        low: Lowered = lower(item.ir, consts={}, given=tensors)
        assert low.rules["shift-invariance"] == 1
    return found


@pytest.mark.parametrize("lengths", [(131, 131), (70, 200), (3, 150), (1, 64)])
def test_sums_of_all_kinds_are_accurate(
    variants: dict[str, attnlang.Variant], lengths: tuple[int, int]
) -> None:
    g = torch.Generator().manual_seed(5)
    s = Sizes(2, 4, 2, *lengths, 64, 64)
    q, k, v = make_qkv(s, torch.float32, g)
    c = -torch.rand(s.b, s.hq, s.kv, generator=g).cumsum(-1)
    u, m = torch.randn(s.hq, s.q, generator=g) * 30, torch.rand(s.hq, generator=g)
    sink = torch.randn(s.hq, generator=g) + 20
    assert_accurate(variants["shifted"], q, k, v, c=c, u=u, m=m, s=sink)
    call = {"c": c, "u": u, "m": m, "s": sink, "return_max": True}
    _, top = variants["shifted"](q, k, v, **call)
    wide = {name: x.double() if isinstance(x, torch.Tensor) else x for name, x in call.items()}
    _, wanted = variants["shifted"].reference(q.double(), k.double(), v.double(), **wide)
    torch.testing.assert_close(top.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("q_len", [70, 2])
def test_a_row_that_is_hidden_by_its_bias_is_empty_and_spoils_no_other(
    variants: dict[str, attnlang.Variant], q_len: int
) -> None:
    g = torch.Generator().manual_seed(6)
    s = Sizes(2, 2, 1, q_len, 90, 64, 64)
    q, k, v = make_qkv(s, torch.float32, g)
    u = torch.randn(s.b, s.q, generator=g)
    u[0, 0], u[1, s.q // 2], u[1, -1] = -math.inf, -math.inf, -math.inf
    out, lse = assert_accurate(variants["biased"], q, k, v, u=u)
    assert (out[1, :, -1] == 0).all()
    assert (lse[1, :, -1] == -math.inf).all()
    u[0, 1] = math.nan
    out, lse = variants["biased"](q, k, v, u=u, return_lse=True)
    assert torch.isnan(out).all(-1).sum() == torch.isnan(lse).sum() == s.hq
    assert torch.isnan(out[0, :, 1]).all()


@pytest.mark.parametrize("start", [0, 131072, 2**29])
def test_positions_far_from_the_start_lose_no_bits(
    variants: dict[str, attnlang.Variant], start: int
) -> None:
    g = torch.Generator().manual_seed(7)
    s = Sizes(1, 3, 1, 150, 400, 64, 64)
    q, k, v = make_qkv(s, torch.float32, g)
    m = torch.tensor([0.5, 1.0, 2.0**-8])
    assert_accurate(variants["slopes"], q, k, v, m=m, q_offset=start + 250, kv_offset=start)
