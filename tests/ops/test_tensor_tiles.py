"""Masks that read tensors, in kernels: the counts of the analysis, the reference's numbers."""

from __future__ import annotations

import math
import resource
import time

import pytest
import torch
from support import assert_accurate
from tensor_masks import MASKS
from torch import Tensor

import attnlang
from attnlang.compiler import lower
from attnlang.symbolic.masks import EMPTY, FULL, UNKNOWN, MaskEnv, tile_verdicts

# One of several equalities and guards, one that an index of both walks along.
QUICK = ("shared_question", "vertical_slash")


def _all(names: tuple[str, ...] = QUICK) -> list[object]:
    return [n if n in names else pytest.param(n, marks=pytest.mark.slow) for n in MASKS]


def _make(name: str, q: int, kv: int, seed: int) -> dict[str, Tensor | int]:
    return dict(MASKS[name].make(q, kv, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("name", _all())
def test_kernels_and_the_analysis_agree_on_every_count(name: str) -> None:
    variant = attnlang.loads(MASKS[name].text)
    for seed, (q, kv) in enumerate([(2048, 2048), (517, 777), (70, 1500)]):
        values = _make(name, q, kv, seed)
        tensors = {n: x for n, x in values.items() if isinstance(x, Tensor)}
        scalars = {n: x for n, x in values.items() if not isinstance(x, Tensor)}
        arrays = {n: x.numpy() for n, x in tensors.items()}
        sizes = {"B": 1, "HQ": 1, "HKV": 1}
        env = MaskEnv(0, 0, 0, q, kv, kv - q, 0, sizes, scalars, arrays)
        mask = lower(variant.ir, {}, frozenset(tensors)).mask
        found = tile_verdicts(mask, env, q_tile=64, kv_tile=64)
        k = torch.zeros(1, 1, kv, 16)
        counted = variant.tiles(torch.zeros(1, 1, q, 16), k, k, **values)
        wanted = tuple(int((found == v).sum()) for v in (FULL, UNKNOWN, EMPTY))
        assert (counted.full, counted.partial, counted.empty) == wanted


@pytest.mark.parametrize("name", _all())
def test_results_are_those_of_the_reference(name: str) -> None:
    variant = attnlang.loads(MASKS[name].text)
    for seed, (q, kv) in enumerate([(203, 331), (5, 331)]):
        g = torch.Generator().manual_seed(seed)
        query, key = torch.randn(1, 1, q, 16, generator=g), torch.randn(1, 1, kv, 16, generator=g)
        assert_accurate(variant, query, key, key, **_make(name, q, kv, seed))


DOCUMENT = attnlang.loads(MASKS["document_shuffled"].text)


def test_positions_off_the_blocks_grouped_heads_and_requests_of_their_own() -> None:
    g = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(3, h, n, 16, generator=g) for h, n in ((4, 150), (2, 400), (2, 400)))
    doc = torch.randint(0, 9, (3, 40), generator=g).repeat_interleave(10, 1)
    lens = torch.tensor([400, 0, 217])
    for offsets in ({}, {"q_offset": 77, "kv_offset": 13}, {"q_offset": -20}):
        assert_accurate(DOCUMENT, q, k, v, doc=doc, kv_lens=lens, **offsets)


def test_an_expanded_tensor_is_one_line() -> None:
    g = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(2, 1, 300, 16, generator=g) for _ in range(3))
    one = torch.tensor([[4]])
    same = attnlang.loads(MASKS["document_shuffled"].text)
    out, _ = assert_accurate(same, q, k, v, doc=one.expand(2, 300))
    causal = attnlang.loads("attention c:\n    mask = causal\n")
    torch.testing.assert_close(out, causal(q, k, v))


GATED = attnlang.loads(
    "attention gated(gate: float[B, KV], shown: bool[B, KV], cap: float):\n"
    "    mask = causal and shown[b, kv_idx] and gate[b, kv_idx] <= cap\n"
)


def test_nan_in_a_gate_hides_its_keys_alone() -> None:
    g = torch.Generator().manual_seed(7)
    q, k, v = (torch.randn(1, 2, 260, 16, generator=g) for _ in range(3))
    gate = torch.zeros(1, 260)
    gate[0, 3], gate[0, 130] = math.nan, 2.0
    shown = torch.rand(1, 260, generator=g) < 0.9
    assert_accurate(GATED, q, k, v, gate=gate, shown=shown, cap=1.0)
    gate[0, 64:] = 3.0
    counted = GATED.tiles(q, k, v, gate=gate, shown=shown, cap=1.0)
    assert counted.visited == 2 * 5  # the first tile of keys is all that is left


def test_a_million_keys_cost_linear_time_and_memory() -> None:
    n, queries = 1_000_000, 4096
    ids = torch.randperm(n // 500, generator=torch.Generator().manual_seed(8))
    doc = ids.repeat_interleave(500)[None].int()
    q, k = torch.zeros(1, 1, queries, 16), torch.zeros(1, 1, 1, 16).expand(1, 1, n, 16)
    DOCUMENT.tiles(q[:, :, :64], k[:, :, :64], k[:, :, :64], doc=doc[:, :64])  # builds
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    counted = DOCUMENT.tiles(q, k, k, doc=doc)
    took = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # 4096 queries in documents of 500: some ten tiles each of 64 rows.
    assert counted.visited < 12 * queries // 64
    assert counted.total == (queries // 64) * -(-n // 64)
    assert grown < 32 * 1024  # KiB; a bool for each query and key would be 4 GiB
    assert took < 2.0
