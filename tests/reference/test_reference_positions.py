"""Positions, lengths, offsets, chosen rows and chosen columns."""

import pytest
import torch
from reference_specs import body, by_hand, draw, out, positions, raw_scores, run

from attnlang.reference import entry

CAUSAL = body("mask = causal")
BIASED = body("score = score + 0.1 * q_idx * kv_idx", "mask = causal and q_idx - kv_idx < 4")


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_default_offset_puts_the_last_row_at_the_last_column():
    q, k, v = draw()
    close(out(BIASED, q, k, v), out(BIASED, q, k, v, q_offset=2))


def test_offsets_shift_positions():
    q, k, v = draw()
    i, j = positions(5, 7, q_offset=4)
    scores = raw_scores(q, k) + 0.1 * (i * (j + 3)).double()
    want = by_hand(scores, (j + 3 <= i) & (i - j - 3 < 4), v)[0]
    close(out(BIASED, q, k, v, q_offset=4, kv_offset=3), want)


def test_the_default_follows_kv_offset():
    q, k, v = draw()
    shifted = body("score = score + 0.1 * (q_idx - kv_idx)", "mask = causal")
    close(out(shifted, q, k, v), out(shifted, q, k, v, kv_offset=11))


def test_offsets_of_each_request():
    q, k, v = draw()
    q_offset, kv_offset = torch.tensor([3, 8]), torch.tensor([0, 6], dtype=torch.int32)
    got = out(BIASED, q, k, v, q_offset=q_offset, kv_offset=kv_offset)
    for b in range(2):
        one = slice(b, b + 1)
        alone = out(BIASED, q[one], k[one], v[one], q_offset=[3, 8][b], kv_offset=[0, 6][b])
        close(got[one], alone)


def test_kv_lens_are_as_if_the_rest_did_not_exist():
    q, k, v = draw()
    variant = body("score = score + KV", "mask = causal", "out = acc * KV")
    lens = torch.tensor([7, 4], dtype=torch.int32)
    got, lse = run(variant, q, k, v, kv_lens=lens, return_lse=True)
    for b, n in enumerate([7, 4]):
        one = slice(b, b + 1)
        alone = run(variant, q[one], k[one, :, :n], v[one, :, :n], return_lse=True)
        close(got[one], alone[0])
        close(lse[one], alone[1])


def test_kv_lens_of_zero_and_beyond():
    q, k, v = draw()
    got = out(body(header="t()"), q, k, v, kv_lens=torch.tensor([0, 100]))
    assert (got[0] == 0).all()
    close(got[1:], out(body(header="t()"), q[1:], k[1:], v[1:]))


ROWS = [torch.tensor([4, 0, 2]), torch.tensor([1]), torch.tensor([], dtype=torch.int64)]
TABLE = body(
    "score = score + t[b, h, q_row, kv_col]", "mask = causal",
    "out = acc * gate[q_row]", header="t(t: float[B, HQ, Q, KV], gate: float[Q])",
)  # fmt: skip


@pytest.mark.parametrize("rows", ROWS, ids=lambda r: str(r.tolist()))
def test_rows_are_a_slice_of_the_whole(rows):
    q, k, v = draw()
    t = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    gate = torch.rand(5, dtype=torch.float64)
    whole = run(TABLE, q, k, v, t=t, gate=gate, return_lse=True)
    some = run(TABLE, q, k, v, t=t, gate=gate, return_lse=True, rows=rows)
    close(some[0], whole[0][:, :, rows])
    close(some[1], whole[1][:, :, rows])


def test_chunks_of_rows_change_nothing(monkeypatch):
    q, k, v = draw(grad=True)
    variant = body("weights = softmax(score) * dropout(0.3)", "mask = causal")
    call = {"seed": 3, "return_lse": True, "return_max": True}
    whole = run(variant, q, k, v, **call)
    gradient = torch.autograd.grad(whole[0].square().sum(), (q, k, v))
    monkeypatch.setattr(entry, "_MAX_ELEMENTS", 2 * 2 * 4 * 7)
    parts = run(variant, q, k, v, **call)
    for a, b in zip(whole, parts, strict=True):
        close(a, b)
    for a, b in zip(gradient, torch.autograd.grad(parts[0].square().sum(), (q, k, v)), strict=True):
        close(a, b)


def test_chosen_columns():
    q, k, v = draw()
    indices = torch.tensor([[[0, 1, 6], [2, -1, -1], [3, 3, 4], [6, 5, -1], [-1, -1, -1]]])
    indices = torch.stack([indices, indices.flip(2)], dim=1).reshape(1, 2, 5, 3).repeat(2, 1, 1, 1)
    indices[:, 1, 0] = torch.tensor([5, 1, 0])
    chosen = torch.zeros(2, 2, 5, 8, dtype=torch.bool).scatter_(3, indices % 8, True)[..., :7]
    full = body(header="t()")
    scores = raw_scores(q, k)
    want = by_hand(scores, chosen.repeat_interleave(2, dim=1), v)[0].nan_to_num()
    close(out(full, q, k, v, kv_indices=indices), want)
    rows = torch.tensor([3, 0])
    close(out(full, q, k, v, kv_indices=indices, rows=rows), want[:, :, rows])


def test_chosen_blocks_keep_logical_positions():
    q, k, v = draw()
    indices = torch.tensor([0, 2, -1]).expand(2, 2, 5, 3)
    i, j = positions(5, 7)
    mask = ((j // 3 == 0) | (j // 3 == 2)) & (j <= i)
    want = by_hand(raw_scores(q, k) + 0.1 * j.double(), mask.expand(2, 4, 5, 7), v)[0]
    variant = body("score = score + 0.1 * kv_idx", "mask = causal")
    close(out(variant, q, k, v, kv_indices=indices, kv_block=3), want)


@pytest.mark.parametrize("wrong", [3, -2])
def test_chosen_columns_out_of_range(wrong):
    q, k, v = draw()
    indices = torch.full((2, 2, 5, 1), wrong)
    with pytest.raises(IndexError, match="kv_indices"):
        out(CAUSAL, q, k, v, kv_indices=indices, kv_block=3)
