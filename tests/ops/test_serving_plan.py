"""`Variant.plan`: requests of any lengths in pages and parts, each as if it were alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from serving_scenes import Scene, assert_close, draw_scene, oracle
from support import EXAMPLES, sample

import attnlang
from attnlang import BlockSparse, CallError, PagedKV, Part
from attnlang.ops.variant import Variant

TOLERANCE = 2e-5


def load(name: str) -> Variant:
    return attnlang.load(EXAMPLES / f"{name}.attn")


def check(
    variant: Variant,
    scene: Scene,
    planned: dict[str, object] | None = None,
    given: dict[str, object] | None = None,
    dense: dict[str, object] | None = None,
    *,
    tolerance: float = TOLERANCE,
    **options: object,
) -> attnlang.ops.serving_plan.Plan:
    """Run a plan and compare it with the oracle, whose call takes `dense` for `given`."""
    planned, given = planned or {}, given or {}
    softmax = variant.ir.weights.softmax is not None
    plan = variant.plan(scene.q_indptr, scene.given, num_q_heads=scene.heads, **planned, **options)
    results = plan.run(scene.q, scene.pools, **given, return_lse=softmax)
    out, lse = results if softmax else (results, None)
    assert out.dtype == scene.q.dtype
    want, want_lse = oracle(variant, scene, **planned, **(given if dense is None else dense))
    assert_close(out, lse, want, want_lse, tolerance)
    return plan


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_plain_and_causal(seed: int, parts: int) -> None:
    scene = draw_scene(seed, parts=parts)
    check(load("full"), scene)
    check(load("causal"), scene)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_window_is_planned(seed: int, parts: int) -> None:
    scene = draw_scene(seed + 50, parts=parts)
    check(load("gemma2_local"), scene, {"window_size": 9}, {"cap": 3.0})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("parts", [1, 2])
def test_positions_go_on_from_part_to_part(seed: int, parts: int) -> None:
    scene = draw_scene(seed + 100, parts=parts)
    check(load("alibi"), scene, given={"slopes": torch.rand(4)})
    check(load("streaming_llm"), scene, {"n_sink": 2, "window_size": 7}, tolerance=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_sink_counts_once(seed: int, parts: int) -> None:
    scene = draw_scene(seed + 150, parts=parts)
    check(load("sink"), scene, {"window_size": 12}, {"sink": torch.randn(4)})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_out_expression_comes_after_the_merge(seed: int, parts: int) -> None:
    scene = draw_scene(seed + 200, parts=parts)
    gate = torch.randn(scene.q_starts[-1], 4, 16)

    def own(b: int) -> torch.Tensor:
        return gate[scene.q_starts[b] : scene.q_starts[b + 1]].transpose(0, 1).unsqueeze(0)

    check(load("gated_output"), scene, given={"gate": gate}, dense={"gate": own})


SPECS = {
    "no softmax": "attention a:\n  weights = sigmoid(score - 1)\n"
    "  out = acc / max(abs(row_sum), 0.5)\n  mask = causal\n",
    "a factor": "attention a:\n  weights = softmax(score) * sigmoid(score)\n"
    "  out = acc + row_sum\n",
    "a sink": "attention a:\n  weights = softmax(score, sink=0.3)\n"
    "  out = acc + row_sum + (lse if lse > -1000 else 0)\n",
    "lengths and parts": "attention a:\n  score = score * log(1 + KV) + Q + part * kv_idx / 50\n"
    "  mask = kv_idx < KV - 3\n  out = acc * Q + q_row\n",
    "v of k": "attention a:\n  v = k[0:16] * 2 + kv_idx\n  mask = causal\n",
}


@pytest.mark.parametrize("spec", sample(SPECS, "a sink", "lengths and parts"))
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_specs(spec: str, parts: int) -> None:
    variant = attnlang.loads(SPECS[spec])
    for seed in range(4):
        scene = draw_scene(seed + 250, parts=parts)
        if spec == "v of k":
            for part in scene.parts:
                part.pools = (part.pools[0], None)
        check(variant, scene, tolerance=1e-4)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("parts", [1, 2])
def test_fp8_pages_with_scales(dtype: torch.dtype, parts: int) -> None:
    for seed in range(5):
        scene = draw_scene(
            seed + 300, parts=parts, paged=True, dtype=torch.bfloat16, stored=dtype, requests=4
        )
        check(load("causal"), scene, tolerance=0.02)


def _levels(plan: object) -> list[bool]:
    return [level.shared for level in plan._step.levels]


def _shared_scene(seed: int = 0, **change: object) -> Scene:
    """Return eight decoding requests behind one prompt of 48 keys."""
    scene = draw_scene(seed, requests=8, most_keys=0, paged=True, **change)
    scene.q_starts = list(range(9))
    scene.q = torch.randn(8, 4, 16)
    suffix = draw_scene(seed + 1, requests=8, paged=True, page=4)
    prompt = draw_scene(seed + 2, requests=1, paged=True, page=4, most_keys=60)
    scene.parts = [prompt.parts[0], suffix.parts[0]]
    scene.parts[0].q_starts = [0, 8]
    scene.parts[1].q_starts = scene.q_starts
    return scene


@pytest.mark.parametrize(
    ("name", "planned", "shared"),
    [
        ("full", {}, True),
        ("causal", {}, True),
        ("soft_cap", {}, True),
        ("sliding_window", {"window_size": 5}, False),
        ("sliding_window", {"window_size": 4096}, True),
        ("streaming_llm", {}, False),  # q turns by its position
    ],
)
def test_rows_go_together_where_positions_do_not_matter(
    name: str, planned: dict[str, object], shared: bool
) -> None:
    seed = next(s for s in range(400, 500) if _shared_scene(s).parts[0].k[0].shape[0] > 20)
    scene = _shared_scene(seed)
    plan = check(load(name), scene, planned, tolerance=1e-4)
    assert _levels(plan) == [shared, False]


@pytest.mark.parametrize(
    "name",
    sample(["full", "causal", "sliding_window", "sink", "alibi"], "full", "causal", "alibi"),
)
def test_equal_page_prefixes_are_found(name: str) -> None:
    found = 0
    given = {"sink": {"sink": torch.randn(4)}, "alibi": {"slopes": torch.rand(4)}}.get(name, {})
    for seed in range(10):
        scene = draw_scene(seed + 500, paged=True, page=4, same_prefix=True, requests=6)
        plan = check(load(name), scene, given=given, share_prefixes=True)
        found += len(_levels(plan)) > 1
    assert (found >= 3) == (name != "alibi")  # whose scores need every row's own position


def test_a_tree_of_prefixes_has_a_level_for_each_branching() -> None:
    def pages(*rows: list[int]) -> PagedKV:
        counts = [len(r) for r in rows]
        return PagedKV(
            torch.randn(20, 2, 2, 16), torch.randn(20, 2, 2, 16),
            torch.tensor([0, *counts]).cumsum(0), torch.tensor([p for row in rows for p in row]),
            torch.tensor([1] * len(rows)),
        )  # fmt: skip

    cache = pages([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6], [7, 8], [7, 8], [9])
    plan = load("causal").plan(torch.arange(7), cache, num_q_heads=4, share_prefixes=True)
    assert [level.keys.pages.tolist() for level in plan._step.levels] == [
        [1, 2, 7], [3], [4, 5, 6, 8, 8, 9],
    ]  # fmt: skip
    assert plan._step.levels[0].keys.q_starts.tolist() == [0, 3, 5, 6]
    alone = load("causal").plan(torch.arange(7), cache, num_q_heads=4)
    q = torch.randn(6, 4, 16)
    torch.testing.assert_close(plan.run(q), alone.run(q), atol=1e-5, rtol=0)


def test_a_plan_runs_every_layer_and_takes_the_next_step() -> None:
    scene = draw_scene(601, paged=True, page=4, requests=5)
    causal = load("causal")
    plan = causal.plan(
        scene.q_indptr, scene.given, num_q_heads=4, max_requests=8, max_pages=200, max_q_tokens=99
    )
    for _ in range(2):
        want, _ = oracle(causal, scene)
        for _ in range(2):
            out = plan.run(scene.q, scene.pools)
            assert_close(out, None, want, None, TOLERANCE)
        scene = draw_scene(602, paged=True, page=16, requests=3)
        plan.update(scene.q_indptr, scene.given)
    for name, change in (("max_requests", 9), ("max_pages", 0), ("max_q_tokens", 0)):
        most = {"max_requests": 8, "max_pages": 200, "max_q_tokens": 99, name: 2 if change else 1}
        with pytest.raises(CallError, match=rf"`{name}`: expected \d+ or more, for this step"):
            causal.plan(scene.q_indptr, scene.given, num_q_heads=4, **most)


BY_REQUEST = (
    "attention a(w: float[B, HQ]): score = score * w[b, h]\n",
    "attention a(w: float[B, HQ]):\n  score = score * w[b, h]\n  out = acc * w[b, h]\n",
    "attention a(w: float[HQ, B]):\n  score = score * B + w[h, b]\n",
)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("spec", sample(BY_REQUEST, BY_REQUEST[1]))
def test_tensors_over_requests_may_have_the_maximum(spec: str, parts: int) -> None:
    variant = attnlang.loads(spec)
    axis = 1 if "HQ, B" in spec else 0
    for seed in range(3):
        scene = draw_scene(seed + 650, parts=parts, requests=3)
        w = torch.rand((4, 8) if axis else (8, 4))
        plan = variant.plan(scene.q_indptr, scene.given, num_q_heads=4, max_requests=8)
        most = plan.run(scene.q, scene.pools, w=w)
        own = w.narrow(axis, 0, 3).contiguous()
        assert torch.equal(plan.run(scene.q, scene.pools, w=own), most)
        if "B +" in spec:  # the oracle calls each request alone
            continue
        want, _ = oracle(variant, scene, w=lambda b, own=own: own[b : b + 1])
        assert_close(most, None, want, None, TOLERANCE)
        with pytest.raises(CallError, match="`w`: expected shape"):
            plan.run(scene.q, scene.pools, w=torch.rand(5, 4))


def test_a_mask_parameter_is_frozen() -> None:
    scene = draw_scene(700, requests=3)
    gemma2 = load("gemma2_local")
    plan = gemma2.plan(scene.q_indptr, scene.given, num_q_heads=4, window_size=9)
    same = plan.run(scene.q, scene.pools, window_size=9, cap=30.0)
    assert torch.equal(same, plan.run(scene.q, scene.pools, cap=30.0))
    with pytest.raises(CallError, match="`window_size`: expected the plan's value, 9: the mask"):
        plan.run(scene.q, scene.pools, window_size=10)
    with pytest.raises(CallError, match="`cap`: expected nothing: the mask does not read it"):
        gemma2.plan(scene.q_indptr, scene.given, num_q_heads=4, cap=30.0)
    with pytest.raises(CallError, match=r"`window`: .*a similar name exists: `window_size`"):
        gemma2.plan(scene.q_indptr, scene.given, num_q_heads=4, window=9)
    with pytest.raises(CallError, match=r"`q_ofset`: .*a similar name exists: `q_offset`"):
        gemma2.plan(scene.q_indptr, scene.given, num_q_heads=4, window_size=9, q_ofset=0)
    with pytest.raises(CallError, match="`window_size`: expected an int, found float"):
        gemma2.plan(scene.q_indptr, scene.given, num_q_heads=4, window_size=9.5)
    with pytest.raises(CallError, match="`caps`: "):
        plan.run(scene.q, scene.pools, caps=1.0)


def test_what_does_not_fit_is_named() -> None:
    scene = draw_scene(701, requests=3, paged=True, page=4)
    causal, cache = load("causal"), scene.parts[0].kv
    q_indptr, rows = scene.q_indptr, scene.q_starts[-1]
    assert isinstance(cache, PagedKV)

    def plan(*args: object, **options: object) -> object:
        return causal.plan(*args, **({"num_q_heads": 4} | options))

    for arguments, options, text in (
        ((q_indptr[:-1], cache), {}, "`q_indptr`: expected 3 requests, as the keys have"),
        ((q_indptr.float(), cache), {}, "`q_indptr`: .*found dtype float32"),
        ((torch.tensor([0, 3, 2, 5]), cache), {}, "`q_indptr`: .*found 2 at entry 2, after 3"),
        ((q_indptr + 1, cache), {}, "`q_indptr`: expected 0 at entry 0, found 1"),
        ((q_indptr, torch.tensor([0, 3, 2, 5])), {}, "`kv_indptr`: .*found 2 at entry 2"),
        ((q_indptr, torch.tensor([0, 3, 2**40, 2**41])), {}, r"`kv_indptr`: .*below 2 \*\* 30"),
        ((q_indptr, torch.tensor([0, 3])), {}, "`q_indptr`: expected 1 requests"),
        ((q_indptr, []), {}, "`kv`: expected a cache, .*found an empty list"),
        ((q_indptr, "pages"), {}, "`kv`: expected a PagedKV, .*found str"),
        ((q_indptr, [cache, 3]), {}, r"`kv\[1\]`: expected a PagedKV, .*found int"),
        (
            (q_indptr, [Part(cache, torch.tensor([0, rows + 1])), cache]),
            {},
            f"`q_indptr of part 0`: expected {rows} at the end, the rows of q_indptr",
        ),
        ((q_indptr, cache), {"num_q_heads": 0}, "`num_q_heads`: expected an int of 1 or more"),
        ((q_indptr, cache), {"max_pages": -1}, "`max_pages`: expected an int of 0 or more"),
        ((q_indptr, cache), {"batch_invariant": -1}, "`batch_invariant`: expected a bool, or"),
        ((q_indptr, cache), {"q_offset": torch.zeros(2).int()}, "`q_offset`: expected an int or"),
        ((q_indptr, q_indptr), {"share_prefixes": True}, "`share_prefixes`: expected False"),
    ):
        with pytest.raises(CallError, match=text):
            plan(*arguments, **options)
    made = plan(q_indptr, cache)
    pool = scene.parts[0].pools[0]
    for run, text in (
        ((scene.q[:-1],), r"`q`: expected \[sum Q = \d+, HQ = 4, D\], as planned"),
        ((scene.q[:, :2],), r"`q`: expected \[sum Q = \d+, HQ = 4, D\], as planned"),
        ((None,), "`q`: expected a tensor"),
        ((scene.q, (pool[:1], pool[:1])), "`kv`: expected pools of"),
        ((scene.q, (pool[0], pool)), "`k_pages`: expected 4 dimensions"),
        ((scene.q, [(pool, pool)] * 2), "`kv`: expected one pair, or one for each of 1 parts"),
    ):
        with pytest.raises(CallError, match=text):
            made.run(*run)
    ragged = plan(torch.tensor([0, 1]), torch.tensor([0, 5]))
    with pytest.raises(CallError, match=r"`kv`: .*a ragged plan has no pools"):
        ragged.run(torch.zeros(1, 4, 16))
    cache.indices[0] = 99
    with pytest.raises(CallError, match="`indices`: expected a page of"):
        made.update(q_indptr, cache)


def test_a_request_has_fewer_than_2_to_the_30_keys() -> None:
    pool = torch.zeros(1, 1, 1, 16).expand(1, 2**20, 1, 16)
    tables = (torch.tensor([0, 1024]), torch.zeros(1024, dtype=torch.int64), torch.tensor([2**20]))
    with pytest.raises(CallError, match=r"`indptr`: expected requests shorter than 2 \*\* 30"):
        PagedKV(pool, pool, *tables)
    part = PagedKV(pool, pool, tables[0], tables[1], tables[2] - 1)
    with pytest.raises(CallError, match=r"`kv`: expected requests shorter than 2 \*\* 30"):
        load("causal").plan(torch.tensor([0, 1]), [part, part], num_q_heads=4)


@pytest.mark.parametrize("parts", [1, 2])
def test_threads_plan_and_run_at_once(parts: int) -> None:
    """Each its own plans, made anew and updated, of one variant that nobody called before."""
    causal = attnlang.loads(f"attention threads_{parts}: mask = causal\n")
    limits = {"max_requests": 4, "max_q_tokens": 80, "max_pages": 999}
    scenes = [draw_scene(800 + i, parts=parts, requests=4, paged=True, page=4) for i in range(8)]
    wants = [oracle(causal, s)[0] for s in scenes]
    start = Barrier(4)

    def work(i: int) -> None:
        own = [i, i + 4]
        start.wait()
        for n in range(5):
            plan = None
            for s in own:
                scene = scenes[s]
                if plan is None:
                    plan = causal.plan(
                        scene.q_indptr, scene.given, num_q_heads=4, **(limits if n % 2 else {})
                    )
                else:
                    plan.update(scene.q_indptr, scene.given)
                out = plan.run(scene.q, scene.pools)
                assert_close(out, None, wants[s], None, TOLERANCE)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, i) for i in range(4)]:
            done.result()


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_a_tensor_in_pages(layout: str) -> None:
    document = load("document")
    checked = 0
    for seed in range(900, 912):
        scene = draw_scene(seed, paged=True, requests=4)
        part = scene.parts[0]
        assert isinstance(part.kv, PagedKV)
        if part.kv.layout != layout:
            continue
        checked += 1
        size = part.kv.page_size
        docs = [torch.randint(0, 3, (k.shape[0],)) for k in part.k]
        paged = torch.full((part.kv.k_pages.shape[0], size), -7)
        for b, own in enumerate(docs):
            pages = part.kv.indices[part.kv.indptr[b] : part.kv.indptr[b + 1]].long()
            for i, value in enumerate(own.tolist()):
                paged[pages[i // size], i % size] = value
        plan = document.plan(scene.q_indptr, part.kv, num_q_heads=4, doc=attnlang.Paged(paged))
        out, lse = plan.run(scene.q, return_lse=True)
        want = oracle(document, scene, doc=lambda b, docs=docs: docs[b].unsqueeze(0))
        assert_close(out, lse, *want, TOLERANCE)
    assert checked


@pytest.mark.parametrize("block", [(1, 1), (3, 5), (16, 8), (64, 64)])
@pytest.mark.parametrize("name", ["full", "causal", "alibi"])
def test_blocks_of_keys(block: tuple[int, int], name: str) -> None:
    torch.manual_seed(0)
    rows, keys, (high, wide) = 37, 90, block
    table = torch.rand(-(-rows // high), -(-keys // wide)) < 0.4
    table[0] = False  # rows that see nothing
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), table.sum(1).cumsum(0)])
    indices = torch.cat([row.nonzero().flatten() for row in table])
    q, k, v = torch.randn(rows, 4, 16), torch.randn(keys, 2, 16), torch.randn(keys, 2, 16)
    given = {"slopes": torch.rand(4)} if name == "alibi" else {}
    biased = "attention a(slopes: float[HQ]):\n  score = score + alibi(slopes[h])\n"
    variant = attnlang.loads(biased) if given else load(name)
    plan = variant.plan(torch.tensor([0, rows]), BlockSparse(indptr, indices, block), num_q_heads=4)
    out, lse = plan.run(q, (k, v), return_lse=True, **given)
    seen = table.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :keys]
    params = ", ".join(["see: bool[Q, KV]", *(["slopes: float[HQ]"] if given else [])])
    mask = "see[q_row, kv_col]" + (" and causal" if name == "causal" else "")
    score = "  score = score + alibi(slopes[h])\n" if given else ""
    want = attnlang.loads(f"attention a({params}):\n{score}  mask = {mask}\n").reference(
        *(x.double().transpose(0, 1).unsqueeze(0) for x in (q, k, v)),
        see=seen, **given, return_lse=True,
    )  # fmt: skip
    own = [x[0].transpose(0, 1) for x in want]
    assert_close(out, lse, own[0], own[1], TOLERANCE)


def test_blocks_that_do_not_fit_are_named() -> None:
    causal = load("causal")
    blocks = BlockSparse(torch.tensor([0, 1, 2]), torch.tensor([0, 3]), (16, 8))
    plan = causal.plan(torch.tensor([0, 20]), blocks, num_q_heads=4)
    q, k = torch.zeros(20, 4, 16), torch.zeros(24, 2, 16)
    for q_indptr, text in (
        (torch.tensor([0, 10, 20]), "`q_indptr`: expected one request"),
        (torch.tensor([0, 40]), "`indptr`: expected 3 blocks of 16 rows, for 40 rows, found 2"),
    ):
        with pytest.raises(CallError, match=text):
            causal.plan(q_indptr, blocks, num_q_heads=4)
    with pytest.raises(CallError, match="`kv`: expected more than 24 keys, as `indices` selects"):
        plan.run(q, (k, k))
    with pytest.raises(CallError, match=r"`q`: expected \[Q = 20, HQ = 4, D\], as planned"):
        plan.run(q[1:], (k, k))
    with pytest.raises(CallError, match="`kv`: expected a BlockSparse, as planned"):
        plan.update(torch.tensor([0, 20]), torch.tensor([0, 3]))


@pytest.mark.parametrize("parts", [1, 2])
def test_the_largest_score(parts: int) -> None:
    scene = draw_scene(1003, parts=parts, requests=4)
    scene.parts = [p for p in scene.parts if p.q_starts == scene.q_starts]  # each its own keys
    full = load("full")
    plan = full.plan(scene.q_indptr, scene.given, num_q_heads=4)
    _, largest = plan.run(scene.q, scene.pools, return_max=True)
    for b in range(4):
        rows = scene.q[scene.q_starts[b] : scene.q_starts[b + 1]].double()
        k = scene.keys(b)[0].repeat_interleave(2, dim=1)
        scores = torch.einsum("qhd,khd->hqk", rows, k).flatten(1) / 4
        want = torch.cat([scores, torch.full((4, 1), -torch.inf)], dim=1).amax(1)
        torch.testing.assert_close(largest[b].double(), want, atol=1e-5, rtol=0)


def test_offsets_belong_to_the_plan() -> None:
    scene = draw_scene(1010, requests=4, parts=1)
    alibi = load("alibi")
    slopes = torch.rand(4)
    q_offset, kv_offset = torch.randint(0, 50, (2, 4))
    plan = alibi.plan(
        scene.q_indptr, scene.given, num_q_heads=4, q_offset=q_offset, kv_offset=kv_offset
    )
    out, lse = plan.run(scene.q, scene.pools, slopes=slopes, return_lse=True)
    want = oracle(
        alibi, scene, slopes=slopes, q_offset=lambda b: int(q_offset[b]),
        kv_offset=lambda b: int(kv_offset[b]),
    )  # fmt: skip
    assert_close(out, lse, *want, TOLERANCE)


@pytest.mark.slow
def test_dropout_drops_what_a_dense_call_drops() -> None:
    dropout = load("dropout")
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 9, 16), torch.randn(2, 2, 30, 16), torch.randn(2, 2, 30, 16)
    want = dropout(q, k, v, seed=7)
    rows, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    plan = dropout.plan(torch.tensor([0, 9, 18]), torch.tensor([0, 30, 60]), num_q_heads=4)
    out = plan.run(rows, (keys, values), seed=7)
    torch.testing.assert_close(out, want.transpose(1, 2).flatten(0, 1), atol=1e-5, rtol=0)
    halves = [
        [x.unflatten(0, (2, 30))[:, at].flatten(0, 1) for x in (keys, values)]
        for at in (slice(0, 12), slice(12, 30))
    ]
    parts = [torch.tensor([0, 12, 24]), torch.tensor([0, 18, 36])]
    plan = dropout.plan(torch.tensor([0, 9, 18]), parts, num_q_heads=4)
    out = plan.run(rows, [tuple(x) for x in halves], seed=7)
    torch.testing.assert_close(out, want.transpose(1, 2).flatten(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_invariant", [False, True, 64])
def test_a_plan_says_how_even_it_is(batch_invariant: bool | int) -> None:
    window = load("sliding_window")
    scene = draw_scene(1021, requests=6, most_keys=3000, paged=True, page=16)
    plan = check(window, scene, {"window_size": 100}, batch_invariant=batch_invariant)
    (balance,) = plan.balance
    assert balance.workers == torch.get_num_threads()
    assert balance.mean <= balance.largest <= 2 * balance.mean + 1
    # Two key/value heads, and at most 100 keys before each of a tile's rows.
    tiles = sum(2 * ((100 + n) // 64 + 2) for n in plan._step.lengths.q if n)
    assert 0 < balance.mean * balance.workers <= tiles
    assert plan.workspace_bytes > 0
    unwindowed = check(window, scene, {"window_size": 10_000}, batch_invariant=batch_invariant)
    assert unwindowed.balance[0].mean > 3 * balance.mean


def test_a_request_is_computed_alike_in_any_company() -> None:
    causal = load("causal")
    scene = draw_scene(1030, requests=5, most_keys=2000, paged=False)
    starts, kv_starts = scene.q_starts, scene.parts[0].kv.tolist()
    k, v = scene.parts[0].pools
    plan = causal.plan(scene.q_indptr, scene.given, num_q_heads=4, batch_invariant=128)
    out = plan.run(scene.q, (k, v))
    for b in range(5):
        rows, keys = slice(*starts[b : b + 2]), slice(*kv_starts[b : b + 2])
        tables = [torch.tensor([0, x.stop - x.start]) for x in (rows, keys)]
        alone = causal.plan(*tables, num_q_heads=4, batch_invariant=128)
        assert torch.equal(alone.run(scene.q[rows], (k[keys], v[keys])), out[rows])


def test_a_run_that_does_not_fit_is_named() -> None:
    scene = draw_scene(1100, requests=2, paged=True, page=4)
    part = scene.parts[0]
    pool = part.pools[0]
    made = load("causal").plan(scene.q_indptr, part.kv, num_q_heads=4)
    biased = attnlang.loads("attention a(t: float[B, KV]):\n  score = score + t[b, kv_idx]\n")
    keys = sum(k.shape[0] for k in part.k)
    bias = biased.plan(scene.q_indptr, part.kv, num_q_heads=4)
    both = biased.plan(scene.q_indptr, [part.kv, part.kv], num_q_heads=4)
    gated = load("gated_output").plan(scene.q_indptr, part.kv, num_q_heads=4)
    wide = scene.q.clone().requires_grad_()
    for plan, q, given, text in (
        (made, wide, {}, "`q`: expected a tensor that needs no gradient, in a planned call"),
        (
            made,
            scene.q,
            {"scale": torch.tensor(0.5, requires_grad=True)},
            "`scale`: expected a tensor that needs no gradient, in a planned call",
        ),
        (made, scene.q.bfloat16(), {}, "`k`: expected the dtype of q, bfloat16, found float32"),
        (made, scene.q[..., :8], {}, "`k`: expected q's head dim D = 8"),
        (made, scene.q, {"scale": "1"}, "`scale`: expected a number"),
        (made, scene.q, {"return_lse": True, "seed": 1.5}, "`seed`: expected an int"),
        (bias, scene.q, {}, "`t`: expected a float tensor of shape .*found nothing"),
        (bias, scene.q, {"t": torch.zeros(keys + 1)}, "`t`: expected shape .*sum KV = "),
        (bias, scene.q, {"t": attnlang.Paged(torch.zeros(pool.shape[0], 3))}, "`t`: .*a Paged of"),
        (both, scene.q, {"t": torch.zeros(keys)}, "`t`: .*a Paged tensor, or nothing over KV"),
        (
            gated,
            scene.q,
            {"gate": attnlang.Paged(torch.zeros(pool.shape[:2]))},
            "`gate`: expected a Paged only for a tensor with B and KV",
        ),
    ):
        with pytest.raises(CallError, match=text):
            plan.run(q, **given)
    out = bias.run(scene.q, t=torch.zeros(keys))
    paged = bias.run(scene.q, t=attnlang.Paged(torch.zeros(pool.shape[0], 4)))
    assert torch.equal(out, paged)
