"""`PagedKV`: keys and values that lie in pages of a pool, in any order.

Maps pools and page tables, as serving engines keep them, to views [pages, page, HKV, D] and the
length of each request. Invariant: the tables were checked when the object was made, and whoever
plans with it checks them again (`check`), for they are the caller's memory. Of tables on the pools'
GPU shapes are checked: their values are the kernels' to read, which stay within what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from attnlang.ops import tables
from attnlang.ops.arguments import KERNEL_DTYPES, POSITION_LIMIT, check_dense
from attnlang.ops.errors import CallError
from attnlang.ops.tables import IntArray, check_indptr, check_range, check_table, check_unread

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True, slots=True)
class PageTables:
    """The tables of a cache as the host reads them."""

    indptr: IntArray  # [B + 1], where each request's pages begin in `indices`
    indices: IntArray
    lens: IntArray  # [B]


@dataclass(frozen=True, slots=True, eq=False)
class PagedKV:
    """A paged cache.

    Args:
        k_pages: The pool of keys: NHD [pages, page, HKV, D], HND [pages, HKV, page, D]; any page
            size from 1, any strides. float32, bfloat16, float16, float8_e4m3fn or float8_e5m2.
        v_pages: The pool of values, likewise with DV; the other half of one pool is as good. None
            for a spec that makes v of k.
        indptr: int32 or int64 [B + 1], on the CPU, or all three tables on the pools' GPU: request
            b's pages are `indices[indptr[b] : indptr[b + 1]]`, in the order of its positions.
        indices: int32 or int64 [n]: page numbers.
        last_page_len: int32 or int64 [B]: how many slots of the last page are used, 1 to page; 0
            for a request without pages.
        layout: "NHD" or "HND".
        k_scale: What a stored key is multiplied by: a number, or a float tensor, 0-d or [HKV].
        v_scale: The same of values.

    Raises:
        CallError: A table or a pool does not fit; it names the entry.

    """

    k_pages: Tensor
    v_pages: Tensor | None
    indptr: Tensor
    indices: Tensor
    last_page_len: Tensor
    layout: Literal["NHD", "HND"] = "NHD"
    k_scale: float | Tensor | None = None
    v_scale: float | Tensor | None = None

    def __post_init__(self) -> None:
        if self.layout not in ("NHD", "HND"):
            raise CallError("layout", "'NHD' or 'HND'", repr(self.layout))
        check_pools(self.k_pages, self.v_pages, self.layout)
        for name, scale in (("k_scale", self.k_scale), ("v_scale", self.v_scale)):
            _check_scale(name, scale, self.num_kv_heads, self.k_pages.device)
        if self.is_unread:
            self.check_unread()
        else:
            self.check()

    @property
    def page_size(self) -> int:
        """The slots of a page."""
        return self.k_pages.shape[1 if self.layout == "NHD" else 2]

    @property
    def num_kv_heads(self) -> int:
        """HKV."""
        return self.k_pages.shape[2 if self.layout == "NHD" else 1]

    @property
    def requests(self) -> int:
        """B."""
        return self.last_page_len.shape[0]

    @property
    def is_unread(self) -> bool:
        """Whether the tables lie on a GPU, where the host does not look at them."""
        return any(map(tables.is_unread, (self.indptr, self.indices, self.last_page_len)))

    @property
    def kv_lens(self) -> Tensor:
        """The length of each request, int32 [B], where the tables lie."""
        if self.is_unread:
            return lengths_of(self.indptr, self.last_page_len, self.page_size)
        return torch.from_numpy(self.check().lens.astype(np.int32))

    def check_unread(self) -> None:
        """Check the shapes and places of tables on a GPU."""
        device = self.k_pages.device
        indptr = check_unread("indptr", self.indptr, device)
        if indptr.shape[0] == 0:
            raise CallError("indptr", "a 0 and the end of every request", "shape [0]")
        requests = indptr.shape[0] - 1
        whole = f": indptr has {requests} requests"
        check_unread("last_page_len", self.last_page_len, device, requests, whole)
        slots = check_unread("indices", self.indices, device).shape[0] * self.page_size
        if slots >= POSITION_LIMIT:
            raise CallError("indices", "pages of fewer than 2 ** 30 slots", f"{slots} slots")

    def check(self) -> PageTables:
        """Check the tables as they are now, and return them."""
        indptr = check_indptr("indptr", self.indptr)
        requests = indptr.size - 1
        whole = f": indptr has {requests} requests"
        last = check_table("last_page_len", self.last_page_len, requests, whole)
        indices = check_table("indices", self.indices)
        if indices.size < indptr[-1]:
            raise CallError("indices", f"{indptr[-1]} pages, as indptr ends", f"{indices.size}")
        indices = indices[: indptr[-1]]
        check_range("indices", indices, self.k_pages.shape[0], "a page")
        counts = np.diff(indptr).astype(np.int64)
        least, most = (counts > 0).astype(np.int64), np.where(counts > 0, self.page_size, 0)
        wrong = (last < least) | (last > most)
        if wrong.any():
            b = int(np.argmax(wrong))
            expected = f"1 to {self.page_size}" if counts[b] else "0 for a request without pages"
            raise CallError("last_page_len", expected, f"{last[b]} at entry {b}")
        lens = np.where(counts > 0, (counts - 1) * self.page_size + last, 0)
        if lens.size and lens.max() >= POSITION_LIMIT:
            b = int(lens.argmax())
            raise CallError("indptr", "requests shorter than 2 ** 30", f"{lens[b]} in request {b}")
        return PageTables(indptr, indices, lens)

    def append(
        self, k: Tensor, v: Tensor | None, positions: Tensor, q_indptr: Tensor | None = None
    ) -> None:
        """Write tokens into the slots of their positions; the tables must hold these already.

        Args:
            k: The keys, [n, HKV, D]; divided by `k_scale` and rounded to the pool's dtype, fp8
                with saturation.
            v: The values, [n, HKV, DV]; None where the cache has none.
            positions: int32 or int64 [n], on the CPU: each token's place in its request.
            q_indptr: int32 or int64 [B + 1]: request b's tokens are those of
                [q_indptr[b], q_indptr[b + 1]); by default there is one for each request.

        Raises:
            CallError: A shape does not fit, or a position has no slot.

        """
        if self.is_unread:
            raise CallError(
                "indptr", "tables on the CPU, of whose values the slots follow", "tables on a GPU",
                help="write to the pools yourself there: pool[page, slot] = k",
            )  # fmt: skip
        own = self.check()
        requests = own.lens.size
        given = (
            ("k", k, self.k_pages, self.k_scale),
            ("v", v, self.v_pages, self.v_scale),
        )
        for name, x, pool, _ in given:
            if pool is None and x is not None:
                raise CallError(name, "None: the cache has none", type(x).__name__)
            if pool is not None and not isinstance(x, Tensor):
                raise CallError(name, "a tensor", type(x).__name__)
        if q_indptr is None:
            help = "pass q_indptr where a request gets several tokens, or none"
            if k.dim() != 3 or k.shape[0] != requests:
                expected = f"a token for each of {requests} requests [n, HKV, D]"
                raise CallError("k", expected, f"shape {list(k.shape)}", help=help)
            of_request = np.arange(requests)
        else:
            starts = check_indptr(
                "q_indptr", q_indptr, requests + 1, f": the cache has {requests} requests",
                total=k.shape[0] if k.dim() == 3 else None,
            )  # fmt: skip
            of_request = np.repeat(np.arange(requests), np.diff(starts))
        at = check_table("positions", positions, of_request.size, ", one for each token")
        wrong = (at < 0) | (at >= own.lens[of_request])
        if wrong.any():
            i = int(np.argmax(wrong))
            b = of_request[i]
            raise CallError(
                "positions", f"0 to {own.lens[b] - 1} in request {b}", f"{at[i]} at entry {i}"
            )
        page = own.indices[own.indptr[of_request] + at // self.page_size]
        place = (torch.from_numpy(page.astype(np.int64)), torch.from_numpy(at % self.page_size))
        tokens = [
            (name, x, nhd(pool, self.layout), scale)
            for name, x, pool, scale in given
            if x is not None and pool is not None
        ]
        for name, x, pool, _ in tokens:  # all of them before anything is written
            wanted = [at.size, *pool.shape[2:]]
            if list(x.shape) != wanted:
                raise CallError(name, f"shape {wanted}", f"shape {list(x.shape)}")
        for _, x, pool, scale in tokens:
            _write(x, pool, scale, place)


def lengths_of(starts: Tensor, last_page_len: Tensor, page_size: int) -> Tensor:
    """Return the length of each request, int32 [B], without a look at a value."""
    counts = starts.diff()
    used = (counts - 1) * page_size + last_page_len.clamp(1, page_size)
    return (used * (counts > 0)).to(torch.int32)


def nhd(pool: Tensor, layout: str) -> Tensor:
    """Return a pool as [pages, page, HKV, D]."""
    return pool if layout == "NHD" else pool.transpose(1, 2)


def check_pools(k: Tensor, v: Tensor | None, layout: str) -> None:
    """Check the pools of a layer."""
    shape = "[pages, page, HKV, D]" if layout == "NHD" else "[pages, HKV, page, D]"
    for name, x in (("k_pages", k), ("v_pages", v)):
        if x is None and name == "v_pages":
            continue
        if not isinstance(x, Tensor):
            raise CallError(name, "a tensor", type(x).__name__)
        check_dense({name: x})
        if x.dim() != 4:
            raise CallError(name, f"4 dimensions {shape}", f"shape {list(x.shape)}")
        if x.dtype not in (*KERNEL_DTYPES, *FP8_DTYPES):
            expected = "float32, bfloat16, float16, float8_e4m3fn or float8_e5m2"
            raise CallError(name, expected, str(x.dtype).removeprefix("torch."))
        if x.shape[:3] != k.shape[:3] or x.dtype != k.dtype or x.device != k.device:
            expected = f"{list(k.shape[:3])} and {str(k.dtype).removeprefix('torch.')} as k_pages"
            found = f"{list(x.shape[:3])} and {str(x.dtype).removeprefix('torch.')} on {x.device}"
            raise CallError(name, expected, found)
    if 0 in k.shape[1:]:
        raise CallError("k_pages", f"no dimension of 0 in {shape}", f"shape {list(k.shape)}")


def _check_scale(name: str, scale: float | Tensor | None, heads: int, device: torch.device) -> None:
    expected = f"a number, or a float tensor, 0-d or [HKV = {heads}], on {device}"
    if isinstance(scale, Tensor):
        fits = scale.dim() == 0 or tuple(scale.shape) == (heads,)
        if not fits or not scale.is_floating_point() or scale.device != device:
            raise CallError(name, expected, f"{scale.dtype} {list(scale.shape)} on {scale.device}")
    elif scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float)):
        raise CallError(name, expected, f"{type(scale).__name__} {scale!r}")


@torch.no_grad()
def _write(
    x: Tensor, pool: Tensor, scale: float | Tensor | None, place: tuple[Tensor, Tensor]
) -> None:
    if scale is not None:
        factor = scale.reshape(-1, 1) if isinstance(scale, Tensor) else scale
        x = x / factor
    if pool.dtype in FP8_DTYPES:
        largest = torch.finfo(pool.dtype).max
        stored = x.float().clamp(-largest, largest).to(pool.dtype).view(torch.uint8)
        pool = pool.view(torch.uint8)
    else:
        stored = x.to(pool.dtype)
    pages, slots = (i.to(pool.device) for i in place)
    pool[pages, slots] = stored
