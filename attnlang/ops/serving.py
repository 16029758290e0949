"""The calls of a variant over requests of any lengths; `Variant` has them as its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast, overload

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ops import arguments as check
from attnlang.ops import packed
from attnlang.ops.autocast import autocast, casts

if TYPE_CHECKING:
    from attnlang.ops.block_sparse import BlockSparse
    from attnlang.ops.block_sparse_plan import BlockSparsePlan
    from attnlang.ops.paged_kv import PagedKV
    from attnlang.ops.parts import Paged, Part
    from attnlang.ops.serving_plan import Plan
    from attnlang.ops.variant import Variant

Offset = int | Tensor | None
_RAGGED_KEYWORDS = (
    "q_indptr", "kv_indptr", "scale", "q_offset", "kv_offset", "seed", "return_lse", "return_max",
)  # fmt: skip


class Serving:
    """What a variant does beside dense calls."""

    @overload
    def ragged(
        self, /, q: Tensor, k: Tensor, *args: ParamValue,
        scale: float | Tensor | None = None, q_offset: Offset = None, kv_offset: int | Tensor = 0,
        seed: int | None = None, return_lse: Literal[False] = False,
        return_max: Literal[False] = False, **params: ParamValue,
    ) -> Tensor: ...  # fmt: skip
    @overload
    def ragged(
        self, /, q: Tensor, k: Tensor, *args: ParamValue,
        scale: float | Tensor | None = None, q_offset: Offset = None, kv_offset: int | Tensor = 0,
        seed: int | None = None, return_lse: bool = False, return_max: bool = False,
        **params: ParamValue,
    ) -> Tensor | tuple[Tensor, ...]: ...  # fmt: skip
    def ragged(
        self,
        /,
        q: Tensor,
        k: Tensor,
        *args: ParamValue,
        scale: float | Tensor | None = None,
        q_offset: Offset = None,
        kv_offset: int | Tensor = 0,
        seed: int | None = None,
        return_lse: bool = False,
        return_max: bool = False,
        **params: ParamValue,
    ) -> Tensor | tuple[Tensor, ...]:
        """Attend for requests of any lengths: `ragged(q, k, v, q_indptr, kv_indptr, ...)`.

        q [sum Q, HQ, D], k [sum KV, HKV, D], v [sum KV, HKV, DV], any strides, hold the rows of all
        requests one after another; request b has rows `q_indptr[b]` to `q_indptr[b + 1]` of q, and
        likewise of k and v (int32 or int64 [B + 1], on the CPU or where q is). Returns out
        [sum Q, HQ, DV], then lse [sum Q, HQ] and max [B, HQ] where asked for. Each request is
        computed as a call of its own: `Q` and `KV` are its lengths, `b` is its number. A tensor
        parameter with `B` and one of `Q`, `KV` has the rows of all requests first and no `B`; one
        with `Q` or `KV` alone serves all requests and is as long as the longest or longer. Raises
        CallError for a wrong argument.
        """
        variant = cast("Variant", self)
        v, q_indptr, kv_indptr, args = packed.split_arguments(args, params, v=variant.takes_v)
        if isinstance(q, Tensor) and casts(q):
            q, k, v = autocast(q, k, v)
        facts = None
        if not torch.compiler.is_compiling():
            facts = variant.routes.facts(
                (q, k, v), args, params, (q_offset, kv_offset),
                (scale, q_indptr, kv_indptr, return_lse, return_max), seed,
            )  # fmt: skip
        known = None if facts is None else variant.routes.find(facts)
        results: tuple[Tensor, Tensor, Tensor] | None = None
        if known is not None:
            moving = (scale, q_offset, kv_offset, q_indptr, kv_indptr, seed)
            results = packed.attend_again(variant, known, (q, k, v), args, params, moving)
        if results is None:
            values = check.name_params(variant.ir.params, args, params, _RAGGED_KEYWORDS)
            passed = (q_offset, kv_offset)
            q_offset, kv_offset = check.beside(q, *passed)
            if q_offset is not passed[0] or kv_offset is not passed[1]:
                facts = None  # each call like it has to bring them there
            call = packed.Ragged(
                q, k, v, q_indptr, kv_indptr, values, scale, q_offset, kv_offset, seed
            )
            wanted = {"return_lse": return_lse, "return_max": return_max}
            results = packed.attend(variant, call, **wanted)
            if facts is not None and known is None and packed.is_like_others(variant, call):
                variant.routes.remember(
                    facts, packed.route(variant, call, len(args), params, **wanted)
                )
        out, lse, largest = results
        if not (return_lse or return_max):
            return out
        return (out, *((lse,) if return_lse else ()), *((largest,) if return_max else ()))

    @overload
    def plan(
        self, /, q_indptr: Tensor, kv: BlockSparse, *,
        num_q_heads: int, q_offset: Offset = None, kv_offset: int | Tensor = 0,
        batch_invariant: bool | int = False, share_prefixes: bool = False,
        max_requests: int | None = None, max_q_tokens: int | None = None,
        max_pages: int | None = None, **params: ParamValue | Paged,
    ) -> BlockSparsePlan: ...  # fmt: skip
    @overload
    def plan(
        self, /, q_indptr: Tensor, kv: PagedKV | Tensor | Sequence[PagedKV | Tensor | Part], *,
        num_q_heads: int, q_offset: Offset = None, kv_offset: int | Tensor = 0,
        batch_invariant: bool | int = False, share_prefixes: bool = False,
        max_requests: int | None = None, max_q_tokens: int | None = None,
        max_pages: int | None = None, **params: ParamValue | Paged,
    ) -> Plan: ...  # fmt: skip
    def plan(
        self,
        /,
        q_indptr: Tensor,
        kv: PagedKV | Tensor | BlockSparse | Sequence[PagedKV | Tensor | Part],
        *,
        num_q_heads: int,
        q_offset: Offset = None,
        kv_offset: int | Tensor = 0,
        batch_invariant: bool | int = False,
        share_prefixes: bool = False,
        max_requests: int | None = None,
        max_q_tokens: int | None = None,
        max_pages: int | None = None,
        **params: ParamValue | Paged,
    ) -> Plan | BlockSparsePlan:
        """Plan a serving step once for all layers; `attnlang.ops.serving_plan` has the details.

        q_indptr [B + 1] tells the requests' query rows apart. `kv` is where their keys lie: a
        `PagedKV`, the kv_indptr of ragged tensors, a `BlockSparse`, or a list of parts in the order
        of their positions. `params` are the parameters that the mask reads; they are frozen here.
        `batch_invariant` cuts a request alike in any company (an int: every so many keys);
        `share_prefixes` reads pages that neighbours begin with once; the maxima fix the buffers
        that `update` refills. Raises CallError for a malformed table.
        """
        from attnlang.ops.serving_plan import make_plan

        return make_plan(
            cast("Variant", self), q_indptr, kv, params, num_q_heads=num_q_heads, q_offset=q_offset,
            kv_offset=kv_offset, batch_invariant=batch_invariant, share_prefixes=share_prefixes,
            max_requests=max_requests, max_q_tokens=max_q_tokens, max_pages=max_pages,
        )  # fmt: skip
