"""What GPU kernels make of a call's options, on a GPU and in the emulator."""

from __future__ import annotations

import pytest
import torch
from support import moved_tensor
from torch import Tensor

import attnlang

SPEC = """\
attention capped(gain: float[HQ], cap: float = 30.0, window_size: int = 50):
    score = gain[h] * cap * tanh(score / cap)
    mask = kv_idx <= q_idx and q_idx - kv_idx < window_size
"""
CAUSAL = "attention a:\n    mask = kv_idx <= q_idx\n"
DROPPED = "attention dropped(p: float = 0.3):\n    weights = softmax(score) * dropout(p)\n"
KEYS = 133
GAIN = torch.linspace(0.5, 1.5, 4)


def _inputs(queries: int = 70, dim: int = 32) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(queries)
    shapes = ((2, 4, queries, dim), (2, 2, KEYS, dim), (2, 2, KEYS, dim))
    return tuple(torch.randn(s, generator=g).bfloat16() for s in shapes)


def _on(device: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(moved_tensor(x, device) for x in tensors)


def _assert_close(got: Tensor, want: Tensor) -> None:
    error = (got.cpu().double() - want).abs().max().item()
    assert error < 0.02, error


def test_numbers_may_be_tensors(device: str) -> None:
    variant = attnlang.loads(SPEC)
    vectors, (gain,) = _on(device, *_inputs()), _on(device, GAIN)
    want = variant(*vectors, gain=gain, cap=12.0, scale=0.2, window_size=21)
    for real, whole in ((torch.float32, torch.int32), (torch.float64, torch.int64)):
        cap, scale = (torch.tensor(x, device=device, dtype=real) for x in (12.0, 0.2))
        window = torch.tensor(21, device=device, dtype=whole)
        got = variant(*vectors, gain=gain, cap=cap, scale=scale, window_size=window)
        assert torch.equal(got, want)


def test_offsets_and_lengths_are_tensors(device: str) -> None:
    variant = attnlang.loads(SPEC)
    vectors = _inputs(queries=5)
    call = {
        "kv_lens": torch.tensor([130, 0]),
        "q_offset": torch.tensor([120, 3]),
        "kv_offset": torch.tensor([0, -2], dtype=torch.int32),
    }
    on_device = {n: x.to(device) for n, x in call.items()}
    (gain,) = _on(device, GAIN)
    out, lse = variant(*_on(device, *vectors), gain=gain, return_lse=True, **on_device)
    _assert_close(out, variant.reference(*vectors, gain=GAIN, dtype=torch.float64, **call))
    assert torch.isneginf(lse[1]).all()
    assert (out[1] == 0).all()


def test_dropout_is_that_of_the_reference(device: str) -> None:
    variant = attnlang.loads(DROPPED)
    vectors = _inputs()
    want = variant.reference(*vectors, seed=7, dtype=torch.float64)
    on_device = _on(device, *vectors)
    _assert_close(variant(*on_device, seed=7), want)
    torch.manual_seed(3)
    first = variant(*on_device)
    torch.manual_seed(3)
    assert torch.equal(variant(*on_device), first)


@pytest.mark.parametrize("bias", ["", " + alibi(0.02)", " - 0.1 * q_idx", "no sign"])
def test_a_capped_row_does_not_depend_on_other_rows(device: str, bias: str) -> None:
    # Hopper's kernel makes the tanh of small scores otherwise than that of large ones.
    bias, cap = ("", -20.0) if bias == "no sign" else (bias, 20.0)
    variant = attnlang.loads(
        f"attention capped(cap: float = 30.0):\n    score = cap * tanh(score / 20){bias}\n"
        "    mask = kv_idx < 120\n"
    )
    small, k, v = _inputs()
    large = small.clone()
    large[:, :, ::2] *= 100  # some of these rows' scores are beyond the polynomial's range
    k, v = _on(device, k, v)
    beyond = k.clone()
    beyond[:, :, 120:] *= 1000  # hidden
    want = variant(*_on(device, small), k, v, cap=cap)
    reference = variant.reference(small, k.cpu(), v.cpu(), cap=cap, dtype=torch.float64)
    _assert_close(want, reference)
    for q, keys in ((large, k), (small, beyond), (large, beyond)):
        got = variant(*_on(device, q), keys, v, cap=cap)
        assert torch.equal(got[:, :, 1::2], want[:, :, 1::2])
        reference = variant.reference(q, keys.cpu(), v.cpu(), cap=cap, dtype=torch.float64)
        _assert_close(got, reference)


def test_columns_are_selected(device: str) -> None:
    variant = attnlang.loads(CAUSAL)
    vectors = _inputs(queries=9)
    g = torch.Generator().manual_seed(5)
    rows = [torch.randperm(KEYS // 4, generator=g)[:11] for _ in range(2 * 2 * 9)]
    indices = torch.stack(rows).view(2, 2, 9, 11)
    indices[..., -3:] = -1
    want = variant.reference(*vectors, kv_indices=indices, kv_block=4, dtype=torch.float64)
    out = variant(*_on(device, *vectors), kv_indices=indices.to(device), kv_block=4)
    _assert_close(out, want)


@pytest.mark.parametrize("queries", [2, 70])
def test_the_largest_score(device: str, queries: int) -> None:
    variant = attnlang.loads(CAUSAL)
    vectors = _inputs(queries)
    out, top = variant(*_on(device, *vectors), return_max=True)
    want, want_top = variant.reference(*vectors, return_max=True, dtype=torch.float64)
    _assert_close(out, want)
    torch.testing.assert_close(top.cpu().double(), want_top, rtol=1e-5, atol=1e-5)


def test_tiles_are_counted(device: str) -> None:
    variant = attnlang.loads(CAUSAL)
    vectors = _inputs(KEYS)
    tiles = variant.tiles(*_on(device, *vectors))
    rows, columns = -(-KEYS // tiles.query_tile), -(-KEYS // tiles.key_tile)
    assert tiles.total == 2 * 4 * rows * columns
    assert tiles.visited >= 2 * 4 * rows


def test_documents_skip_tiles(device: str) -> None:
    """Two documents of 256: of the causal half only their own tiles are visited."""
    variant = attnlang.loads(
        "attention a(doc: int[B, KV]): mask = doc[b, q_idx] == doc[b, kv_idx] and kv_idx <= q_idx"
    )
    g = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 1, 768, 32, generator=g).bfloat16() for _ in range(3))
    doc = (torch.arange(768) // 384)[None]
    tiles = variant.tiles(*_on(device, q, k, v), doc=doc.to(device))
    rows, columns = tiles.query_tile, tiles.key_tile
    needed = sum(
        any(
            doc[0, i] == doc[0, j] and j <= i
            for i in (q0, min(q0 + rows, 768) - 1)
            for j in (k0, min(k0 + columns, 768) - 1)
        )
        for q0 in range(0, 768, rows)
        for k0 in range(0, 768, columns)
    )
    assert needed <= tiles.visited < 0.8 * tiles.total
    out = variant(*_on(device, q, k, v), doc=doc.to(device))
    _assert_close(out, variant.reference(q, k, v, doc=doc, dtype=torch.float64))


def test_nothing_to_attend_to(device: str) -> None:
    variant = attnlang.loads(CAUSAL)
    q, k, v = _on(device, *_inputs(3))
    out, lse = variant(q, k[:, :, :0], v[:, :, :0], return_lse=True)
    assert (out == 0).all()
    assert torch.isneginf(lse).all()
    assert variant(q[:, :, :0], k, v).shape == (2, 4, 0, 32)


def test_what_no_gpu_kernel_takes(device: str) -> None:
    variant = attnlang.loads(CAUSAL)
    vectors = _on(device, *_inputs())
    with pytest.raises(attnlang.CallError, match="bfloat16 or float16"):
        variant(*(x.float() for x in vectors))
    q, k, v = _on(device, *_inputs(dim=40))
    with pytest.raises(attnlang.CallError, match="16, 32, 48"):
        variant(q, k, v)


def test_the_emulator_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = attnlang.loads(CAUSAL)
    vectors = _inputs()
    want = variant(*vectors)
    sizes = variant.tiles(*vectors).key_tile
    for _ in range(2):
        monkeypatch.setenv("ATTNLANG_EMULATE", "sm90")
        _assert_close(variant(*vectors), want.double())
        assert variant.tiles(*vectors).key_tile != sizes
        monkeypatch.delenv("ATTNLANG_EMULATE")
        assert torch.equal(variant(*vectors), want)
        assert variant.tiles(*vectors).key_tile == sizes
