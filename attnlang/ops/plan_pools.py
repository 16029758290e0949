"""The pools of a run: from what a layer passes to the keys and values of each packed call.

Invariant: pools have the planned layout and at least the planned pages.
"""

from __future__ import annotations

from torch import Tensor

from attnlang.ops.errors import CallError
from attnlang.ops.level_call import Pools
from attnlang.ops.paged_kv import check_pools, nhd
from attnlang.ops.plan_step import Store

Pool = Tensor | tuple[Tensor, Tensor | None]


def pools_of(kv: Pool | list[Pool] | None, stores: tuple[Store, ...]) -> tuple[Pools, ...]:
    """Return the pools of every part; what shares a prefix lies in one pool."""
    count = len(stores)
    given = kv if isinstance(kv, list) else [kv]
    if len(given) == 1:
        given = given * count
    if len(given) != count:
        raise CallError("kv", f"one pair, or one for each of {count} parts", f"{len(given)}")
    return tuple(_store_pools(pair, store) for pair, store in zip(given, stores, strict=True))


def _store_pools(pair: Pool | None, store: Store) -> Pools:
    cache = store.cache
    if pair is None and cache is None:
        raise CallError("kv", "(k, v) [sum KV, HKV, D]: a ragged plan has no pools", "nothing")
    if pair is not None and cache is not None:
        k, v = pair if isinstance(pair, tuple) else (pair, None)
        check_pools(k, v, cache.layout)
        if k.shape[1:3] != cache.k_pages.shape[1:3] or k.shape[0] < cache.k_pages.shape[0]:
            expected = f"pools of {list(cache.k_pages.shape[:3])} as planned"
            raise CallError("kv", expected, f"shape {list(k.shape)}")
    scales = (None, None) if cache is None else (cache.k_scale, cache.v_scale)
    return Pools(*as_kernels_take(pair, store), *scales)


def as_kernels_take(kv: Pool | list[Pool] | None, store: Store) -> tuple[Tensor, Tensor | None]:
    """Return what a run of a plan of one part was passed as kernels take it."""
    pair, cache = kv[0] if isinstance(kv, list) else kv, store.cache
    if pair is None:
        assert cache is not None
        k, v = cache.k_pages, cache.v_pages
    else:
        k, v = pair if isinstance(pair, tuple) else (pair, None)
    if cache is None:
        if not store.paged:
            return k, v
        return k.unsqueeze(1), None if v is None else v.unsqueeze(1)  # pages of one slot
    return nhd(k, cache.layout), None if v is None else nhd(v, cache.layout)
