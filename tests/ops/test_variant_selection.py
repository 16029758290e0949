"""`kv_indices`: columns that the call selects, against the reference and as a set."""

from __future__ import annotations

import math
import time

import pytest
import torch
from support import Sizes, assert_accurate, make_qkv

import attnlang

D = 24
SPEC = (
    "attention picked(w: int = 100000, p: float = 0.0): mask = sliding_window(w) "
    "weights = softmax(score, sink=1.0) * dropout(p)"
)
PADDED = (
    "attention padded(keep: bool[B, KV]): mask = keep[b, kv_col] weights = sigmoid(score - 2.0)"
)
SHAPES = [
    Sizes(2, 4, 2, 33, 90, D, D),
    Sizes(2, 3, 3, 1, 200, D, D),
    Sizes(1, 40, 2, 3, 67, D, D),  # more heads in a group than an item has rows
    Sizes(1, 2, 1, 1, 1300, D, D),  # columns in parts
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def select(s: Sizes, block: int, count: int, seed: int = 1) -> torch.Tensor:
    blocks = -(-s.kv // block)
    return torch.randint(-1, blocks, (s.b, s.hkv, s.q, count), generator=generator(seed))


@pytest.fixture(scope="module")
def picked() -> attnlang.Variant:
    return attnlang.loads(SPEC)


@pytest.fixture(scope="module")
def padded() -> attnlang.Variant:
    return attnlang.loads(PADDED)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block", [1, 7, 64, 10**15])
def test_against_the_reference(picked, shape, block) -> None:
    q, k, v = make_qkv(shape, torch.float32, generator())
    indices = select(shape, block, min(700, 3 * -(-shape.kv // block)))
    assert_accurate(picked, q, k, v, kv_indices=indices, kv_block=block, seed=1)
    call = {"kv_lens": torch.randint(0, shape.kv, (shape.b,), generator=generator(2)), "w": 50}
    assert_accurate(picked, q, k, v, kv_indices=indices.int(), kv_block=block, seed=1, **call)
    few = indices[..., :2]
    call = {"kv_indices": few, "kv_block": block, "p": 0.5, "seed": 9, "return_max": True}
    want = picked.reference(q, k, v, dtype=torch.float64, **call)
    for a, b in zip(picked(q, k, v, **call), want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["bshd", "gap"])
def test_narrow(picked, shape, dtype, layout) -> None:
    q, k, v = make_qkv(shape, dtype, generator(), layout=layout)
    for block in (1, 16):
        indices = select(shape, block, 40)
        assert_accurate(picked, q, k, v, kv_indices=indices, kv_block=block, w=100, seed=1)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_a_selection_is_a_set(picked, shape) -> None:
    """Order, duplicates, padding, dtype and strides change nothing, not a bit."""
    q, k, v = make_qkv(shape, torch.float32, generator())
    indices = select(shape, 3, 20)
    want = picked(q, k, v, kv_indices=indices, kv_block=3, p=0.3, seed=4)
    pad = torch.full((*indices.shape[:3], 5), -1)
    longer = torch.cat([indices, pad, indices], -1)
    for other in (
        indices[..., torch.randperm(20, generator=generator(3))],
        indices.sort(-1).values,
        longer[..., torch.randperm(45, generator=generator(3))],
        torch.cat([pad, indices], -1).int(),
        indices.mT.contiguous().mT,
        torch.stack([indices, indices + 1], -1)[..., 0],
    ):
        found = picked(q, k, v, kv_indices=other, kv_block=3, p=0.3, seed=4)
        assert torch.equal(found, want)


def test_everything_selected_is_the_call_without(picked) -> None:
    s = SHAPES[0]
    q, k, v = make_qkv(s, torch.float32, generator())
    every = torch.arange(9).expand(s.b, s.hkv, s.q, 9)
    found = picked(q, k, v, kv_indices=every, kv_block=10, p=0.4, seed=3, return_lse=True)
    want = picked(q, k, v, p=0.4, seed=3, return_lse=True)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("queries", [1, 20])
def test_nothing_selected(picked, queries) -> None:
    s = Sizes(2, 4, 2, queries, 50, D, D)
    q, k, v = make_qkv(s, torch.float32, generator())
    indices = select(s, 1, 30)
    indices[0] = -1
    for empty in (indices[:, :, :, :0], torch.full_like(indices, -1), indices):
        out, lse, top = picked(
            q, k, v, kv_indices=empty, p=0.1, seed=2, return_lse=True, return_max=True
        )
        assert not out[0].any()
        assert torch.isneginf(lse[0]).all()
        assert torch.isneginf(top[0]).all()
    assert out[1].any()
    none = {"kv_indices": torch.full((2, 2, queries, 3), -1), "seed": 1}
    assert not picked(q, k[:, :, :0], v[:, :, :0], **none).any()


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_what_is_not_selected_or_hidden_is_never_looked_at(padded, shape) -> None:
    q, k, v = make_qkv(shape, torch.float32, generator())
    keep = torch.rand(shape.b, shape.kv, generator=generator(5)) < 0.6
    indices = select(shape, 4, 12)
    call = {"keep": keep, "kv_indices": indices, "kv_block": 4}
    assert_accurate(padded, q, k, v, **call)
    want = padded(q, k, v, **call)
    unread = torch.ones(shape.b, shape.hkv, shape.kv, dtype=torch.bool)
    for b in range(shape.b):
        for h in range(shape.hkv):
            for block in indices[b, h].unique().tolist():
                if block >= 0:
                    unread[b, h, 4 * block : 4 * block + 4] = False
    unread |= ~keep[:, None]
    k, v = (x.masked_fill(unread[..., None], math.nan) for x in (k, v))
    assert torch.equal(padded(q, k, v, **call), want)


def test_bitwise_equal_on_any_number_of_threads(picked) -> None:
    before = torch.get_num_threads()
    try:
        for shape in SHAPES:
            q, k, v = make_qkv(shape, torch.float32, generator())
            call = {"kv_indices": select(shape, 1, 900), "p": 0.2, "seed": 5, "return_max": True}
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(picked(q, k, v, return_lse=True, **call))
            for result in results[1:]:
                assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))
    finally:
        torch.set_num_threads(before)


def test_cost_follows_the_selection() -> None:
    """Half a billion columns (one in memory): anything that walks them all would take seconds."""
    variant = attnlang.loads(
        "attention far(w: int): score = score + float(kv_idx % 97) * 0.05 mask = kv_idx % 3 != w"
    )
    length, count = 2**29, 500
    g = generator()
    q, k, v = (torch.randn(1, 2, 1, D, generator=g) for _ in range(3))
    k, v = k[:, :1].expand(1, 1, length, D), v[:, :1].expand(1, 1, length, D)
    indices = torch.randint(0, length, (1, 1, 1, count), generator=g)
    variant(q, k, v, w=1, kv_indices=indices)
    start = time.process_time()
    _, lse = variant(q, k, v, w=1, kv_indices=indices, return_lse=True)
    assert time.process_time() - start < 0.5
    columns = indices.unique()
    columns = columns[columns % 3 != 1]
    dot = (q.double() @ k[:, :, :1].double().mT)[..., 0] / D**0.5
    want = torch.logsumexp(dot + (columns % 97) * 0.05, -1, keepdim=True)
    torch.testing.assert_close(lse.double(), want, rtol=1e-5, atol=1e-5)


WRONG = {
    "dtype": (lambda i: {"kv_indices": i.float()}, "kv_indices", "int32 or int64"),
    "rank": (lambda i: {"kv_indices": i[0]}, "kv_indices", "HKV = 2"),
    "heads": (lambda i: {"kv_indices": i.repeat(1, 2, 1, 1)}, "kv_indices", "HKV = 2"),
    "rows": (lambda i: {"kv_indices": i[:, :, :5]}, "kv_indices", "Q = 33"),
    "list": (lambda i: {"kv_indices": [1]}, "kv_indices", "list"),
    "place": (lambda i: {"kv_indices": i.to("meta")}, "kv_indices", "q's device"),
    "zero": (lambda i: {"kv_indices": i, "kv_block": 0}, "kv_block", "1 column or more"),
    "float": (lambda i: {"kv_indices": i, "kv_block": 2.0}, "kv_block", "float"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_names_its_argument(picked, case) -> None:
    make, argument, word = WRONG[case]
    q, k, v = make_qkv(SHAPES[0], torch.float32, generator())
    with pytest.raises(attnlang.CallError) as caught:
        picked(q, k, v, seed=1, **make(select(SHAPES[0], 1, 4)))
    assert caught.value.argument == argument
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("block", "index"), [(1, 90), (1, -2), (64, 2), (10**12, 1), (7, -(2**40))]
)
def test_an_index_without_a_block_raises(picked, block, index) -> None:
    q, k, v = make_qkv(SHAPES[0], torch.float32, generator())
    indices = select(SHAPES[0], 90, 4)
    indices[1, 0, 32, 3] = index
    message = rf"`kv_indices`\[1, 0, 32, 3\] selects block {index} of"
    with pytest.raises(RuntimeError, match=message):
        picked(q, k, v, seed=1, kv_indices=indices, kv_block=block)
    with pytest.raises(IndexError, match=f"selects block {index} of"):
        picked.reference(q, k, v, seed=1, kv_indices=indices, kv_block=block)


def test_the_bare_op_checks_too(picked) -> None:
    q, k, v = make_qkv(SHAPES[0], torch.float32, generator())
    indices = select(SHAPES[0], 1, 4)
    for wrong in (indices[0], indices[:, :1], indices.short()):
        with pytest.raises(RuntimeError, match="kv_indices"):
            picked.op(q, k, v, seed=1, kv_indices=wrong)
    with pytest.raises(RuntimeError, match="kv_block"):
        picked.op(q, k, v, seed=1, kv_indices=indices, kv_block=0)
    torch.library.opcheck(
        picked.op, (q, k, v), {"seed": 1, "kv_indices": indices, "return_lse": True}
    )


def test_a_selection_has_no_tiles(picked) -> None:
    q, k, v = make_qkv(SHAPES[0], torch.float32, generator())
    with pytest.raises(attnlang.CallError, match="`kv_indices`: expected nothing"):
        picked.tiles(q, k, v, kv_indices=select(SHAPES[0], 1, 4))


def test_compiled(picked) -> None:
    q, k, v = make_qkv(SHAPES[0], torch.float32, generator())
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda q, k, v, i: picked(q, k, v, kv_indices=i + 1, kv_block=2, seed=1, p=0.5),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    indices = select(SHAPES[0], 4, 9)
    want = picked(q, k, v, kv_indices=indices + 1, kv_block=2, seed=1, p=0.5)
    assert torch.equal(compiled(q, k, v, indices), want)
