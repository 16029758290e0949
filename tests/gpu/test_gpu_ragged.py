"""Ragged calls by GPU kernels, on a GPU and in the emulator, each request against the reference."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gpu_places import capture
from ragged_inputs import Lengths, Packed, pack
from ragged_specs import SPECS, call_of, results
from support import Sizes, moved, moved_tensor

import attnlang

HEADS = Sizes(1, 8, 2, 0, 0, 48, 32)
# Few rows and many, off every tile; none of queries, of keys, of both.
LENGTHS = (
    (5, 40),
    (0, 7),
    (1, 0),
    (150, 200),
    (33, 33),
    (1, 1),
    (16, 90),
    (17, 90),
    (3, 2),
    (0, 0),
)


def make(
    name: str, device: str, dtype: torch.dtype = torch.bfloat16, lengths: Lengths = LENGTHS
) -> Packed:
    return replace(call_of(name, dtype, lengths, HEADS), device=device)


@pytest.mark.parametrize(
    "name", ["rows", *(pytest.param(n, marks=pytest.mark.slow) for n in SPECS if n != "rows")]
)
def test_each_request_agrees_with_the_reference(name: str, device: str) -> None:
    call = make(name, device)
    call.check(*results(call))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "rows"])
def test_float16(name: str, device: str) -> None:
    call = make(name, device, torch.float16)
    call.check(*results(call))


def test_the_gpu_makes_a_schedule_where_keys_are_many(device: str) -> None:
    """256 MiB of keys and values, nearly all of a request without queries."""
    call = make("causal", device, lengths=((1, 40), (3, 900), (2, 7), (1, 0), (20, 90)))
    rows = (256 << 20) // (HEADS.hkv * (HEADS.d + HEADS.dv) * 2) + 1
    q, *pools = call.vectors()
    keys = [torch.full((rows, *x.shape[1:]), math.nan, dtype=x.dtype, device=device) for x in pools]
    for all_rows, own in zip(keys, pools, strict=True):
        all_rows[: own.shape[0]] = own
    indptr = (call.q_indptr, len(call.q)), (call.kv_indptr, rows)
    offsets = [torch.cat([x, x.new_tensor([end])]).to(device) for x, end in indptr]
    out, lse = call.variant.ragged(q, *keys, *offsets, return_lse=True)
    call.check(out.cpu(), lse.cpu())


def test_a_request_is_what_it_would_be_alone(device: str) -> None:
    call = make("rows", device)
    out, lse, top = call.call(return_lse=True, return_max=True)
    assert top.shape == (len(LENGTHS), HEADS.hq)
    for b in range(len(LENGTHS)):
        own = Packed(
            call.variant, (LENGTHS[b],),
            call.q[call.rows(b)], call.k[call.columns(b)], call.v[call.columns(b)],
            {n: t[b : b + 1] if n in ("bias", "gain") else t for n, t in call.params.items()},
            device,
        )  # fmt: skip
        got, got_lse, got_top = own.call(return_lse=True, return_max=True)
        assert torch.equal(got, out[call.rows(b)])
        assert torch.equal(got_lse, lse[call.rows(b)])
        assert torch.equal(got_top[0], top[b])


def test_nothing_of_another_request_is_read(device: str) -> None:
    call = make("rows", device)
    out, lse = results(call)
    for b in (3, 6):  # of many rows, of few
        got, got_lse = results(call.only(b))
        assert torch.equal(got[call.rows(b)], out[call.rows(b)])
        assert torch.equal(got_lse[call.rows(b)], lse[call.rows(b)])


def test_positions_scale_and_strides(device: str) -> None:
    call = make("causal", device)
    q_offset = torch.randint(0, 50, (len(LENGTHS),))
    keywords = {"q_offset": q_offset, "kv_offset": 7, "scale": 0.3}
    wide = [torch.full((x.shape[0], x.shape[1] + 1, 2 * x.shape[2]), math.nan, dtype=x.dtype)
            for x in (call.q, call.k, call.v)]  # fmt: skip
    for memory, x in zip(wide, (call.q, call.k, call.v), strict=True):
        memory[:, 1:, ::2] = x
    q, k, v = (x[:, 1:, ::2] for x in wide)
    out, lse = results(Packed(call.variant, call.lengths, q, k, v, call.params, device), **keywords)
    dense, dense_lse = results(call, **keywords)
    assert torch.equal(out, dense)
    assert torch.equal(lse, dense_lse)
    call.check(out, lse, **keywords)


def test_long_requests_of_few_rows_are_cut_and_merged(device: str) -> None:
    call = make("causal", device, lengths=((1, 2000), (2, 330), (16, 1100), (40, 700)))
    call.check(*results(call))


def test_no_request_and_no_row(device: str) -> None:
    variant = attnlang.loads(SPECS["causal"])
    for lengths in ((), ((0, 0),), ((0, 5), (0, 3))):
        call = pack(variant, lengths, HEADS, torch.bfloat16, torch.Generator(), {})
        call = replace(call, device=device)
        out, lse, top = call.call(return_lse=True, return_max=True)
        assert out.shape == (0, HEADS.hq, HEADS.dv)
        assert lse.shape == (0, HEADS.hq)
        assert torch.isneginf(top).all()
        assert top.shape == (len(lengths), HEADS.hq)


def test_float32_is_refused(device: str) -> None:
    with pytest.raises(attnlang.CallError, match="bfloat16 or float16"):
        make("causal", device, torch.float32).call()


def on_device(call: Packed) -> tuple[torch.Tensor, ...]:
    """Return q, k, v and the offsets where the kernel runs."""
    offsets = (moved_tensor(x, call.device) for x in (call.q_indptr, call.kv_indptr))
    return (*call.vectors(), *offsets)


def test_offsets_may_lie_where_the_rows_do(device: str) -> None:
    call = make("causal", device)
    out, lse = call.variant.ragged(*on_device(call), return_lse=True)
    call.check(out.cpu(), lse.cpu())


def test_a_captured_graph_sees_later_rows_and_lengths(device: str) -> None:
    call = make("causal", device)
    inputs = on_device(call)
    out, replay = capture(device, lambda: call.variant.ragged(*inputs))
    for seed, order in enumerate((1, -1)):
        g = torch.Generator().manual_seed(seed)
        rows = (torch.randn(x.shape, generator=g).to(x.dtype) for x in (call.q, call.k, call.v))
        later = Packed(call.variant, call.lengths[::order], *rows, call.params, device)
        for memory, fresh in zip(inputs, on_device(later), strict=True):
            memory.copy_(fresh)
        out.fill_(math.nan)
        replay()
        later.check(out.cpu(), later.call(return_lse=True)[1])


def test_what_is_wrong_is_named(device: str) -> None:
    call = make("rows", device)
    (q, k, v, q_indptr, kv_indptr), params = on_device(call), moved(call.packed_params(), device)
    variant = call.variant
    with pytest.raises(attnlang.CallError, match="`kv_indptr`"):
        variant.ragged(q, k, v, q_indptr, kv_indptr[:-1], **params)
    with pytest.raises(attnlang.CallError, match="`k`"):
        variant.ragged(q, k[..., :-1], v, q_indptr, kv_indptr, **params)
    with pytest.raises(attnlang.CallError, match="`gain`"):
        variant.ragged(q, k, v, q_indptr, kv_indptr, **{**params, "gain": params["gain"][1:]})
    with pytest.raises(attnlang.CallError, match="`q_indptr`: expected 0 as its first offset"):
        variant.ragged(q, k, v, call.q_indptr + 1, kv_indptr, **params)


_CLIENT = """
import sys, torch
library, name, path = sys.argv[1:]
torch.ops.load_library(library)
q, k, v, q_indptr, kv_indptr = (x.cuda() for x in torch.load(path))
op = getattr(torch.ops.attnlang, f"{name}_packed")
out, lse, _ = op(q, k, v, return_lse=True, q_indptr=q_indptr, kv_indptr=kv_indptr)
torch.save((out.cpu(), lse.cpu()), path)
assert "attnlang" not in sys.modules
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_object_ahead_of_time_runs_them(tmp_path: Path) -> None:
    spec, file = tmp_path / "near.attn", tmp_path / "call.pt"
    spec.write_text("attention near: mask = causal\n")
    target = f"sm{80 if torch.cuda.get_device_capability() != (9, 0) else 90}"
    options = ["--target", target, "--head-dim", "64", "-o", str(tmp_path)]
    command = [sys.executable, "-m", "attnlang.cli", "build", str(spec), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    name = done.stdout.split("torch.ops.attnlang.")[1].split()[0]
    heads = replace(HEADS, d=64, dv=64)
    g = torch.Generator().manual_seed(0)
    call = pack(attnlang.load(spec), LENGTHS, heads, torch.bfloat16, g, {})
    torch.save((call.q, call.k, call.v, call.q_indptr, call.kv_indptr), file)
    client = [sys.executable, "-c", _CLIENT, str(tmp_path / "near.so"), name, str(file)]
    subprocess.run(client, check=True, cwd=tmp_path)
    call.check(*torch.load(file))
