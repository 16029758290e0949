"""Plans whose tables lie on a GPU, and captured plans of parts, on a GPU and in the emulator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from gpu_places import capture
from torch import Generator, Tensor

import attnlang
from attnlang import PagedKV, Part
from attnlang.ops import tables

HQ, HKV, D, DV, PAGE = 8, 2, 48, 32, 16
REQUESTS, ROWS, PAGES = 5, 40, 100
SPECS = {
    "causal": "attention placed_causal: mask = causal\n",
    "window": (
        "attention placed_window(w: int, gain: float[B]):\n score = score * gain[b]\n"
        " mask = sliding_window(w)\n"
    ),
    "sink": (
        "attention placed_sink(sink: float[HQ]):\n mask = causal\n"
        " weights = softmax(score, sink=sink[h])\n out = acc * sigmoid(0.01 * q_idx - h)\n"
    ),
}
STEPS = (
    ((1, 40), (1, 90)),
    ((1, 1), (20, 900), (1, 390), (0, 0), (0, 7)),
    ((1, 5), (9, 9), (1, 600)),
    ((1, 41), (1, 91)),
)


@pytest.fixture
def unread(device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where kernels run; tables there are not read by the host, though the emulator's could be."""
    if device == "cpu":
        monkeypatch.setattr(tables, "is_unread", lambda table: isinstance(table, Tensor))
    return device


@dataclass
class Tables:
    """The tables of a serving engine, in its memory; requests beyond a step's have nothing."""

    q_indptr: Tensor
    indptr: Tensor
    indices: Tensor
    last_page_len: Tensor

    @staticmethod
    def on(device: str) -> Tables:
        sizes = (REQUESTS + 1, REQUESTS + 1, PAGES, REQUESTS)
        return Tables(*(torch.zeros(n, dtype=torch.int64, device=device) for n in sizes))

    def write(self, lengths: tuple[tuple[int, int], ...], g: Generator) -> None:
        lengths = (*lengths, *((0, 0),) * (REQUESTS - len(lengths)))
        counts = [-(-kv // PAGE) for _, kv in lengths]
        last = [kv - (c - 1) * PAGE if c else 0 for (_, kv), c in zip(lengths, counts, strict=True)]
        self.q_indptr.copy_(starts([q for q, _ in lengths]))
        self.indptr.copy_(starts(counts))
        self.indices.copy_(torch.randperm(PAGES, generator=g))
        self.last_page_len.copy_(torch.tensor(last))

    def cache(self, k: Tensor, v: Tensor) -> PagedKV:
        return PagedKV(k, v, self.indptr, self.indices, self.last_page_len)

    def keys(self, pool: Tensor) -> list[Tensor]:
        """Return the rows of each request."""
        host = pool.cpu().double()
        indptr, indices, last = (x.cpu() for x in (self.indptr, self.indices, self.last_page_len))
        found = []
        for b in range(REQUESTS):
            own = host[indices[indptr[b] : indptr[b + 1]]].flatten(0, 1)
            found.append(own[: own.shape[0] - PAGE + int(last[b])] if own.shape[0] else own)
        return found


def starts(lens: list[int]) -> Tensor:
    return torch.tensor([0, *lens]).cumsum(0)


def pools(device: str, g: Generator, count: int = PAGES) -> tuple[Tensor, Tensor]:
    k, v = (torch.randn(count, PAGE, HKV, d, generator=g).bfloat16() for d in (D, DV))
    return k.to(device), v.to(device)


def expected(
    variant: attnlang.Variant, q: Tensor, k: list[Tensor], v: list[Tensor], q_indptr: Tensor,
    params: Callable[[int], dict[str, object]],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return out and lse of each request by itself, in float64."""
    outs, lses = [], []
    for b, (first, end) in enumerate(zip(q_indptr.tolist(), q_indptr.tolist()[1:], strict=False)):
        rows = q[first:end].cpu().double()
        dense = (x.transpose(0, 1).unsqueeze(0) for x in (rows, k[b], v[b]))
        out, lse = variant.reference(*dense, return_lse=True, **params(b))
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0].transpose(0, 1))
    return torch.cat(outs), torch.cat(lses)


def close(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    rows = wanted[0].shape[0]
    out, lse = (x[:rows].cpu().double() for x in found)
    torch.testing.assert_close(out, wanted[0], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(lse, wanted[1], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["causal", "window"])
def test_a_replay_follows_lengths_that_only_the_gpu_knows(name: str, unread: str) -> None:
    """The update is captured with the runs of two layers; nothing is done on the host after it."""
    g = torch.Generator().manual_seed(1)
    variant, own = attnlang.loads(SPECS[name]), Tables.on(unread)
    gain = torch.rand(REQUESTS, generator=g).to(unread) + 0.5
    frozen, brought = ({"w": 200}, {"gain": gain}) if name == "window" else ({}, {})
    layers = [pools(unread, g) for _ in range(2)]
    cache = own.cache(*layers[0])
    own.write(STEPS[0], g)
    q = torch.randn(ROWS, HQ, D, generator=g).bfloat16().to(unread)
    plan = variant.plan(own.q_indptr, cache, num_q_heads=HQ, max_q_tokens=ROWS, **frozen)
    assert "5 requests, whose lengths a GPU has" in repr(plan)

    def step() -> tuple[Tensor, ...]:
        plan.update(own.q_indptr, cache)
        return sum((plan.run(q, kv, return_lse=True, **brought) for kv in layers), ())

    outs, replay = capture(unread, step)
    for lengths in (*STEPS, STEPS[1]):
        own.write(lengths, g)
        for out in outs:
            out.fill_(math.nan)
        replay()
        for i, (k, v) in enumerate(layers):
            wanted = expected(
                variant, q, own.keys(k), own.keys(v), own.q_indptr.cpu(),
                lambda b: frozen | {n: x[b : b + 1].cpu() for n, x in brought.items()},
            )  # fmt: skip
            close(outs[2 * i : 2 * i + 2], wanted)


def test_ragged_lengths_that_only_the_gpu_knows(unread: str) -> None:
    g = torch.Generator().manual_seed(2)
    variant = attnlang.loads(SPECS["causal"])
    q_indptr, kv_indptr = torch.zeros(2, REQUESTS + 1, dtype=torch.int32, device=unread)
    q = torch.randn(ROWS, HQ, D, generator=g).bfloat16().to(unread)
    k, v = (torch.randn(1400, HKV, d, generator=g).bfloat16().to(unread) for d in (D, DV))

    def write(lengths: tuple[tuple[int, int], ...]) -> None:
        lengths = (*lengths, *((0, 0),) * (REQUESTS - len(lengths)))
        q_indptr.copy_(starts([n for n, _ in lengths]))
        kv_indptr.copy_(starts([n for _, n in lengths]))

    write(STEPS[0])
    plan = variant.plan(q_indptr, kv_indptr, num_q_heads=HQ)

    def step() -> tuple[Tensor, ...]:
        plan.update(q_indptr, kv_indptr)
        return plan.run(q, (k, v), return_lse=True)

    outs, replay = capture(unread, step)
    for lengths in STEPS:
        write(lengths)
        replay()
        sizes = kv_indptr.diff().tolist()
        keys = [list(x[: sum(sizes)].cpu().double().split(sizes)) for x in (k, v)]
        close(outs, expected(variant, q, *keys, q_indptr.cpu(), lambda b: {}))


def test_a_plan_keeps_the_lengths_of_its_update(unread: str) -> None:
    """As a plan whose tables the host reads does; and other sizes are planned anew."""
    g = torch.Generator().manual_seed(3)
    variant, own, (k, v) = attnlang.loads(SPECS["causal"]), Tables.on(unread), pools(unread, g)
    own.write(STEPS[1], g)
    q = torch.randn(ROWS, HQ, D, generator=g).bfloat16().to(unread)
    plan = variant.plan(own.q_indptr, own.cache(k, v), num_q_heads=HQ)
    before = plan.run(q, return_lse=True)
    wanted = expected(variant, q, own.keys(k), own.keys(v), own.q_indptr.cpu(), lambda b: {})
    close(before, wanted)
    own.write(STEPS[0], g)
    close(plan.run(q, return_lse=True), wanted)
    few = PagedKV(k, v, own.indptr[:3], own.indices[:30], own.last_page_len[:2])
    plan.update(own.q_indptr[:3], few)
    wanted = expected(variant, q, own.keys(k), own.keys(v), own.q_indptr[:3].cpu(), lambda b: {})
    close(plan.run(q, return_lse=True), wanted)


def test_what_goes_beyond_the_bounds_is_cut_off(unread: str) -> None:
    """Rows past the maximum, pages past the table, starts that decrease; refused by shape."""
    g = torch.Generator().manual_seed(4)
    variant, own, (k, v) = attnlang.loads(SPECS["causal"]), Tables.on(unread), pools(unread, g)
    own.write(((1, 40), (1, 90), (4, 300)), g)
    q = torch.randn(4, HQ, D, generator=g).bfloat16().to(unread)
    cache = own.cache(k, v)
    plan = variant.plan(own.q_indptr, cache, num_q_heads=HQ, max_q_tokens=4)
    own.q_indptr[3:] = 2**40
    own.indptr[3:] = 2**40  # the third request: all pages that are left, and so many more rows
    own.last_page_len[2] = 2**40
    plan.update(own.q_indptr, cache)
    found = plan.run(q, return_lse=True)
    own.q_indptr[3:], own.indptr[3:], own.last_page_len[2] = 4, PAGES, PAGE
    close(found, expected(variant, q, own.keys(k), own.keys(v), own.q_indptr.cpu(), lambda b: {}))
    own.indptr[1] = -7
    own.last_page_len[1] = -7
    plan.update(own.q_indptr, cache)
    assert not plan.run(q)[2:].isnan().any()
    with pytest.raises(attnlang.CallError, match=r"`q`: .*sum Q = 0 to 4"):
        plan.run(torch.cat([q, q]))
    bounds = {"max_requests": 4, "max_pages": 99}
    for name, needed in (("max_requests", 5), ("max_pages", 100)):
        with pytest.raises(attnlang.CallError, match=f"`{name}`: expected {needed} or more"):
            variant.plan(own.q_indptr, cache, num_q_heads=HQ, **{name: bounds[name]})


def test_what_needs_values_is_refused(unread: str) -> None:
    g = torch.Generator().manual_seed(5)
    own, (k, v) = Tables.on(unread), pools(unread, g)
    cache = own.cache(k, v)
    variant = attnlang.loads(SPECS["causal"])
    for wrong, message in (
        (lambda: variant.plan(own.q_indptr, cache, num_q_heads=HQ, share_prefixes=True),
         "`share_prefixes`: expected False where tables lie on a GPU"),
        (lambda: variant.plan(own.q_indptr[1:], cache, num_q_heads=HQ),
         r"`indptr`: .*as q_indptr has 4 requests"),
        (lambda: variant.plan(own.q_indptr.float(), cache, num_q_heads=HQ), "`q_indptr`: .*int32"),
        (lambda: own.cache(k, v).append(k[:5, 0], v[:5, 0], own.last_page_len), "`indptr`: "),
        (lambda: PagedKV(k, v, own.indptr, own.indices, own.last_page_len[1:]), "`last_page_len`"),
    ):  # fmt: skip
        with pytest.raises(attnlang.CallError, match=message):
            wrong()
    needs = attnlang.loads("attention placed_needs:\n require KV >= Q\n mask = causal\n")
    q = torch.zeros(ROWS, HQ, D, device=unread, dtype=torch.bfloat16)
    with pytest.raises(
        attnlang.CallError, match=r"`q_indptr`: .*requires something of the lengths"
    ):
        needs.plan(own.q_indptr, cache, num_q_heads=HQ).run(q)
    hidden = attnlang.loads(
        "attention placed_hidden(x: float[B, KV]): score = score + x[b, kv_col]"
    )
    with pytest.raises(attnlang.CallError, match=r"`x`: .*beside tables on a GPU"):
        hidden.plan(own.q_indptr, cache, num_q_heads=HQ).run(q, x=torch.zeros(9, device=unread))
    lens = cache.kv_lens
    own.write(STEPS[1], g)
    assert lens.tolist() == [0] * REQUESTS
    assert cache.kv_lens.tolist() == [kv for _, kv in STEPS[1]]


@dataclass
class Parted:
    """A step of requests that share prompts: `prompts` (rows, keys), `own` keys of each row."""

    prompts: tuple[tuple[int, int], ...]
    own: tuple[int, ...]


def paged(pool: tuple[Tensor, Tensor], lens: list[int], g: Generator) -> PagedKV:
    counts = [-(-n // PAGE) for n in lens]
    pages = torch.randperm(pool[0].shape[0], generator=g)[: sum(counts)]
    last = torch.tensor([n - (c - 1) * PAGE if c else 0 for n, c in zip(lens, counts, strict=True)])
    return PagedKV(*pool, starts(counts), pages, last)


def rows_of(cache: PagedKV, pool: Tensor, b: int) -> Tensor:
    own = cache.indices[cache.indptr[b] : cache.indptr[b + 1]]
    return pool.cpu().double()[own].flatten(0, 1)[: int(cache.kv_lens[b])]


PARTED = (
    Parted(((3, 200),), (1, 40, 9)),
    Parted(((1, 30), (4, 333)), (5, 0, 17, 100, 64)),
    Parted(((2, 16), (0, 0)), (3, 4)),
)
BOUNDS = {"max_requests": REQUESTS, "max_q_tokens": 6, "max_pages": 60}


@pytest.mark.parametrize("name", ["causal", "sink"])
def test_a_captured_plan_of_parts_sees_an_update(name: str, device: str) -> None:
    """Other prompts, groups and lengths, up to the maxima, by the same calls in the same memory."""
    g = torch.Generator().manual_seed(6)
    variant, layer = attnlang.loads(SPECS[name]), [pools(device, g), pools(device, g)]
    sink = torch.linspace(-1, 1, HQ)
    dense = {"sink": sink.double()} if name == "sink" else {}
    brought = {"sink": sink.to(device)} if name == "sink" else {}
    q = torch.randn(6, HQ, D, generator=g).bfloat16().to(device)

    def parts(step: Parted) -> tuple[Tensor, list[object]]:
        caches = [
            paged(pool, lens, g)
            for pool, lens in zip(layer, ([n for _, n in step.prompts], [*step.own]), strict=True)
        ]
        groups, rows = starts([n for n, _ in step.prompts]), starts([1] * len(step.own))
        return rows, [Part(caches[0], groups), caches[1]]

    plan = variant.plan(*parts(PARTED[0]), num_q_heads=HQ, **BOUNDS)
    assert "shared, own" in repr(plan)
    outs, replay = capture(device, lambda: plan.run(q, return_lse=True, **brought))
    for step in (*PARTED, PARTED[0]):
        rows, (prompt, own) = parts(step)
        plan.update(rows, [prompt, own])
        assert "shared, own" in repr(plan)
        for out in outs:
            out.fill_(math.nan)
        replay()
        group = [i for i, (n, _) in enumerate(step.prompts) for _ in range(n)]
        keys = [
            [
                torch.cat([rows_of(prompt.kv, layer[0][i], group[b]), rows_of(own, layer[1][i], b)])
                for b in range(len(step.own))
            ]
            for i in range(2)
        ]
        wanted = expected(variant, q, *keys, rows, lambda b: dense)
        close(outs, wanted)
        close(plan.run(q, return_lse=True, **brought), wanted)
        close(plan.run(q[: rows[-1]], return_lse=True, **brought), wanted)
    with pytest.raises(attnlang.CallError, match="`max_requests`: expected 7 or more"):
        plan.update(*parts(Parted(((7, 9),), (1,) * 7)))
    with pytest.raises(attnlang.CallError, match="`kv`: expected 2 parts, as planned"):
        plan.update(rows, [own, prompt, own])


def test_a_plan_of_parts_with_maxima_keeps_its_form(device: str) -> None:
    """What shares rows goes on sharing them; a step whose mask may hide a key is refused."""
    g = torch.Generator().manual_seed(7)
    pool = pools(device, g)
    variant = attnlang.loads("attention placed_near: mask = sliding_window(64)\n")
    rows = starts([1, 1])

    def parts(own: int) -> list[object]:
        prompt, rest = paged(pool, [32], g), paged(pool, [own, own], g)
        return [Part(prompt, torch.tensor([0, 2])), rest]

    plans = [
        variant.plan(rows, parts(5), num_q_heads=HQ, **limits)
        for limits in (BOUNDS, {"max_requests": 2})
    ]
    assert all("shared, own" in repr(plan) for plan in plans)
    with pytest.raises(attnlang.CallError, match=r"`kv\[0\]`: expected keys that every row sees"):
        plans[0].update(rows, parts(40))
    plans[1].update(rows, parts(40))
    assert "own, own" in repr(plans[1])


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Make an error of what waits for a GPU; torch warns that this is new."""
    if device != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["causal", "window"])
def test_a_request_is_computed_alike_in_any_company(name: str, device: str) -> None:
    """Bit for bit: pieces of so many keys are cut from each request, whatever else is there."""
    g = torch.Generator().manual_seed(8)
    variant, (k, v) = attnlang.loads(SPECS[name]), pools(device, g, 240)
    lengths = ((1, 1500), (0, 7), (3, 700), (1, 129), (16, 300), (1, 0), (40, 500), (1, 64))
    lens = [kv for _, kv in lengths]
    cache, rows = paged((k, v), lens, g), starts([n for n, _ in lengths])
    q = torch.randn(int(rows[-1]), HQ, D, generator=g).bfloat16().to(device)
    frozen, gain = ({"w": 1000}, torch.rand(8, generator=g)) if name == "window" else ({}, None)

    def brought(b: slice) -> dict[str, Tensor]:
        return {} if gain is None else {"gain": gain[b].to(device)}

    for split in (128, True):
        plan = variant.plan(rows, cache, num_q_heads=HQ, batch_invariant=split, **frozen)
        together = plan.run(q, return_lse=True, **brought(slice(None)))
        wanted = expected(
            variant, q, *([rows_of(cache, x, b) for b in range(8)] for x in (k, v)), rows,
            lambda b: frozen | ({} if gain is None else {"gain": gain[b : b + 1]}),
        )  # fmt: skip
        close(together, wanted)
        (balance,) = plan.balance  # items of many rows are whole
        assert (balance.chunks > balance.items) is (split == 128)
        for b in range(8):
            pages = cache.indices[cache.indptr[b] : cache.indptr[b + 1]]
            counts = torch.tensor([0, pages.shape[0]])
            own = PagedKV(k, v, counts, pages, cache.last_page_len[b : b + 1])
            used = slice(int(rows[b]), int(rows[b + 1]))
            alone = variant.plan(
                starts([used.stop - used.start]),
                own,
                num_q_heads=HQ,
                batch_invariant=split,
                **frozen,
            )
            found = alone.run(q[used], return_lse=True, **brought(slice(b, b + 1)))
            for x, y in zip(found, together, strict=True):
                assert torch.equal(x, y[used])


def test_an_invariant_plan_is_captured(device: str) -> None:
    """Its workspace has room for the pieces of any lengths up to the maxima."""
    g = torch.Generator().manual_seed(9)
    variant, (k, v) = attnlang.loads(SPECS["causal"]), pools(device, g, 130)
    q = torch.randn(ROWS, HQ, D, generator=g).bfloat16().to(device)
    bounds = {"max_requests": REQUESTS, "max_q_tokens": ROWS, "max_pages": 120}

    def step(lengths: tuple[tuple[int, int], ...]) -> tuple[Tensor, PagedKV]:
        return starts([n for n, _ in lengths]), paged((k, v), [n for _, n in lengths], g)

    plan = variant.plan(*step(STEPS[0]), num_q_heads=HQ, batch_invariant=64, **bounds)
    outs, replay = capture(device, lambda: plan.run(q, return_lse=True))
    needed = plan.workspace_bytes
    for lengths in (*STEPS, ((1, 1920),), ((1, 384),) * 5):
        rows, cache = step(lengths)
        plan.update(rows, cache)
        assert plan.workspace_bytes == needed
        replay()
        keys = [[rows_of(cache, x, b) for b in range(len(lengths))] for x in (k, v)]
        close(outs, expected(variant, q, *keys, rows, lambda b: {}))


def test_a_workspace_is_told_without_waiting(device: str) -> None:
    """No value is read from the GPU for it; it is the same for other lengths."""
    g = torch.Generator().manual_seed(10)
    variant, (k, v) = attnlang.loads(SPECS["causal"]), pools(device, g)
    own = Tables.on("cpu")
    own.write(STEPS[1], g)
    q = torch.randn(ROWS, HQ, D, generator=g).bfloat16().to(device)
    told = []
    for batch_invariant in (False, 256):
        bounds = {"max_requests": REQUESTS, "max_q_tokens": ROWS, "max_pages": PAGES}
        plan = variant.plan(
            own.q_indptr, own.cache(k, v), num_q_heads=HQ, batch_invariant=batch_invariant, **bounds
        )
        tables_alone = plan.workspace_bytes
        plan.run(q)
        with no_waiting(device):
            told.append(plan.workspace_bytes)
        assert told[-1] > tables_alone + 16 * DV * 4
    assert told[0] > 2 * 132 * 16 * DV * 4
