"""Running a plan of several parts: part by part, then their states together.

Maps the tables of a step and a layer's pools to a call's results. Invariant: states are merged in
the order of the parts, and the sink and the out expression come once, after that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attnlang.ir.nodes import Variant as VariantIr
from attnlang.ops.errors import CallError
from attnlang.ops.finish import Rows, finish, finishes, packed_reads, reads_row_sum
from attnlang.ops.frozen import Value
from attnlang.ops.level_call import CallFacts, Pools, call_level
from attnlang.ops.levels import Level, LevelTables
from attnlang.ops.merge import merge_in_place
from attnlang.ops.part_core import kv_total_name, part_core, row_sum_core, unmasked
from attnlang.ops.parts import Paged

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant


class Cores:
    """What the parts of a variant's plans run; made once for each variant."""

    def __init__(self, ir: VariantIr) -> None:
        self.ir = ir

    @cached_property
    def masked(self) -> Variant:
        """The core of one part."""
        return _variant(part_core(self.ir))

    @cached_property
    def shared(self) -> Variant:
        """The core of a part whose keys every row sees."""
        return _variant(unmasked(self.masked.ir))

    @cached_property
    def sums(self) -> tuple[Variant, Variant]:
        """What adds up the weights, in the place of `masked` and of `shared`."""
        return _variant(row_sum_core(self.masked.ir)), _variant(row_sum_core(self.shared.ir))

    @cached_property
    def finished(self) -> VariantIr:
        """The sink and the out expression over packed rows."""
        return packed_reads(self.ir)


_SEED_END = 2**63 - 1

_cores: WeakKeyDictionary[Variant, Cores] = WeakKeyDictionary()


def _variant(ir: VariantIr) -> Variant:
    from attnlang.ops.variant import Variant

    return Variant(ir)


def cores_of(variant: Variant) -> Cores:
    """Return the cores of a variant, the same ones each time."""
    return _cores.setdefault(variant, Cores(variant.ir))


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """What some of the keys give every row. Without a softmax, lse is None and states add up."""

    out: Tensor
    lse: Tensor | None
    row_sum: Tensor | None  # [sum Q, HQ, 1]; None where nothing reads it
    largest: Tensor | None

    def shaped(self, change: Callable[[Tensor], Tensor]) -> _State:
        """Return the state with its rows and heads in another shape."""
        lse = None if self.lse is None else change(self.lse)
        row_sum = None if self.row_sum is None else change(self.row_sum)
        return _State(change(self.out), lse, row_sum, self.largest)

    def merged(self, other: _State) -> _State:
        """Return the state of both sets of keys, in the memory of one, whose rows lie together."""
        if not self.out.is_contiguous() and other.out.is_contiguous():
            return other.merged(self)
        own, others = ([s.out] if s.row_sum is None else [s.out, s.row_sum] for s in (self, other))
        lse, largest = None, None
        if self.lse is not None and other.lse is not None:
            lse = merge_in_place(own, self.lse, others, other.lse)
        else:
            for sums, more in zip(own, others, strict=True):
                sums += more
        if self.largest is not None and other.largest is not None:
            largest = torch.maximum(self.largest, other.largest)
        return replace(self, lse=lse, largest=largest)


def _stacked(q: Tensor, heads: int) -> Tensor:
    """Return q [sum Q, HQ, D] with the heads that share keys as rows: [sum Q * heads, HKV, D]."""
    rows, all_heads, width = q.shape
    apart = q.reshape(rows, all_heads // heads, heads, width).transpose(1, 2)
    return apart.reshape(rows * heads, all_heads // heads, width)


def _apart(x: Tensor, heads: int, *, stacked: bool) -> Tensor:
    """Return rows [sum Q, HQ, ...] as [sum Q, HKV, heads, ...], of what was `stacked` or not."""
    rows, all_heads, *width = x.shape
    if stacked:
        return x.reshape(rows // heads, heads, all_heads, *width).transpose(1, 2)
    return x.reshape(rows, all_heads // heads, heads, *width)


def run_parts(
    variant: Variant,
    calls: Sequence[tuple[Level, LevelTables, Pools]],
    rows: Rows,
    q: Tensor,
    values: Mapping[str, Value],
    facts: CallFacts,
    kv_heads: int,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return out, lse and max of a run; None where there is none."""
    ir, cores = variant.ir, cores_of(variant)
    weights = ir.weights
    if facts.return_max and any(level.shared for level, _, _ in calls):
        raise CallError("return_max", "False where requests share a part's rows", "True")
    if weights.dropout is not None and facts.seed is None:
        facts = replace(facts, seed=int(torch.randint(_SEED_END, ()).item()))
    softmax = weights.softmax is not None
    wide = replace(facts, wide_out=True, return_lse=softmax)
    plain = softmax and weights.factor is None and weights.dropout is None
    sums = reads_row_sum(ir) and not plain
    values = {**values, kv_total_name(ir): rows.kv_lens}
    together = max(level.stacked for level, _, _ in calls)  # heads that were rows of some part
    state: _State | None = None
    for level, tables, pools in calls:
        core = cores.shared if level.shared else cores.masked
        rows_q = q if level.stacked == 1 else _stacked(q, level.stacked)
        out, lse, largest = call_level(core, tables, level.part, pools, rows_q, values, wide)
        row_sum = None
        if sums:
            bare = replace(wide, return_max=False)
            adder = cores.sums[int(level.shared)]
            row_sum, _, _ = call_level(adder, tables, level.part, pools, rows_q, values, bare)
        found = _State(out, lse, row_sum, largest)
        if together > 1:
            found = found.shaped(partial(_apart, heads=together, stacked=level.stacked > 1))
        state = found if state is None else state.merged(found)
    assert state is not None
    if together > 1:
        state = state.shaped(lambda x: x.flatten(1, 2))
    row_sum = state.row_sum
    if not finishes(ir):
        return state.out.to(q.dtype), state.lse, state.largest
    if plain and state.lse is not None:
        row_sum = (~state.lse.isneginf()).to(state.out.dtype).unsqueeze(2)
    named = {n: x for n, x in values.items() if not isinstance(x, Paged)}
    out = finish(
        cores.finished,
        rows.first(q.shape[0]),
        q,
        state.out,
        row_sum,
        state.lse,
        named,
        facts.scale,
        kv_heads,
    )
    return out, state.lse, state.largest
