"""`Plan`: the inspector of a serving step, and the executor of its layers.

Maps a variant, the step's tables and what its mask reads to packed calls that every layer runs.
Invariant: what the mask reads is frozen here; a run with another value is refused, for a plan made
for one window is wrong for another.
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
from attnlang.ops.block_sparse import BlockSparse
from attnlang.ops.block_sparse_plan import BlockSparsePlan
from attnlang.ops.errors import CallError
from attnlang.ops.finish import Rows
from attnlang.ops.frozen import Value, all_values, freeze
from attnlang.ops.level_call import CallFacts, Made, Pools, call_level
from attnlang.ops.levels import Level, LevelTables, Positions, TableBuffers, make_levels, on_device
from attnlang.ops.paged_kv import PagedKV, check_pools, nhd
from attnlang.ops.part_core import reads_requests
from attnlang.ops.part_runs import cores_of, run_parts
from attnlang.ops.parts import Paged
from attnlang.ops.plan_parts import Ints, PlanParts, plan_parts
from attnlang.ops.prefixes import share_prefixes
from attnlang.ops.routes import Facts, Routes
from attnlang.ops.run_check import Lengths, check_run
from attnlang.ops.schedules import Balance, Schedules
from attnlang.ops.tables import check_table
from attnlang.ops.targets import check_dtype, runs_on

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant

_SPLIT_TOKENS = 2048
Pool = Tensor | tuple[Tensor, Tensor | None]


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
class Step:
    """What one step is."""

    parts: PlanParts
    levels: tuple[Level, ...]
    merged: bool
    positions: Positions
    placed: Placed | None  # None: no run of ragged keys has said yet where they lie
    lengths: Lengths
    schedules: Schedules
    made: dict[Facts, Made] = field(default_factory=dict)  # for runs that were checked


class Plan:
    """A serving step, planned. `run` attends for one layer, `update` plans the next step."""

    def __init__(
        self,
        variant: Variant,
        q_indptr: Tensor,
        kv: object,
        options: Options,
        params: Mapping[str, Value],
    ) -> None:
        self._variant, self._options = variant, options
        self._routes = Routes(variant.ir)
        self._frozen = freeze(variant.ir, params)
        parts = plan_parts(q_indptr, kv)
        self._buffers: TableBuffers | None = None  # of the device that runs are on
        device = _device(parts)
        if device is not None:
            self._run_on(device)
        self._step = self._make(parts)

    def __repr__(self) -> str:
        parts = self._step.parts
        rows, keys = int(parts.q_starts[-1]), int(parts.kv_lens.sum())
        levels = ", ".join("shared" if x.shared else "own" for x in self._step.levels)
        return (
            f"<plan of {self._variant.ir.name}: {parts.requests} requests, {rows} rows, {keys} "
            f"keys, parts: {levels}>"
        )

    def __getstate__(self) -> dict[str, object]:
        """Copy and pickle what is planned; what runs have made of it since is made again."""
        made = self._step.schedules
        schedules = Schedules(made.workers, made.split_tokens)
        return self.__dict__ | {"_step": replace(self._step, schedules=schedules, made={})}

    @property
    def balance(self) -> tuple[Balance, ...]:
        """How evenly the work of each packed call is spread, once a run of this step needed it.

        A GPU has two for each: of the requests with few rows, and of the others. It is waited for.
        """
        return self._step.schedules.balance

    @property
    def workspace_bytes(self) -> int:
        """The memory of tables and schedules, and of the states of pieces while a run lasts.

        Schedules are made when a run first needs them. A packed call has at most 10 states for each
        worker, unless `batch_invariant` asks for more.
        """
        placed = self._step.placed
        tables = 0 if placed is None else sum(t.nbytes for t in placed.tables)
        return tables + self._step.schedules.bytes

    def update(self, q_indptr: Tensor, kv: object) -> None:
        """Plan another step with the same parameters, into the same buffers if there are maxima.

        On a GPU with all maxima a captured `run` then does this step, if its q has `max_q_tokens`
        rows: those beyond the step's are not written.
        """
        self._step = self._make(plan_parts(q_indptr, kv), self._step.schedules)

    def run(
        self,
        q: Tensor,
        kv: Pool | list[Pool] | None = None,
        *,
        scale: float | Tensor | None = None,
        seed: int | None = None,
        return_lse: bool = False,
        return_max: bool = False,
        **params: Value,
    ) -> Tensor | tuple[Tensor, ...]:
        """Attend for one layer.

        Args:
            q: The query rows of all requests, [sum Q, HQ, D].
            kv: This layer's pools (k_pages, v_pages) in the planned layout, by default the planned
                ones; (k, v) [sum KV, HKV, D] for a ragged plan. One pair serves all parts, a list
                has a pair for each.
            scale: As in a call.
            seed: As in a call.
            return_lse: Return lse [sum Q, HQ] too.
            return_max: Return the largest score [B, HQ] too.
            params: The parameters that the mask does not read. A tensor with `B` and one of `Q`,
                `KV` comes with the rows of all requests first and no `B`; one over `KV` may be
                `Paged`.

        Returns:
            out [sum Q, HQ, DV] in q's dtype, or a tuple of it and what else was asked for.

        Raises:
            CallError: An argument does not fit the plan.

        """
        step = self._step
        facts = self._facts(q, kv, (scale, return_lse, return_max), seed, params)
        made = None if facts is None else step.made.get(facts)
        if not made or step.merged:
            flags = {"return_lse": return_lse, "return_max": return_max}
            out, lse, largest = self._attend(q, kv, facts, scale, seed, params, **flags)
        else:
            (call,) = made.values()
            k, v = _shaped(kv, step.levels[0])
            out, lse, largest = call.run(q, k, v, params, scale, seed, step.schedules)
        results = [out]
        if return_lse:
            assert lse is not None
            results.append(lse)
        if return_max:
            assert largest is not None
            results.append(largest[: step.parts.requests])
        return out if len(results) == 1 else tuple(results)

    def _facts(
        self,
        q: Tensor,
        kv: Pool | list[Pool] | None,
        keywords: tuple[object, ...],
        seed: int | None,
        params: Mapping[str, Value],
    ) -> Facts | None:
        """Return what runs that are like one have in common; None where that cannot be told."""
        repeated = self._frozen.keys() & params.keys()
        if repeated:
            all_values(self._variant.ir, self._frozen, params)  # refuses another value
            params = {n: x for n, x in params.items() if n not in repeated}
        pairs = kv if isinstance(kv, list) else [kv]
        stored: list[object] = []
        for pair in pairs:
            stored += pair if isinstance(pair, tuple) else (pair,)
        arranged = (len(pair) if isinstance(pair, tuple) else 0 for pair in pairs)
        paged = tuple(n for n, x in params.items() if isinstance(x, Paged))
        plain = params
        if paged:
            plain = {n: x.tensor if isinstance(x, Paged) else x for n, x in params.items()}
        facts = self._routes.facts((q,), (), plain, (), (*keywords, *stored), seed)
        if facts is None:
            return None
        strides = (x.stride() for x in stored if isinstance(x, Tensor))
        return (*facts, *strides, *arranged, *paged, *sorted(repeated))

    def _attend(
        self,
        q: Tensor,
        kv: Pool | list[Pool] | None,
        like: Facts | None,
        scale: float | Tensor | None,
        seed: int | None,
        params: Mapping[str, Value],
        *,
        return_lse: bool,
        return_max: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Attend after checks, unless runs `like` this one passed: a model has many layers."""
        step = self._step
        values = all_values(self._variant.ir, self._frozen, params)
        pools = _pools(kv, step)
        made = None if like is None else step.made.get(like)
        if made is None:
            check.check_lse(self._variant.ir, return_lse)
            check.check_seed(seed)
            self._check(step, q, pools, values, scale)
            if like is not None:
                made = step.made.setdefault(like, {})
        placed = step.placed
        if placed is None:
            placed = self._place_ragged(step, q.device)
        lasts = self._is_fixed(step) and q.shape[0] == self._options.max_q_tokens
        facts = CallFacts(
            scale,
            seed,
            return_lse,
            return_max,
            False,
            step.schedules,
            lasts,
            frozenset(params),
            made,
        )
        if placed.rows is None:
            return call_level(self._variant, placed.tables[0], 0, pools[0], q, values, facts)
        calls = tuple(zip(step.levels, placed.tables, pools, strict=True))
        heads = pools[0].k.shape[-2]
        return run_parts(self._variant, calls, placed.rows, q, values, facts, heads)

    def _make(self, parts: PlanParts, before: Schedules | None = None) -> Step:
        """Inspect a step; `before`: the schedules of the one before it."""
        options = self._options
        positions = _positions(options, parts)
        merged = len(parts.parts) > 1
        if options.share_prefixes:
            parts, merged = self._shared(parts, positions)
        if merged:
            levels = self._levels(parts, positions)
        else:
            keys = parts.parts[0].for_requests(parts.of[0], parts.q_starts)
            default = options.q_offset is None
            based = isinstance(options.kv_offset, Tensor) or options.kv_offset != 0
            q_offset = None if default else positions.q_offset
            levels = (Level(0, False, keys, q_offset, positions.kv_offset if based else None),)
        self._check_maxima(parts, levels)
        schedules = Schedules(max(torch.get_num_threads(), 1), options.split_tokens)
        lengths = _lengths(parts, options.max_requests)
        step = Step(parts, levels, merged, positions, None, lengths, schedules)
        if self._buffers is None:
            return step
        step = self._place(step, self._buffers)
        if before is None:
            return step
        return replace(step, schedules=before.made_again(int(parts.kv_lens.sum())))

    def _is_fixed(self, step: Step) -> bool:
        """Whether a GPU's kernels get the same tables in every step; parts differ in number."""
        assert self._buffers is not None
        if step.merged:
            return False
        options = self._options
        paged = all(level.keys.pages is not None for level in step.levels)
        pages = options.max_pages is not None or not paged
        return self._buffers.whole and options.max_requests is not None and pages

    def _run_on(self, device: torch.device) -> TableBuffers:
        whole = runs_on(device).target is not Target.CPU and not reads_requests(self._variant.ir)
        options = self._options
        buffers = TableBuffers(device, options.max_requests, options.max_pages, whole=whole)
        self._buffers = buffers
        return buffers

    def _place(self, step: Step, buffers: TableBuffers) -> Step:
        """Bring the tables of a step to where its kernels run."""
        tables = buffers.fill(step.levels)
        rows = _rows(step.parts, step.positions, buffers.device) if step.merged else None
        return replace(step, placed=Placed(tables, rows))

    def _place_ragged(self, step: Step, device: torch.device) -> Placed:
        """Place a plan of ragged keys: its first run says where they lie."""
        self._step = self._place(step, self._run_on(device))
        assert self._step.placed is not None
        return self._step.placed

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
        levels = self._levels(split, positions)
        if not all(level.shared for level in levels[:-1]):
            return parts, False
        return split, True

    def _levels(self, parts: PlanParts, positions: Positions) -> tuple[Level, ...]:
        core = cores_of(self._variant).masked.ir
        on_gpu = self._buffers is not None and self._buffers.whole
        heads = self._options.num_q_heads if on_gpu else 1
        return make_levels(core, parts, positions, self._numbers, heads)

    @property
    def _numbers(self) -> dict[str, bool | int | float]:
        return {n: v for n, v in self._frozen.items() if isinstance(v, bool | int | float)}

    def _check_maxima(self, parts: PlanParts, levels: tuple[Level, ...]) -> None:
        options = self._options
        pages = max((x.keys.pages.size for x in levels if x.keys.pages is not None), default=0)
        for name, most, needed in (
            ("max_requests", options.max_requests, parts.requests),
            ("max_q_tokens", options.max_q_tokens, int(parts.q_starts[-1])),
            ("max_pages", options.max_pages, pages),
        ):
            if most is not None and needed > most:
                raise CallError(name, f"{needed} or more, for this step", str(most))

    def _check(
        self,
        step: Step,
        q: Tensor,
        pools: tuple[Pools, ...],
        values: dict[str, Value],
        scale: float | Tensor | None,
    ) -> None:
        """Check a run's vectors and parameters."""
        self._check_q(q, step)
        if self._options.split_tokens and check_dtype(q).target is not Target.CPU:
            expected = "False, on a GPU: its kernels cut keys by the average length"
            raise CallError("batch_invariant", expected, str(self._options.split_tokens))
        check_run(self._variant, step.lengths, q, pools, values, scale)

    def _check_q(self, q: Tensor, step: Step) -> None:
        rows, heads = int(step.parts.q_starts[-1]), self._options.num_q_heads
        if not isinstance(q, Tensor):
            raise CallError("q", "a tensor [sum Q, HQ, D]", type(q).__name__)
        # A GPU's kernels leave rows alone that no request has.
        on_gpu = check_dtype(q).target is not Target.CPU
        most = max(rows, self._options.max_q_tokens or 0) if on_gpu and not step.merged else rows
        if q.dim() != 3 or not rows <= q.shape[0] <= most or q.shape[1] != heads:
            more = "" if most == rows else f" to {most}"
            expected = f"[sum Q = {rows}{more}, HQ = {heads}, D], as planned"
            raise CallError("q", expected, f"shape {list(q.shape)}")
        planned = q.device if self._buffers is None else self._buffers.device
        if q.device != planned and planned.type != "meta":
            raise CallError("q", f"a tensor on {planned}, as planned", f"one on {q.device}")


def _pools(kv: Pool | list[Pool] | None, step: Step) -> tuple[Pools, ...]:
    """Return the pools of every part; what shares a prefix lies in one pool."""
    count = len(step.levels)
    given = kv if isinstance(kv, list) else [kv]
    if len(given) == 1:
        given = given * count
    if len(given) != count:
        raise CallError("kv", f"one pair, or one for each of {count} parts", f"{len(given)}")
    return tuple(_level_pools(pair, level) for pair, level in zip(given, step.levels, strict=True))


def _level_pools(pair: Pool | None, level: Level) -> Pools:
    cache = level.keys.cache
    if pair is None and cache is None:
        raise CallError("kv", "(k, v) [sum KV, HKV, D]: a ragged plan has no pools", "nothing")
    if pair is not None and cache is not None:
        k, v = pair if isinstance(pair, tuple) else (pair, None)
        check_pools(k, v, cache.layout)
        if k.shape[1:3] != cache.k_pages.shape[1:3] or k.shape[0] < cache.k_pages.shape[0]:
            expected = f"pools of {list(cache.k_pages.shape[:3])} as planned"
            raise CallError("kv", expected, f"shape {list(k.shape)}")
    scales = (None, None) if cache is None else (cache.k_scale, cache.v_scale)
    return Pools(*_shaped(pair, level), *scales)


def _shaped(kv: Pool | list[Pool] | None, level: Level) -> tuple[Tensor, Tensor | None]:
    """Return what a run of a plan of one part was passed as kernels take it."""
    pair, cache = kv[0] if isinstance(kv, list) else kv, level.keys.cache
    if pair is None:
        assert cache is not None
        k, v = cache.k_pages, cache.v_pages
    else:
        k, v = pair if isinstance(pair, tuple) else (pair, None)
    if cache is None:
        if level.keys.pages is None:
            return k, v
        return k.unsqueeze(1), None if v is None else v.unsqueeze(1)  # pages of one slot
    return nhd(k, cache.layout), None if v is None else nhd(v, cache.layout)


def _check_options(options: Options) -> None:
    heads = options.num_q_heads
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise CallError("num_q_heads", "an int of 1 or more", repr(heads))
    for name in ("max_requests", "max_q_tokens", "max_pages"):
        most = getattr(options, name)
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
            raise CallError(name, "an int of 0 or more", repr(most))


def _device(parts: PlanParts) -> torch.device | None:
    """Return where the pools lie; None of ragged keys, which a run brings."""
    for part in parts.parts:
        if part.cache is not None:
            return part.cache.k_pages.device
    return None


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
    first, pages = caches[0], None
    if first is not None and all(c is first for c in caches):
        pages = (first.k_pages.shape[0], first.page_size)
    q, kv = parts.q_lens.tolist(), parts.kv_lens.tolist()
    return Lengths(tuple(q), tuple(kv), max_requests or len(q), pages, len(caches))


def _rows(parts: PlanParts, positions: Positions, device: torch.device) -> Rows:
    lens = parts.q_lens
    request = np.repeat(np.arange(parts.requests), lens)
    row = np.arange(request.size) - parts.q_starts[request]
    arrays = (
        request, row, parts.q_starts[:-1], lens, positions.q_offset, positions.kv_offset,
        parts.kv_lens,
    )  # fmt: skip
    moved = on_device(np.concatenate(arrays), device)
    return Rows(*torch.split(moved, [x.size for x in arrays]))


def make_plan(
    variant: Variant,
    q_indptr: Tensor,
    kv: object,
    params: Mapping[str, Value],
    *,
    num_q_heads: int,
    q_offset: int | Tensor | None,
    kv_offset: int | Tensor,
    batch_invariant: bool | int,
    share_prefixes: bool,
    max_requests: int | None,
    max_q_tokens: int | None,
    max_pages: int | None,
) -> Plan | BlockSparsePlan:
    """Plan a step; the arguments are those of `Variant.plan`."""
    if share_prefixes and not isinstance(kv, PagedKV):
        raise CallError("share_prefixes", "False: only a PagedKV has page prefixes", "True")
    split = _SPLIT_TOKENS if batch_invariant is True else batch_invariant
    if not isinstance(split, int) or split < 0:
        raise CallError("batch_invariant", "a bool, or a number of keys", repr(batch_invariant))
    options = Options(
        num_q_heads, q_offset, kv_offset, int(split), share_prefixes, max_requests, max_q_tokens,
        max_pages,
    )  # fmt: skip
    _check_options(options)
    if isinstance(kv, BlockSparse):
        offsets = (q_offset, kv_offset)
        return BlockSparsePlan(variant, q_indptr, kv, num_q_heads, offsets, params)
    return Plan(variant, q_indptr, kv, options, params)
