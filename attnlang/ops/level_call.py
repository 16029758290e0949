"""One packed call of a plan: from its tables and a layer's pools to the states of its rows.

Requests are gathered one by one and attended by the dense op.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import Size, TensorParam
from attnlang.ops.levels import LevelTables
from attnlang.ops.parts import Paged

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Where a layer's keys and values of one part lie: pages [pages, page, HKV, D], or rows."""

    k: Tensor
    v: Tensor | None
    k_scale: float | Tensor | None = None
    v_scale: float | Tensor | None = None


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What every level of a run has in common."""

    scale: float | Tensor | None
    seed: int | None
    return_lse: bool
    return_max: bool
    wide_out: bool


def call_level(
    variant: Variant,
    tables: LevelTables,
    part: int,
    pools: Pools,
    q: Tensor,
    values: Mapping[str, ParamValue | Paged],
    facts: CallFacts,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return out [sum Q, HQ, DV], lse [sum Q, HQ], max [B, HQ]; None what is not asked for."""
    outs, lses, tops = [], [], []
    for b in range(tables.q_indptr.shape[0] - 1):
        rows = slice(int(tables.q_indptr[b]), int(tables.q_indptr[b + 1]))

        def keys(pool: Tensor, scale: float | Tensor | None = None, b: int = b) -> Tensor:
            if tables.kv_indptr is not None:
                return pool[int(tables.kv_indptr[b]) : int(tables.kv_indptr[b + 1])]
            assert tables.page_indptr is not None
            assert tables.page_indices is not None
            assert tables.kv_lens is not None
            own = tables.page_indices[int(tables.page_indptr[b]) : int(tables.page_indptr[b + 1])]
            if pool.dtype.itemsize == 1:
                pool = pool.to(q.dtype)
            found = pool[own.long()].flatten(0, 1)[: int(tables.kv_lens[b])]
            if scale is None:
                return found
            return found * (scale.reshape(-1, 1) if isinstance(scale, Tensor) else scale)

        own: dict[str, ParamValue] = {}
        for param in variant.ir.params:
            value = values[param.name]
            own[param.name] = value if not isinstance(value, Paged) else None
            if not isinstance(param, TensorParam) or value is None:
                continue
            names = [d.name if isinstance(d, Size) else "" for d in param.dims]
            tensor = value.tensor if isinstance(value, Paged) else value
            assert isinstance(tensor, Tensor)
            if isinstance(value, Paged):
                tensor = keys(tensor)
            elif "B" in names and "Q" in names:
                tensor = tensor[rows]
            elif "B" in names and "KV" in names:
                tensor = keys(tensor)
            elif "B" in names:
                tensor = tensor.narrow(names.index("B"), b, 1)
            if "B" in names and ("Q" in names or "KV" in names):
                at = names.index("Q" if "Q" in names else "KV")
                bare = [i for i in range(len(names)) if i not in (at, names.index("B"))]
                order = [at, *bare]
                tensor = tensor.permute([order.index(i) for i in sorted(order)])
                tensor = tensor.unsqueeze(names.index("B"))
            own[param.name] = tensor
        vectors = [q[rows], keys(pools.k, pools.k_scale)]
        if pools.v is not None:
            vectors.append(keys(pools.v, pools.v_scale))
        offsets = {
            n: 0 if x is None else int(x[b])
            for n, x in (("q_offset", tables.q_offset), ("kv_offset", tables.kv_offset))
            if x is not None
        }
        results = variant(  # type: ignore[call-overload]
            *(x.to(q.dtype).transpose(0, 1).unsqueeze(0) for x in vectors), **own, **offsets,
            scale=facts.scale, seed=facts.seed, return_lse=facts.return_lse,
            return_max=facts.return_max,
        )  # fmt: skip
        found = list(results) if isinstance(results, tuple) else [results]
        outs.append(found.pop(0)[0].transpose(0, 1))
        if facts.return_lse:
            lses.append(found.pop(0)[0].transpose(0, 1))
        if facts.return_max:
            tops.append(found.pop(0)[0])
    out = torch.cat(outs) if outs else q.new_zeros((0, *q.shape[1:]))
    return (
        out.float() if facts.wide_out else out,
        torch.cat([q.new_zeros((0, q.shape[1])).float(), *lses]) if facts.return_lse else None,
        torch.stack(tops) if tops else None,
    )
