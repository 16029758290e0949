"""The inspector of a plan: from a step's tables to what its runs need.

Maps tables on the host to levels, judged by their values, and those on a GPU to one level, as
their shapes allow. Invariant: where a plan's runs may be captured, every step has the same calls,
with tables in the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attnlang.jit.units import Target
from attnlang.ops import arguments as check
from attnlang.ops.errors import CallError
from attnlang.ops.finish import Rows
from attnlang.ops.frozen import Value, freeze
from attnlang.ops.level_call import Made
from attnlang.ops.levels import Level, LevelTables, Positions, TableBuffers, make_levels
from attnlang.ops.paged_kv import PagedKV
from attnlang.ops.part_core import reads_requests
from attnlang.ops.part_runs import cores_of
from attnlang.ops.plan_parts import Ints, PlanParts, plan_parts
from attnlang.ops.plan_rows import RowBuffers
from attnlang.ops.prefixes import share_prefixes
from attnlang.ops.routes import Facts
from attnlang.ops.run_check import Lengths
from attnlang.ops.schedules import Schedules
from attnlang.ops.tables import check_table
from attnlang.ops.targets import runs_on
from attnlang.ops.unread_tables import UnreadKeys, UnreadTables, unread_keys

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant


@dataclass(frozen=True, slots=True)
class Options:
    """What a plan was asked for, beside its tables."""

    num_q_heads: int
    q_offset: int | Tensor | None
    kv_offset: int | Tensor
    split_tokens: int  # of batch-invariant cuts; 0: cuts follow the load
    share_prefixes: bool
    max_requests: int | None
    max_q_tokens: int | None
    max_pages: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """The tables of one step where its kernels run."""

    tables: tuple[LevelTables, ...]
    rows: Rows | None  # None where nothing is merged


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """Where the keys of one packed call lie."""

    cache: PagedKV | None
    paged: bool  # rows of a ragged tensor may be taken for pages of one slot


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one step is."""

    requests: int
    rows: int | None  # None: the tables lie on a GPU
    stores: tuple[Store, ...]
    levels: tuple[Level, ...]  # none where the tables lie on a GPU
    merged: bool
    parts: PlanParts | None
    positions: Positions | None
    placed: Placed | None  # None: no run of ragged keys has said yet where they lie
    lengths: Lengths
    schedules: Schedules
    made: dict[Facts, Made] = field(default_factory=dict)  # for runs that were checked


class Inspector:
    """Makes the steps of one plan."""

    def __init__(self, variant: Variant, options: Options, params: Mapping[str, Value]) -> None:
        self._variant, self._options = variant, options
        self.frozen = freeze(variant.ir, params)
        self.device: torch.device | None = None  # where runs are, once that is known
        self._buffers: TableBuffers | None = None
        self._rows: RowBuffers | None = None
        self._unread: UnreadTables | None = None
        self._form: tuple[bool, ...] | None = None  # of calls that may be captured: which share

    def step(self, q_indptr: Tensor, kv: object, before: Step | None = None) -> Step:
        """Inspect a step; `before`: the one before it."""
        unread = unread_keys(q_indptr, kv)
        if before is not None and (unread is None) != (self._unread is None):
            places = "the CPU", "a GPU"
            planned = places[unread is None]
            raise CallError("q_indptr", f"tables on {planned}, as planned", "others")
        if unread is not None:
            return self._unread_step(unread, before)
        return self._read_step(plan_parts(q_indptr, kv), before)

    def is_fixed(self, step: Step) -> bool:
        """Whether a GPU's kernels get the same tables in every step."""
        if self._unread is not None:
            return True
        assert self._buffers is not None
        return self._buffers.whole and self._has_maxima(step.stores, merged=step.merged)

    def place_ragged(self, step: Step, device: torch.device) -> Step:
        """Place a plan of ragged keys: its first run says where they lie."""
        return self._place(step, self._run_on(device))

    def _unread_step(self, keys: UnreadKeys, before: Step | None) -> Step:
        options = self._options
        if options.share_prefixes:
            expected = "False where tables lie on a GPU: prefixes are found in their values"
            raise CallError("share_prefixes", expected, "True")
        self._check_maxima(keys.requests, None, keys.pages)
        device = (keys.q_indptr if keys.cache is None else keys.cache.k_pages).device
        if self.device not in (None, device):
            place = f"keys on {self.device}, where the plan's tables are"
            raise CallError("kv", place, str(device))
        self.device = device
        bounded = not reads_requests(self._variant.ir)
        requests, pages = keys.requests, None if keys.cache is None else keys.pages
        if bounded and options.max_requests is not None:
            requests = options.max_requests
        if bounded and pages is not None and options.max_pages is not None:
            pages = options.max_pages
        schedules = self._schedules()
        held = self._unread
        if held is None or held.size != (requests, pages):
            q_offset, kv_offset = options.q_offset, options.kv_offset
            based = isinstance(kv_offset, Tensor) or kv_offset != 0
            held = UnreadTables(
                self.device, requests, pages, options.max_q_tokens,
                (
                    None if q_offset is None else _per_request("q_offset", q_offset, keys.requests),
                    _per_request("kv_offset", kv_offset, keys.requests) if based else None,
                ),
            )  # fmt: skip
            self._unread, before = held, None
        held.fill(keys)
        store = Store(keys.cache, pages is not None)
        lengths = Lengths(keys.requests, None, None, requests, _pages_of([keys.cache]), 1)
        step = Step(
            keys.requests, None, (store,), (), False, None, None, Placed((held.tables,), None),
            lengths, schedules,
        )  # fmt: skip
        if before is None:
            return step
        return replace(step, schedules=before.schedules.made_again(None))

    def _read_step(self, parts: PlanParts, before: Step | None) -> Step:
        options = self._options
        if self.device is None:
            device = next(
                (p.cache.k_pages.device for p in parts.parts if p.cache is not None), None
            )
            if device is not None:
                self._run_on(device)
        positions = _positions(options, parts)
        merged = len(parts.parts) > 1
        if options.share_prefixes:
            parts, merged = self._shared(parts, positions)
        if merged:
            form = self._form_of(parts)
            levels = self._levels(parts, positions, form)
        else:
            keys = parts.parts[0].for_requests(parts.of[0], parts.q_starts)
            default = options.q_offset is None
            based = isinstance(options.kv_offset, Tensor) or options.kv_offset != 0
            q_offset = None if default else positions.q_offset
            levels = (Level(0, False, keys, q_offset, positions.kv_offset if based else None),)
        pages = max((x.keys.pages.size for x in levels if x.keys.pages is not None), default=0)
        rows = int(parts.q_starts[-1])
        self._check_maxima(parts.requests, rows, pages)
        stores = tuple(Store(x.keys.cache, x.keys.pages is not None) for x in levels)
        may_be_captured = self._buffers is not None and self._buffers.whole
        if merged and may_be_captured and self._has_maxima(stores, merged=True):
            self._form = tuple(level.shared for level in levels)
        lengths = _lengths(parts, options.max_requests)
        step = Step(
            parts.requests, rows, stores, levels, merged, parts, positions, None, lengths,
            self._schedules(),
        )  # fmt: skip
        if self._buffers is None:
            return step
        step = self._place(step, self._buffers)
        if before is None:
            return step
        return replace(step, schedules=before.schedules.made_again(int(parts.kv_lens.sum())))

    def _schedules(self) -> Schedules:
        return Schedules(max(torch.get_num_threads(), 1), self._options.split_tokens)

    def _has_maxima(self, stores: tuple[Store, ...], *, merged: bool) -> bool:
        """Whether steps have bounds, and calls of one form."""
        options = self._options
        paged = all(store.paged for store in stores)
        bounded = options.max_requests is not None and (options.max_pages is not None or not paged)
        if not merged:
            return bounded
        of_caches = all(store.cache is not None for store in stores)
        return (
            bounded and of_caches and options.max_q_tokens is not None
            and not options.share_prefixes
        )  # fmt: skip

    def _form_of(self, parts: PlanParts) -> tuple[bool, ...] | None:
        """Return which calls share rows, if that was settled by the first step."""
        form = self._form
        if form is not None and len(parts.parts) != len(form):
            expected = f"{len(form)} parts, as planned"
            raise CallError("kv", expected, f"{len(parts.parts)}")
        return form

    def _levels(
        self, parts: PlanParts, positions: Positions, form: tuple[bool, ...] | None = None
    ) -> tuple[Level, ...]:
        numbers = {n: v for n, v in self.frozen.items() if isinstance(v, bool | int | float)}
        core = cores_of(self._variant).masked.ir
        on_gpu = self._buffers is not None and self._buffers.whole
        heads = self._options.num_q_heads if on_gpu else 1
        return make_levels(core, parts, positions, numbers, heads, form)

    def _run_on(self, device: torch.device) -> TableBuffers:
        ir = self._variant.ir
        whole = runs_on(device).target is not Target.CPU and not reads_requests(ir)
        options = self._options
        self.device = device
        self._buffers = TableBuffers(device, options.max_requests, options.max_pages, whole=whole)
        return self._buffers

    def _place(self, step: Step, buffers: TableBuffers) -> Step:
        """Bring the tables of a step to where its kernels run."""
        tables = buffers.fill(step.levels)
        rows = None
        if step.merged:
            assert step.parts is not None
            assert step.positions is not None
            if self._rows is None:
                options, fixed = self._options, self.is_fixed(step)
                most = (options.max_q_tokens, options.max_requests) if fixed else (None, None)
                self._rows = RowBuffers(buffers.device, *most)
            rows = self._rows.fill(step.parts, step.positions)
        return replace(step, placed=Placed(tables, rows))

    def _shared(self, parts: PlanParts, positions: Positions) -> tuple[PlanParts, bool]:
        """Split a cache where neighbours begin alike, if that lets rows go together."""
        (keys,) = parts.parts
        found = share_prefixes(keys)
        if len(found) == 1:
            return parts, False
        of = []
        for part in found:
            seen = np.searchsorted(part.q_starts, parts.q_starts[:-1], side="right") - 1
            of.append(np.minimum(seen, part.requests - 1))
        split = PlanParts(parts.q_starts, found, tuple(of))
        if not all(level.shared for level in self._levels(split, positions)[:-1]):
            return parts, False
        return split, True

    def _check_maxima(self, requests: int, rows: int | None, pages: int) -> None:
        options = self._options
        for name, most, needed in (
            ("max_requests", options.max_requests, requests),
            ("max_q_tokens", options.max_q_tokens, rows),
            ("max_pages", options.max_pages, pages),
        ):
            if most is not None and needed is not None and needed > most:
                raise CallError(name, f"{needed} or more, for this step", str(most))


def _positions(options: Options, parts: PlanParts) -> Positions:
    kv_offset = _per_request("kv_offset", options.kv_offset, parts.requests)
    if options.q_offset is None:
        return Positions(kv_offset + parts.kv_lens - parts.q_lens, kv_offset)
    return Positions(_per_request("q_offset", options.q_offset, parts.requests), kv_offset)


def _per_request(name: str, value: int | Tensor, requests: int) -> Ints:
    check.check_per_request(name, value, requests)
    if isinstance(value, Tensor):
        return check_table(name, value, requests).astype(np.int64)
    return np.full(requests, value, dtype=np.int64)


def _lengths(parts: PlanParts, max_requests: int | None) -> Lengths:
    caches = [p.cache for p in parts.parts]
    q, kv = parts.q_lens.tolist(), parts.kv_lens.tolist()
    most = max_requests or len(q)
    return Lengths(len(q), tuple(q), tuple(kv), most, _pages_of(caches), len(caches))


def _pages_of(caches: list[PagedKV | None]) -> tuple[int, int] | None:
    """Return [pages, page] of the one cache that all keys lie in."""
    first = caches[0]
    if first is None or any(c is not first for c in caches):
        return None
    return first.k_pages.shape[0], first.page_size
