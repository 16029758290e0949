"""From a case to its result: contenders made, compared with the reference, and run in turn.

Invariant: nothing is timed that did not first give the right numbers on some rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnlang.bench.case import (
    EAGER,
    FLEX,
    OURS,
    PEAK,
    PRODUCT,
    READ,
    SDPA,
    Case,
    Entry,
    FlexCost,
    Result,
)
from attnlang.bench.clock import Clock, Work, interleave
from attnlang.bench.eager import eager, is_plain
from attnlang.bench.flex import NotFusedError, flex
from attnlang.bench.flex_table import flex_form
from attnlang.bench.machine import Watch
from attnlang.bench.rates import matrix_product, peak, reading
from attnlang.bench.sdpa import sdpa
from attnlang.invent.inputs import Call
from attnlang.invent.masks import dense_mask
from attnlang.ir.nodes import Variant as VariantIr
from attnlang.ops.tiles import Tiles
from attnlang.ops.variant import Variant

_MAX_EAGER_SCORES = 1 << 27
_MAX_COUNTED = 1 << 26  # elements of a mask that are counted one by one
_TOLERANCES = {torch.float32: 5e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}


class WrongNumbersError(RuntimeError):
    """A contender does not compute what the case is about."""


@dataclass(slots=True)
class Contest:
    """What will run in turn, each with what it does; filled as contenders are found."""

    works: dict[str, Work] = field(default_factory=dict)
    amounts: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    flex: FlexCost | None = None
    visited: float = 0.0

    def add(self, name: str, work: Work, amount: float, note: str = "") -> None:
        """Let a work take part, of an amount of operations or bytes."""
        self.works[name], self.amounts[name], self.notes[name] = work, amount, note


def run_case(case: Case, seconds: float, say: Callable[[str], None]) -> Result:
    """Measure a case. Raises WrongNumbersError, and what a call of the variant raises."""
    say(f"{case.name}: building, comparing with the reference")
    with torch.no_grad():
        contest = prepare_case(case)
        say(f"{case.name}: measuring")
        watch = Watch()
        timings = interleave(contest.works, torch.get_num_threads(), seconds)
    entries = {n: Entry(t, contest.amounts[n], contest.notes[n]) for n, t in timings.items()}
    return Result(
        name=case.name,
        variant=case.variant.name,
        dtype=str(case.call.q.dtype).removeprefix("torch."),
        shape=case.call.shape.sizes(),
        clock=case.clock,
        entries=entries,
        absent=contest.absent,
        targets=case.targets,
        visited=contest.visited,
        unmasked=_unmasked(case.variant, case.call),
        flex=contest.flex,
        others=watch.others(),
    )


@torch.no_grad()
def prepare_case(case: Case) -> Contest:
    """Build all that a case runs, and see that it gives the right numbers."""
    ours, contest = Variant(case.variant), Contest()
    contest.visited = _visited(ours, case.call)
    amount = _amount(case, case.call, contest.visited)
    contest.add(OURS, _attend(ours, case.call), amount)
    for name, (variant, call) in case.beside.items():
        other = Variant(variant)
        contest.add(name, _attend(other, call), _amount(case, call, _visited(other, call)))
    _add_peers(contest, case, amount)
    _compare(contest, case)
    _add_rates(contest, case)
    return contest


def _attend(variant: Variant, call: Call) -> Callable[[], Tensor]:
    attend: Callable[..., Tensor] = variant  # parameters may have any name
    v = call.passed_v(variant.ir)
    keywords = {**call.options, "seed": call.seed, **call.params}
    return lambda: attend(call.q, call.k, v, **keywords)


def _visited(variant: Variant, call: Call) -> float:
    count: Callable[..., Tiles] = variant.tiles
    tiles = count(call.q, call.k, call.passed_v(variant.ir), **call.options, **call.params)
    return tiles.visited / max(tiles.total, 1)


def _amount(case: Case, call: Call, visited: float) -> float:
    """Return the operations of both products over the visited tiles, or the bytes read."""
    s = call.shape
    if case.clock is Clock.WALL:
        return visited * (call.k.nbytes + call.v.nbytes)
    return 2.0 * (s.d + s.dv) * visited * s.b * s.hq * s.q * s.kv


def _add_peers(contest: Contest, case: Case, amount: float) -> None:
    if SDPA in case.peers:
        peer = sdpa(case.variant, case.call)
        if peer.attend is None:
            contest.absent[SDPA] = peer.how
        else:
            contest.add(SDPA, peer.attend, amount, peer.how)
    if FLEX in case.peers:
        _add_flex(contest, case, amount)
    if EAGER in case.peers:
        s = case.call.shape
        if not is_plain(case.variant) or case.variant.weights.dropout is not None:
            contest.absent[EAGER] = "not written for this variant"
        elif s.b * s.hq * s.q * s.kv > _MAX_EAGER_SCORES:
            contest.absent[EAGER] = "too many scores for the memory"
        else:
            attend, rows = eager(case.variant, case.call), torch.arange(s.q)
            contest.add(EAGER, lambda: attend(rows), amount, "all scores in memory")


def _add_flex(contest: Contest, case: Case, amount: float) -> None:
    form = flex_form(case.variant.name, case.call)
    if form is None:
        contest.absent[FLEX] = "no closures are written for this variant"
        return
    try:
        found = flex(form, case.call)
    except NotFusedError as error:
        contest.absent[FLEX] = str(error)
        return
    contest.flex = FlexCost(found.mask_seconds, found.compile_seconds, found.from_cache)
    contest.add(FLEX, found.attend, amount, "without its mask's construction")


def _compare(contest: Contest, case: Case) -> None:
    """Compare some rows of each contender on the case's own call with the reference."""
    call, ours = case.call, Variant(case.variant)
    last = call.shape.q - 1
    rows = torch.tensor(sorted({0, last // 2, last}))
    interpret: Callable[..., object] = ours.reference
    keywords = {**call.options, "seed": call.seed, **call.params}
    v = call.passed_v(case.variant)
    exact = interpret(call.q, call.k, v, rows=rows, dtype=torch.float64, **keywords)
    assert isinstance(exact, Tensor)
    tolerance = _TOLERANCES[call.q.dtype] * max(1.0, float(exact.abs().max()))
    for name in (OURS, SDPA, FLEX, EAGER):
        if name in contest.works:
            out = contest.works[name]()
            assert isinstance(out, Tensor)
            error = float((out[:, :, rows].double() - exact).abs().max())
            if not error <= tolerance:
                raise WrongNumbersError(
                    f"{case.name}: {name} differs by {error:.2g} from the reference "
                    f"({tolerance:.2g} allowed)"
                )


def _add_rates(contest: Contest, case: Case) -> None:
    dtype = case.call.q.dtype
    if case.clock is Clock.WALL:
        rated = reading((case.call.k, case.call.v))
        contest.add(READ, rated.work, rated.amount)
        return
    product = matrix_product(dtype)
    contest.add(PRODUCT, product.work, product.amount)
    top = peak(dtype)
    if top is not None:
        contest.add(PEAK, top.work, top.amount)


def _unmasked(variant: VariantIr, call: Call) -> float | None:
    mask = None if call.options else dense_mask(variant, call, _MAX_COUNTED)
    return None if mask is None else float(mask.double().mean())
