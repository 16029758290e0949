"""Random serving steps, and the oracle of their plans: each request alone, in float64.

A scene has requests that share keys in parts, in ragged tensors or in pages with NaN in every slot
that nobody uses. The oracle gathers what each request sees and asks `reference`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import attnlang
from attnlang import PagedKV, Part
from attnlang.ir.nodes import INT, Coord, CoordName, Kind, Load, Size, TensorParam
from attnlang.ir.nodes import Variant as VariantIr
from attnlang.ir.traverse import rewrite
from attnlang.ops.variant import Variant
from attnlang.passes.map_variant import map_variant

NAN = float("nan")
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass
class ScenePart:
    """One part: its grouping of the rows, and every key as the oracle sees it."""

    q_starts: list[int]
    k: list[Tensor]  # for each request of the part [KV, HKV, D], float64
    v: list[Tensor]
    kv: PagedKV | Tensor
    pools: tuple[Tensor, Tensor]


@dataclass
class Scene:
    """A serving step."""

    q: Tensor  # [sum Q, HQ, D]
    q_starts: list[int]
    parts: list[ScenePart]
    heads: int
    kv_heads: int
    params: dict[str, object] = field(default_factory=dict)

    @property
    def q_indptr(self) -> Tensor:
        return torch.tensor(self.q_starts)

    @property
    def given(self) -> object:
        """What `plan` is given as its keys."""
        parts = [
            p.kv if p.q_starts == self.q_starts else Part(p.kv, torch.tensor(p.q_starts))
            for p in self.parts
        ]
        return parts[0] if len(parts) == 1 else parts

    @property
    def pools(self) -> list[tuple[Tensor, Tensor]]:
        return [p.pools for p in self.parts]

    def keys(self, b: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gather a request's keys and values [KV, HKV, *], and the part of each."""
        ks, vs, places = [], [], []
        first = self.q_starts[b]
        for i, part in enumerate(self.parts):
            if part.q_starts == self.q_starts:
                at = b
            else:
                at = max((j for j, s in enumerate(part.q_starts[:-1]) if s <= first), default=-1)
                if at < 0:  # a request of no rows, where the part has no request at all
                    continue
            ks.append(part.k[at])
            vs.append(part.v[at])
            places.append(torch.full((part.k[at].shape[0],), i))
        return torch.cat(ks), torch.cat(vs), torch.cat(places)


def draw_scene(
    seed: int,
    *,
    parts: int = 1,
    paged: bool | None = None,
    dtype: torch.dtype = torch.float32,
    stored: torch.dtype | None = None,
    heads: tuple[int, int] = (4, 2),
    d: int = 16,
    dv: int = 16,
    requests: int | None = None,
    most_rows: int = 20,
    most_keys: int = 70,
    page: int | None = None,
    same_prefix: bool = False,
) -> Scene:
    """Draw a step of mixed prefill and decoding, with requests of no rows and of no keys."""
    rng = random.Random(seed)
    g = torch.Generator().manual_seed(seed)
    count = rng.randint(0, 6) if requests is None else requests
    lens = [rng.choice([0, 1, 1, 1, rng.randint(1, most_rows)]) for _ in range(count)]
    q_starts = [0]
    for n in lens:
        q_starts.append(q_starts[-1] + n)
    q = torch.randn(q_starts[-1], heads[0], d, generator=g).to(dtype)
    scene = Scene(q, q_starts, [], *heads)
    for i in range(parts):
        last = i == parts - 1
        starts = q_starts if last or rng.random() < 0.3 else _coarser(rng, q_starts)
        sizes = [
            rng.choice([0, 1, rng.randint(0, most_keys), rng.randint(0, most_keys)])
            for _ in starts[1:]
        ]
        is_paged = rng.random() < 0.7 if paged is None else paged
        drawn = (rng, g, sizes, heads[1], d, dv, stored or dtype)
        own = page if page is not None else rng.choice([1, 2, 3, 5, 16, 64])
        if is_paged:
            scene.parts.append(_draw_paged(*drawn, own, starts, same_prefix=same_prefix))
        else:
            scene.parts.append(_draw_ragged(*drawn[1:6], dtype, starts))
    return scene


def _coarser(rng: random.Random, starts: list[int]) -> list[int]:
    inner = sorted(set(starts[1:-1]))
    kept = [s for s in inner if 0 < s < starts[-1] and rng.random() < 0.4]
    return [0, *kept, starts[-1]] if starts[-1] else [0]


def _draw_ragged(
    g: torch.Generator, sizes: list[int], heads: int, d: int, dv: int, dtype: torch.dtype,
    starts: list[int],
) -> ScenePart:  # fmt: skip
    total = sum(sizes)
    k = torch.randn(total, heads, d, generator=g).to(dtype)
    v = torch.randn(total, heads, dv, generator=g).to(dtype)
    indptr = torch.tensor([0, *sizes]).cumsum(0)
    split = [x.double().split(sizes) if sizes else [] for x in (k, v)]
    return ScenePart(starts, list(split[0]), list(split[1]), indptr, (k, v))


def _draw_paged(
    rng: random.Random, g: torch.Generator, sizes: list[int], heads: int, d: int, dv: int,
    dtype: torch.dtype, page: int, starts: list[int], *, same_prefix: bool,
) -> ScenePart:  # fmt: skip
    counts = [-(-n // page) for n in sizes]
    spare = rng.randint(0, 3)
    order = torch.randperm(sum(counts) + spare, generator=g).tolist()
    tables: list[list[int]] = []
    for n in counts:
        tables.append([order.pop() for _ in range(n)])
    if same_prefix:  # neighbours begin with the same pages
        for b in range(1, len(tables)):
            shared = rng.randint(0, min(len(tables[b]), len(tables[b - 1])))
            if rng.random() < 0.7:
                tables[b][:shared] = tables[b - 1][:shared]
    layout = rng.choice(["NHD", "HND"])
    pages = sum(counts) + spare + 1
    k_pool, v_pool = _pools(rng, pages, page, heads, d, dv, dtype, layout)
    scales = [None, None]
    if dtype in FP8:
        scales = [rng.choice([None, 0.5, torch.rand(heads, generator=g) + 0.5]) for _ in "kv"]
    cache = PagedKV(
        k_pool, v_pool,
        torch.tensor([0, *counts]).cumsum(0).to(rng.choice([torch.int32, torch.int64])),
        torch.tensor([x for t in tables for x in t]).to(rng.choice([torch.int32, torch.int64])),
        torch.tensor([n - (c - 1) * page if c else 0 for n, c in zip(sizes, counts, strict=True)],
                     dtype=torch.int32),
        layout=layout, k_scale=scales[0], v_scale=scales[1],
    )  # fmt: skip
    positions = torch.cat([torch.arange(n) for n in sizes] or [torch.arange(0)])
    total = sum(sizes)
    tokens = [torch.randn(total, heads, n, generator=g) for n in (d, dv)]
    cache.append(*tokens, positions, torch.tensor([0, *sizes]).cumsum(0))
    found: list[list[Tensor]] = [[], []]
    for pool, scale, out in zip((k_pool, v_pool), scales, found, strict=True):
        for table, n in zip(tables, sizes, strict=True):
            view = pool if layout == "NHD" else pool.transpose(1, 2)
            own = view.double()[torch.tensor(table, dtype=torch.int64)].flatten(0, 1)[:n]
            if scale is not None:
                own = own * (scale.reshape(-1, 1) if isinstance(scale, Tensor) else scale)
            out.append(own)
    return ScenePart(starts, found[0], found[1], cache, (k_pool, v_pool))


def _pools(
    rng: random.Random, pages: int, page: int, heads: int, d: int, dv: int, dtype: torch.dtype,
    layout: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    def shape(width: int) -> tuple[int, ...]:
        return (pages, page, heads, width) if layout == "NHD" else (pages, heads, page, width)

    if d == dv and rng.random() < 0.5:  # two views of one pool, with a gap after each page
        whole = torch.full((pages, 3, *shape(d)[1:]), NAN).to(dtype)
        return whole[:, 0], whole[:, 1]
    return torch.full(shape(d), NAN).to(dtype), torch.full(shape(dv), NAN).to(dtype)


def with_part_tensor(ir: VariantIr) -> VariantIr:
    """Return the variant whose `part` is read from a tensor int[KV]: the reference has no parts."""
    span = ir.span

    def fix(expr: object) -> object:
        if isinstance(expr, Coord) and expr.name == CoordName.PART:
            return Load("part_of", (Coord(CoordName.KV_COL, span=span),), INT, span=span)
        return expr

    param = TensorParam("part_of", Kind.INT, (Size("KV", span=span),), False, span=span)
    changed = map_variant(ir, lambda e: rewrite(e, fix))
    return replace(changed, params=(*changed.params, param))


def oracle(variant: Variant, scene: Scene, **call: object) -> tuple[Tensor, Tensor | None]:
    """Return out and lse (None without a softmax) of each request alone, in float64.

    `call` has the parameters as a dense call of one request would take them, by its number: a
    function of b, or a value for all.
    """
    with_parts = Variant(with_part_tensor(variant.ir))
    softmax = variant.ir.weights.softmax is not None
    outs, lses = [], []
    for b in range(len(scene.q_starts) - 1):
        rows = slice(scene.q_starts[b], scene.q_starts[b + 1])
        k, v, places = scene.keys(b)
        own = {n: x(b) if callable(x) else x for n, x in call.items()}
        vectors = (scene.q[rows].double(), k, *((v,) if variant.takes_v else ()))
        results = with_parts.reference(
            *(x.transpose(0, 1).unsqueeze(0) for x in vectors), **own, part_of=places,
            return_lse=softmax,
        )  # fmt: skip
        out, lse = results if softmax else (results, None)
        outs.append(out[0].transpose(0, 1))
        if lse is not None:
            lses.append(lse[0].transpose(0, 1))
    if not outs:
        last = next(x for x in reversed(scene.parts[0].pools) if x is not None)
        empty = scene.q.new_zeros((0, scene.heads, last.shape[-1])).double()
        return empty, empty[..., 0] if softmax else None
    return torch.cat(outs), torch.cat(lses) if softmax else None


def assert_close(
    got: Tensor, lse: Tensor | None, want: Tensor, want_lse: Tensor | None, tolerance: float
) -> None:
    """Compare with the oracle; an empty row must be exact."""
    assert got.shape == want.shape
    assert not got.isnan().any()
    error = (got.double() - want).abs().max().item() if want.numel() else 0.0
    assert error <= tolerance * max(1.0, want.abs().max().item() if want.numel() else 1.0), error
    if want_lse is not None:
        assert lse is not None
        empty = want_lse.isneginf()
        assert torch.equal(lse.isneginf(), empty)
        difference = torch.where(empty, 0.0, lse.double() - want_lse).abs()
        assert difference.numel() == 0 or difference.max() <= tolerance * 10


def specs(text: str) -> Variant:
    return attnlang.loads(text)
