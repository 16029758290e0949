"""`PagedKV`, `BlockSparse`, `Part`, `Paged`: what they hold, and every table that they refuse."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import attnlang
from attnlang import BlockSparse, CallError, Paged, PagedKV, Part


def ints(*values: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def _cache(**change: object) -> PagedKV:
    """Return three requests of 5, 0 and 4 keys in pages of 4, or what `change` makes of them."""
    arguments: dict[str, object] = {
        "k_pages": torch.zeros(6, 4, 2, 8),
        "v_pages": torch.zeros(6, 4, 2, 3),
        "indptr": ints(0, 2, 2, 3),
        "indices": ints(5, 0, 2),
        "last_page_len": ints(1, 0, 4),
    }
    return PagedKV(**(arguments | change))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_lengths(dtype: torch.dtype) -> None:
    tables = {n: getattr(_cache(), n).to(dtype) for n in ("indptr", "indices", "last_page_len")}
    cache = _cache(**tables)
    assert cache.kv_lens.tolist() == [5, 0, 4]
    assert (cache.requests, cache.page_size, cache.num_kv_heads) == (3, 4, 2)
    hnd = _cache(k_pages=torch.zeros(6, 2, 4, 8), v_pages=torch.zeros(6, 2, 4, 3), layout="HND")
    assert (hnd.page_size, hnd.num_kv_heads) == (4, 2)
    none = _cache(indptr=ints(0), indices=ints(), last_page_len=ints())
    assert none.kv_lens.tolist() == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"indices": ints(5, 0, 6)}, "`indices`: expected a page of 0 to 5, found 6 at entry 2"),
        ({"indices": ints(5, -1, 2)}, "`indices`: expected a page of 0 to 5, found -1 at entry 1"),
        ({"indices": ints(5, 0)}, "`indices`: expected 3 pages, as indptr ends, found 2"),
        ({"indices": torch.zeros(3)}, "`indices`: .*found dtype float32"),
        ({"indices": [5, 0, 2]}, "`indices`: expected an int tensor .n., found list"),
        ({"indices": torch.zeros(3, 1, dtype=torch.int32)}, "`indices`: .*found shape .3, 1."),
        (
            {"indices": torch.zeros(3, dtype=torch.int32, device="meta")},
            "`indices`: expected a tensor on the CPU: planning reads its values, found one on meta",
        ),
        (
            {"indptr": ints(0, 2, 1, 3)},
            "`indptr`: expected entries that never decrease, found 1 at entry 2, after 2",
        ),
        ({"indptr": ints(1, 2, 2, 3)}, "`indptr`: expected 0 at entry 0, found 1"),
        ({"indptr": ints()}, "`indptr`: expected a 0 and the end of every request"),
        (
            {"indptr": ints(0, 2, 3)},
            "`last_page_len`: .*.2.: indptr has 2 requests, found shape .3.",
        ),
        ({"last_page_len": ints(0, 0, 4)}, "`last_page_len`: expected 1 to 4, found 0 at entry 0"),
        ({"last_page_len": ints(1, 0, 5)}, "`last_page_len`: expected 1 to 4, found 5 at entry 2"),
        ({"last_page_len": ints(1, 0, -1)}, "`last_page_len`: expected 1 to 4, found -1 at"),
        (
            {"last_page_len": ints(1, 2, 4)},
            "`last_page_len`: expected 0 for a request without pages, found 2 at entry 1",
        ),
        ({"layout": "HDN"}, "`layout`: expected 'NHD' or 'HND', found 'HDN'"),
        ({"k_pages": torch.zeros(6, 4, 8)}, "`k_pages`: expected 4 dimensions"),
        ({"k_pages": torch.zeros(6, 4, 2, 8).int()}, "`k_pages`: expected float32, bf"),
        ({"v_pages": torch.zeros(6, 4, 1, 8)}, r"`v_pages`: expected \[6, 4, 2\] and float32"),
        ({"v_pages": torch.zeros(6, 4, 2, 8).bfloat16()}, "`v_pages`: .*found .*bfloat16"),
        ({"v_pages": 3}, "`v_pages`: expected a tensor, found int"),
        ({"k_scale": torch.ones(3)}, "`k_scale`: expected a number, or a float tensor, 0-d or"),
        ({"v_scale": "2"}, "`v_scale`: expected a number"),
    ],
)
def test_a_malformed_table_is_named(change: dict[str, object], text: str) -> None:
    with pytest.raises(CallError) as raised:
        _cache(**change)
    assert re.search(text, str(raised.value)), str(raised.value)


def test_a_table_that_was_changed_since_is_found() -> None:
    cache = _cache()
    cache.indices[1] = 17
    with pytest.raises(CallError, match="found 17 at entry 1"):
        cache.check()


def test_a_request_of_too_many_keys() -> None:
    page = torch.zeros(1, 1, 1, 1).expand(1, 2**28, 1, 1)
    with pytest.raises(CallError, match=r"requests shorter than 2 \*\* 30"):
        PagedKV(page, page, ints(0, 5), ints(0, 0, 0, 0, 0), ints(1))


def _slots(cache: PagedKV, b: int, pool: Tensor) -> Tensor:
    """Gather a request's slots by hand, [KV, HKV, D]."""
    pages = cache.indices[cache.indptr[b] : cache.indptr[b + 1]].long()
    pool = pool if cache.layout == "NHD" else pool.transpose(1, 2)
    return pool[pages].flatten(0, 1)[: cache.kv_lens[b]]


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("page", [1, 3, 16])
def test_append_writes_each_token_to_its_slot(layout: str, page: int) -> None:
    torch.manual_seed(0)
    lens, heads = [7, 0, 1, 16], 2
    counts = [-(-n // page) for n in lens]
    indices = torch.randperm(sum(counts) + 3)[: sum(counts)]
    shape = (sum(counts) + 3, page, heads) if layout == "NHD" else (sum(counts) + 3, heads, page)
    pool = torch.full((shape[0], 2, *shape[1:], 8), float("nan"))  # one pool of both, with gaps
    cache = PagedKV(
        pool[:, 0], pool[:, 1], torch.tensor([0, *counts]).cumsum(0), indices,
        torch.tensor([n - (c - 1) * page if c else 0 for n, c in zip(lens, counts, strict=True)]),
        layout=layout,
    )  # fmt: skip
    k, v = torch.randn(sum(lens), heads, 8), torch.randn(sum(lens), heads, 8)
    starts = torch.tensor([0, *lens]).cumsum(0)
    positions = torch.cat([torch.arange(n) for n in lens])
    cache.append(k, v, positions, q_indptr=starts)
    for b in range(4):
        own = slice(starts[b], starts[b + 1])
        assert torch.equal(_slots(cache, b, cache.k_pages), k[own])
        assert torch.equal(_slots(cache, b, cache.v_pages), v[own])
    assert pool.isnan().sum() == pool.numel() - 2 * k.numel()  # no other slot was touched


def test_append_of_a_token_a_request() -> None:
    cache = _cache(indptr=ints(0, 2, 3, 4), indices=ints(5, 0, 2, 1), last_page_len=ints(1, 1, 4))
    k, v = torch.randn(3, 2, 8), torch.randn(3, 2, 3)
    cache.append(k, v, ints(4, 0, 3))
    assert torch.equal(cache.k_pages[0, 0], k[0])
    assert torch.equal(cache.v_pages[2, 0], v[1])
    assert torch.equal(cache.k_pages[1, 3], k[2])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("per_head", [False, True])
def test_append_to_fp8_divides_by_the_scale_and_saturates(
    dtype: torch.dtype, per_head: bool
) -> None:
    scale = torch.tensor([0.5, 4.0]) if per_head else 2.0
    pools = (torch.zeros(6, 4, 2, 8).to(dtype), torch.zeros(6, 4, 2, 3).to(dtype))
    cache = _cache(
        k_pages=pools[0], v_pages=pools[1], indptr=ints(0, 1), indices=ints(3),
        last_page_len=ints(2), k_scale=scale,
    )  # fmt: skip
    k, v = torch.randn(1, 2, 8) * 8, torch.randn(1, 2, 3)
    k[0, 0, 0] = 1e9
    cache.append(k, v, ints(1))
    factor = scale.reshape(2, 1) if per_head else 2.0
    largest = torch.finfo(dtype).max
    want = (k[0] / factor).clamp(-largest, largest).to(dtype)
    assert torch.equal(pools[0][3, 1].float(), want.float())
    assert torch.equal(pools[1][3, 1].float(), v[0].to(dtype).float())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (([2, 2, 8], [2, 2, 3], ints(0, 0)), "`k`: expected a token for each of 3 requests"),
        (([3, 2, 8], [3, 2, 3], ints(0, 0, 0)), "`positions`: expected 0 to -1 in request 1"),
        (([2, 2, 8], [2, 2, 3], ints(5, 3), ints(0, 1, 1, 2)), "0 to 4 in request 0, found 5 at"),
        (([2, 2, 8], [2, 2, 3], ints(4, -1), ints(0, 1, 1, 2)), "0 to 3 in request 2, found -1"),
        (([2, 2, 8], [2, 2, 3], ints(4, 3), ints(0, 1, 1, 3)), "`q_indptr`: expected 2 at the end"),
        (([2, 2, 8], [2, 2, 3], ints(4, 3), ints(0, 1, 2)), "`q_indptr`: .*.4.: the cache has 3"),
        (([2, 2, 8], [2, 2, 4], ints(4, 3), ints(0, 1, 1, 2)), r"`v`: expected shape \[2, 2, 3\]"),
        (([2, 1, 8], [2, 2, 3], ints(4, 3), ints(0, 1, 1, 2)), r"`k`: expected shape \[2, 2, 8\]"),
        (([2, 2, 8], None, ints(4, 3), ints(0, 1, 1, 2)), "`v`: expected a tensor, found"),
        (((1, 2), [2, 2, 3], ints(4, 3)), "`k`: expected a tensor, found tuple"),
        (([2, 2, 8], [2, 2, 3], ints(4), ints(0, 1, 1, 2)), "`positions`: .*one for each token"),
    ],
)  # fmt: skip
def test_an_append_that_does_not_fit(call: tuple[object, ...], text: str) -> None:
    made = [torch.ones(x) if isinstance(x, list) else x for x in call]
    cache = _cache()
    with pytest.raises(CallError) as raised:
        cache.append(*made)
    assert re.search(text, str(raised.value)), str(raised.value)
    assert not cache.k_pages.any()


def test_an_append_leaves_no_trace_in_autograd() -> None:
    cache = _cache()
    k, v = torch.randn(2, 2, 8, requires_grad=True), torch.randn(2, 2, 3)
    cache.append(k, v, ints(4, 3), ints(0, 1, 1, 2))
    assert not cache.k_pages.requires_grad
    assert torch.equal(cache.k_pages[cache.indices[1], 0], k[0])


def test_block_sparse_tables() -> None:
    found = BlockSparse(ints(0, 2, 2, 3), ints(4, 0, 1), (16, 8))
    assert [x.tolist() for x in found.check()] == [[0, 2, 2, 3], [4, 0, 1]]
    for arguments, text in (
        ((ints(0, 2), ints(1), (1, 1)), "`indices`: expected 2 blocks"),
        ((ints(0, 2), ints(1, -3), (1, 1)), "`indices`: expected a block of 0 or more, found -3"),
        ((ints(0, 2, 1), ints(1, 2), (1, 1)), "`indptr`: expected entries that never decrease"),
        ((ints(0, 1), ints(1), (0, 1)), "`block`: expected"),
        ((ints(0, 1), ints(1), 16), "`block`: expected"),
    ):
        with pytest.raises(CallError, match=text):
            BlockSparse(*arguments)


def test_part_and_paged_check_what_they_are_given() -> None:
    assert Part(_cache(), q_indptr=ints(0, 1)).q_indptr is not None
    with pytest.raises(CallError, match="`kv`: expected a PagedKV or a kv_indptr tensor"):
        Part([1, 2])
    with pytest.raises(CallError, match=r"`tensor`: expected a tensor \[pages, page"):
        Paged(torch.zeros(3))
    assert attnlang.Paged(torch.zeros(3, 4)).tensor.shape == (3, 4)
