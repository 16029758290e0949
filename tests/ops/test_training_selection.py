"""Gradients of calls that select columns (`kv_indices`), against float64 autograd of the reference.

Rows that select nothing, blocks that end past the last column, columns given twice, grouped heads;
what nobody selects holds NaN.
"""

from __future__ import annotations

import pytest
import torch
from gallery_gradients import check
from support import Sizes

import attnlang

SHAPES = {
    "grouped": Sizes(2, 4, 2, 77, 150, 32, 40),
    "many_keys": Sizes(1, 2, 1, 9, 2300, 16, 16),
    "one_row": Sizes(2, 2, 2, 1, 70, 16, 16),
}
RUNS = [
    pytest.param(
        name, shape, block, dtype, marks=[] if quick else pytest.mark.slow,
        id=f"{name}-{shape}-{block}-{str(dtype)[6:]}",
    )
    for name, shape, block, dtype, quick in (
        ("gemma2_local", "grouped", 1, torch.float32, True),
        ("gemma2_local", "grouped", 64, torch.float32, True),
        ("relative_table", "many_keys", 7, torch.float32, True),
        ("relative_table", "one_row", 3, torch.float32, True),
        ("qk_norm", "grouped", 16, torch.float32, False),
        ("sink", "grouped", 100, torch.bfloat16, False),
        ("retention", "grouped", 5, torch.float32, False),
        ("dropout", "many_keys", 16, torch.float32, False),
        ("padding", "grouped", 1, torch.bfloat16, False),
        ("forgetting", "grouped", 33, torch.float32, False),
        ("differential", "one_row", 7, torch.float32, False),
    )
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "block", "dtype"), RUNS)
def test_gradients_agree_with_the_reference(name, shape, block, dtype) -> None:
    check(name, SHAPES[shape], dtype, kv_block=block)


SPEC = """
attention picked(table: float[HQ, 9], bias: float[KV], p: float = 0.0):
    score = score + table[h, clamp(kv_idx - q_idx + 4, 0, 8)] + bias[kv_col]
    mask = causal
    weights = softmax(score) * dropout(p)
"""


@pytest.fixture(scope="module")
def picked() -> attnlang.Variant:
    return attnlang.loads(SPEC)


def inputs(queries: int = 70, keys: int = 200) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    shapes = ((2, 4, queries, 16), (2, 2, keys, 16), (2, 2, keys, 16), (4, 9), (keys,))
    return [torch.randn(*s, generator=g).requires_grad_() for s in shapes]


def select(count: int, queries: int = 70, keys: int = 200, block: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(count)
    return torch.randint(-1, -(-keys // block), (2, 2, queries, count), generator=g)


def differentiate(variant, leaves, **call) -> tuple[torch.Tensor, ...]:
    q, k, v, table, bias = leaves
    out, lse = variant(q, k, v, table, bias, return_lse=True, seed=2, **call)
    seen = torch.where(lse.isneginf(), 0.0, lse)
    return torch.autograd.grad(out.square().sum() + seen.sin().sum(), leaves)


def test_a_selection_is_a_set_and_repeats_bit_for_bit(picked) -> None:
    """Order, duplicates, padding, dtype, strides and threads change nothing, not a bit."""
    indices = select(40)
    want = differentiate(picked, inputs(), kv_indices=indices, p=0.3)
    pad = torch.full((*indices.shape[:3], 5), -1)
    order = torch.randperm(85, generator=torch.Generator().manual_seed(1))
    others = [
        indices.sort(-1).values,
        torch.cat([indices, pad, indices], -1)[..., order].int(),
        indices.mT.contiguous().mT,
    ]
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for other in others:
                found = differentiate(picked, inputs(), kv_indices=other, p=0.3)
                assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_everything_selected_is_the_call_without(picked) -> None:
    every = torch.arange(3).expand(2, 2, 70, 3)
    found = differentiate(picked, inputs(), kv_indices=every, kv_block=70, p=0.2)
    want = differentiate(picked, inputs(), p=0.2)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [0, 4])
def test_nothing_selected_has_no_gradient(picked, count) -> None:
    nothing = torch.full((2, 2, 70, count), -1)
    leaves = inputs()
    with torch.no_grad():
        for x in leaves[:3]:
            x.fill_(torch.nan)
    for grad in differentiate(picked, leaves, kv_indices=nothing):
        assert not grad.any()


def test_what_is_not_selected_gets_zero(picked) -> None:
    """Other rows of the tile see what a row does not select: nothing of it reaches the row."""
    indices = select(3, block=5)
    dk, dv = differentiate(picked, inputs(), kv_indices=indices, kv_block=5)[1:3]
    seen = torch.zeros(2, 2, 200, dtype=torch.bool)
    for b in range(2):
        for h in range(2):
            for i in range(70):
                for block in indices[b, h, i].tolist():
                    if block >= 0:
                        columns = torch.arange(5 * block, 5 * block + 5)
                        seen[b, h, columns[columns <= i + 130]] = True
    assert torch.equal(dv.abs().sum(-1) > 0, seen)
    assert not dk[~seen].any()


def test_kernels_of_a_gpu_refuse_it_by_name(picked, monkeypatch) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", "sm80")
    leaves = [x.detach().bfloat16().requires_grad_() for x in inputs()]
    with pytest.raises(attnlang.CallError, match="`kv_indices`: expected nothing, in a call with"):
        differentiate(picked, leaves, kv_indices=select(4))


def test_an_index_without_a_block_raises(picked) -> None:
    indices = select(4)
    indices[1, 1, 69, 2] = 200
    with pytest.raises(RuntimeError, match=r"`kv_indices`\[1, 1, 69, 2\] selects block 200 of 200"):
        differentiate(picked, inputs(), kv_indices=indices)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.slow
def test_compiled() -> None:
    variant = attnlang.loads("attention normed: q = rms_norm(q) k = rms_norm(k) mask = causal\n")

    def function(q, k, v, indices):
        return variant(q * 2, k, v, kv_indices=indices, kv_block=3)

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    indices = select(9, block=3)
    got, want = inputs()[:3], inputs()[:3]
    compiled(*got, indices).square().sum().backward()
    function(*want, indices).square().sum().backward()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
