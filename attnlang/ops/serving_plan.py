"""`Plan`: the inspector of a serving step, and the executor of its layers.

Maps a variant, the step's tables and what its mask reads to packed calls that every layer runs.
Invariant: what the mask reads is frozen here; a run with another value is refused, for a plan made
for one window is wrong for another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from attnlang.jit.units import Target
from attnlang.ops import arguments as check
from attnlang.ops.block_sparse import BlockSparse
from attnlang.ops.block_sparse_plan import BlockSparsePlan
from attnlang.ops.errors import CallError
from attnlang.ops.frozen import Value, all_values
from attnlang.ops.level_call import CallFacts, Pools, call_level
from attnlang.ops.paged_kv import PagedKV
from attnlang.ops.part_runs import run_parts
from attnlang.ops.parts import Paged
from attnlang.ops.plan_pools import Pool, as_kernels_take, pools_of
from attnlang.ops.plan_step import Inspector, Options, Step
from attnlang.ops.routes import Facts, Routes
from attnlang.ops.run_check import check_run
from attnlang.ops.schedules import Balance, Schedules
from attnlang.ops.targets import check_dtype

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant

_SPLIT_TOKENS = 2048


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
        self._inspector = Inspector(variant, options, params)
        self._step = self._inspector.step(q_indptr, kv)

    def __repr__(self) -> str:
        parts, name = self._step.parts, self._variant.ir.name
        if parts is None:
            return f"<plan of {name}: {self._step.requests} requests, whose lengths a GPU has>"
        rows, keys = int(parts.q_starts[-1]), int(parts.kv_lens.sum())
        levels = ", ".join("shared" if x.shared else "own" for x in self._step.levels)
        return (
            f"<plan of {name}: {parts.requests} requests, {rows} rows, {keys} keys, "
            f"parts: {levels}>"
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
        """The memory of tables and schedules, and of what a run works in, once a run was made.

        On a GPU it depends on shapes, not on lengths, and is told without waiting: transformed
        rows, two states of an item for each block that runs at once, or with `batch_invariant` one
        for each piece that there may be. On the CPU a packed call has at most 10 states for each
        worker, unless `batch_invariant` asks for more.
        """
        placed = self._step.placed
        tables = 0 if placed is None else sum(t.nbytes for t in placed.tables)
        return tables + self._step.schedules.bytes

    def update(self, q_indptr: Tensor, kv: object) -> None:
        """Plan another step with the same parameters, into the same buffers if there are maxima.

        On a GPU with all maxima a captured `run` then does this step, if its q has `max_q_tokens`
        rows: those beyond the step's hold nothing. Tables on a GPU are read by its kernels: such an
        update may be captured too, before the runs that follow it.
        """
        self._step = self._inspector.step(q_indptr, kv, self._step)

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
            k, v = as_kernels_take(kv, step.stores[0])
            out, lse, largest = call.run(q, k, v, params, scale, seed, step.schedules)
        results = [out]
        if return_lse:
            assert lse is not None
            results.append(lse)
        if return_max:
            assert largest is not None
            results.append(largest[: step.requests])
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
        repeated = self._inspector.frozen.keys() & params.keys()
        if repeated:
            all_values(self._variant.ir, self._inspector.frozen, params)  # refuses another value
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
        values = all_values(self._variant.ir, self._inspector.frozen, params)
        pools = pools_of(kv, step.stores)
        made = None if like is None else step.made.get(like)
        if made is None:
            check.check_lse(self._variant.ir, return_lse)
            check.check_seed(seed)
            self._check(step, q, pools, values, scale)
            if like is not None:
                made = step.made.setdefault(like, {})
        if step.placed is None:
            step = self._step = self._inspector.place_ragged(step, q.device)
        placed = step.placed
        assert placed is not None
        whole = step.rows is None or q.shape[0] == self._options.max_q_tokens
        lasts = whole and self._inspector.is_fixed(step)
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
        check_run(self._variant, step.lengths, q, pools, values, scale)

    def _check_q(self, q: Tensor, step: Step) -> None:
        heads, most = self._options.num_q_heads, self._options.max_q_tokens
        if not isinstance(q, Tensor):
            raise CallError("q", "a tensor [sum Q, HQ, D]", type(q).__name__)
        check.check_dense({"q": q})
        rows = 0 if step.rows is None else step.rows
        if step.rows is not None:
            # A GPU's kernels leave rows alone that no request has.
            on_gpu = check_dtype(q).target is not Target.CPU
            spare = on_gpu and (not step.merged or self._inspector.is_fixed(step))
            most = max(rows, most or 0) if spare else rows
        fits = q.dim() == 3 and rows <= q.shape[0] and (most is None or q.shape[0] <= most)
        if not fits or q.shape[1] != heads:
            more = "" if most == rows else " or more" if most is None else f" to {most}"
            expected = f"[sum Q = {rows}{more}, HQ = {heads}, D], as planned"
            raise CallError("q", expected, f"shape {list(q.shape)}")
        planned = self._inspector.device or q.device
        if q.device != planned and planned.type != "meta":
            raise CallError("q", f"a tensor on {planned}, as planned", f"one on {q.device}")


def _check_options(options: Options) -> None:
    heads = options.num_q_heads
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise CallError("num_q_heads", "an int of 1 or more", repr(heads))
    for name in ("max_requests", "max_q_tokens", "max_pages"):
        most = getattr(options, name)
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
            raise CallError(name, "an int of 0 or more", repr(most))


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
