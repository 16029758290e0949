"""Tensor reads: an index that is proved to lie inside is not clamped, every other one is."""

from pathlib import Path

import pytest
import torch
from support import Sizes, assert_accurate, make_qkv

import attnlang
from attnlang.compiler import check_source
from attnlang.passes.lower import lower
from attnlang.plan.ranges import Ranges
from attnlang.plan.reads import Read, plan_reads
from attnlang.sources import Source


def reads(tensor: str, index: str, requires: str = "") -> tuple[Read, ...]:
    text = (
        f"attention made({tensor}, n: int, s: int):\n    {requires}\n"
        f"    score = score + n * s + t[{index}]\n"
    )
    result = check_source(Source("made.attn", text), folder=Path())
    assert not result.errors
    low = lower(result.variants[0], consts={}, given=frozenset({"t"}))
    roots = [expr for _, expr in low.roots]
    return plan_reads(roots, low.variant, Ranges({"t": "f32"}))


PROVED = [
    ("t: float[HQ]", "h"),
    ("t: float[B, HKV]", "b, h_kv"),
    ("t: float[Q, KV]", "q_row, kv_col"),
    ("t: float[HQ, 2 * R + 1]", "h, clamp(kv_idx - q_idx + R, 0, 2 * R)"),
    ("t: float[2 * R + 1]", "R + clamp(kv_idx - q_idx, -R, R)"),
    ("t: float[KV]", "min(kv_col, KV)"),
    ("t: float[7]", "kv_idx % 7"),
    ("t: float[N]", "min(abs(q_idx - kv_idx), N - 1)"),
    ("t: float[B, 2]", "b, int(kv_idx <= q_idx)"),
]
CLAMPED = [
    ("t: float[KV]", "kv_idx"),
    ("t: float[Q]", "min(q_row, n)"),
    ("t: float[HQ]", "h + 1"),
    ("t: float[HQ]", "h - 1"),
    ("t: float[KV]", "q_row"),
    ("t: float[7]", "kv_idx % 8"),
    ("t: float[7]", "kv_idx % n"),
    ("t: float[2 * R]", "clamp(kv_idx - q_idx + R, 0, 2 * R)"),
    # 64 bits do not hold them: a sum that wraps is negative, and so is the magnitude of -2 ** 63.
    ("t: float[7]", "min(abs(n), 6)"),
    ("t: float[7]", "min(max(n, 0) + max(s, 0), 6)"),
    # `KV` is the request's in an expression, and that of the tensors in a shape.
    ("t: float[200 - KV]", "199 - KV"),
    ("t: float[200 - KV]", "min(abs(kv_idx - q_idx), 199 - KV)"),
]


@pytest.mark.parametrize(("tensor", "index"), PROVED)
def test_an_index_is_proved(tensor: str, index: str) -> None:
    assert [r.proved for r in reads(tensor, index)] == [(True,) * (tensor.count(",") + 1)]


@pytest.mark.parametrize(("tensor", "index"), CLAMPED)
def test_an_index_is_clamped(tensor: str, index: str) -> None:
    assert [r.proved for r in reads(tensor, index)] == [(False,)]


def test_a_requirement_proves_no_index() -> None:
    """That of a 0-d tensor is not checked, so an index that follows from it is clamped."""
    index = "clamp(kv_idx - q_idx, 0, min(n, 6))"
    assert reads("t: float[7]", index, "require n >= 0")[0].proved == (False,)


UNCHECKED = """
attention made(t: float[R], n: int):
    require n > 0
    require R - n >= 0
    score = score + t[kv_col % n]
"""


def test_a_read_under_an_unchecked_requirement_stays_inside() -> None:
    """A 0-d tensor that breaks the requirement reads the last element, not past it."""
    q, k, v = make_qkv(Sizes(1, 2, 1, 3, 70, 16, 16), torch.float32, torch.Generator())
    memory = torch.full((100,), torch.nan)
    table = memory[:4].fill_(0.25)
    out = attnlang.loads(UNCHECKED)(q, k, v, t=table, n=torch.tensor(1000))
    torch.testing.assert_close(out, attnlang.loads("attention full:")(q, k, v))


SHORTER = """
attention made(t: float[200 - KV]):
    score = score + t[min(abs(kv_idx - q_idx), 199 - KV)]
"""


def test_a_read_by_the_length_of_a_shorter_request_stays_inside() -> None:
    q, k, v = make_qkv(Sizes(1, 2, 1, 3, 130, 16, 16), torch.float32, torch.Generator())
    memory = torch.full((300,), torch.nan)
    table, lens = memory[:70].fill_(0.25), torch.tensor([90])
    out = attnlang.loads(SHORTER)(q, k, v, t=table, kv_lens=lens)
    want = attnlang.loads("attention full:")(q, k, v, kv_lens=lens)
    torch.testing.assert_close(out, want)


def test_the_decision_is_shown() -> None:
    found = reads("t: float[HQ, 7]", "h, q_idx * n")
    assert [r.text for r in found] == ["t: h proved (32 bits), q_idx * n clamped (64 bits)"]


SPEC = """
attention made(pair: float[HQ, Q, KV], table: float[2 * R + 1], rank: int[B, KV], far: float[KV]):
    near = table[R + clamp(kv_idx - q_idx, -R, R)]
    score = score + pair[h, q_row, kv_col] + near + far[kv_idx + 1]
    mask = rank[b, kv_col] + q_row > 2
"""


@pytest.mark.parametrize("lengths", [(70, 75), (3, 70)])
def test_what_is_not_clamped_stays_inside(lengths: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(3)
    s = Sizes(2, 2, 1, *lengths, 64, 64)
    q, k, v = make_qkv(s, torch.float32, g)
    pair = torch.randn(s.hq, s.q, s.kv, generator=g)
    table, far = torch.randn(9, generator=g), torch.randn(s.kv, generator=g)
    rank = torch.randint(0, 5, (s.b, s.kv), generator=g)
    rank[:, -1] = -1000  # so that the reference does not see far[KV]
    assert_accurate(attnlang.loads(SPEC), q, k, v, pair=pair, table=table, rank=rank, far=far)
