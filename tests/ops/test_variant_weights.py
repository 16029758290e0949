"""Softmax weights with factors, dropout on either kind, and what they leave alone: the lse."""

from __future__ import annotations

import math

import pytest
import torch
from support import Sizes, assert_accurate, make_qkv

import attnlang
from attnlang.reference.philox import kept

D = 24
EVERYTHING = (
    "attention everything(gain: float[B, KV], row: float[HQ, Q], p: float = 0.3): mask = causal "
    "weights = softmax(score, sink=0.5) * gain[b, kv_col] * row[h, q_row] * tanh(score) "
    "* dropout(p)"
)
PLAIN = (
    "attention plain(p: float[HQ]): score = 2.0 * score mask = causal "
    "weights = sigmoid(score - 1.0) * dropout(p[h])"
)
KEPT = "attention kept_only(p: float = 0.4): weights = softmax(score) * dropout(p)"
SHAPES = [
    Sizes(2, 4, 2, 70, 131, D, D),
    Sizes(2, 3, 3, 129, 64, D, D),
    Sizes(2, 6, 2, 1, 200, D, D),
    Sizes(3, 2, 1, 5, 67, D, D),
    Sizes(1, 2, 1, 70, 1300, D, D),  # keys in parts
    Sizes(1, 2, 1, 1, 1300, D, D),
    Sizes(2, 2, 2, 40, 9, D, D),  # more queries than keys: empty rows
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def everything(s: Sizes) -> dict[str, object]:
    g = generator(1)
    return {
        "gain": torch.randn(s.b, s.kv, generator=g),
        "row": torch.randn(s.hq, s.q, generator=g),
        "seed": 2**41 + 5,
    }


@pytest.fixture(scope="module")
def kept_only() -> attnlang.Variant:
    return attnlang.loads(KEPT)


@pytest.fixture(scope="module")
def all_forms() -> attnlang.Variant:
    return attnlang.loads(EVERYTHING)


@pytest.fixture(scope="module")
def plain() -> attnlang.Variant:
    return attnlang.loads(PLAIN)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_every_form_at_once(all_forms, shape, p) -> None:
    q, k, v = make_qkv(shape, torch.float32, generator())
    out, _ = assert_accurate(all_forms, q, k, v, p=p, **everything(shape))
    assert (p == 1.0) == (not out.any())


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_form_at_once_narrow(all_forms, plain, shape, dtype) -> None:
    q, k, v = make_qkv(shape, dtype, generator(), layout="bshd")
    assert_accurate(all_forms, q, k, v, **everything(shape))
    assert_accurate(plain, q, k, v, p=torch.rand(shape.hq, generator=generator(3)), seed=3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dropout_without_softmax(plain, shape) -> None:
    q, k, v = make_qkv(shape, torch.float32, generator())
    p = torch.rand(shape.hq, generator=generator(2))
    p[0], p[-1] = 0.0, 1.0
    out = assert_accurate(plain, q, k, v, p=p, seed=-9)[0]
    assert not out[:, -1].any()


@pytest.mark.parametrize("seed", [0, 2**40 + 1, -3])
def test_what_is_kept_is_the_contracts_in_every_kernel(kept_only, seed) -> None:
    """v is the identity, so out holds the weights: rows together (forward) and one by one."""
    s = Sizes(2, 4, 2, 40, D, D, D)
    q, k, _ = make_qkv(s, torch.float32, generator())
    v = torch.eye(D).expand(s.b, s.hkv, D, D)
    axes = [torch.arange(n).view([-1 if a == i else 1 for a in range(4)])
            for i, n in enumerate((s.b, s.hq, s.q, D))]  # fmt: skip
    want = kept(torch.tensor(0.4), seed, axes[0], axes[1], axes[2] - 100, axes[3] + 7)
    offsets = {"kv_offset": 7, "seed": seed}
    assert torch.equal(kept_only(q, k, v, q_offset=-100, **offsets) != 0, want)
    for i in range(s.q):
        row = kept_only(q[:, :, i : i + 1], k, v, q_offset=i - 100, **offsets)
        assert torch.equal(row != 0, want[:, :, i : i + 1])


def test_the_lse_counts_no_factor_and_no_dropout(all_forms) -> None:
    s = SHAPES[0]
    q, k, v = make_qkv(s, torch.float32, generator())
    bare = attnlang.loads("attention bare: mask = causal")
    want = bare(q, k, v, return_lse=True)[1]
    for p in (0.0, 0.9, 1.0):
        lse = all_forms(q, k, v, p=p, return_lse=True, **everything(s))[1]
        torch.testing.assert_close(lse, want)


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[4], SHAPES[5]], ids=str)
def test_bitwise_equal_on_any_number_of_threads(all_forms, shape) -> None:
    q, k, v = make_qkv(shape, torch.float32, generator())
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            call = {**everything(shape), "return_lse": True, "return_max": True}
            results.append(all_forms(q, k, v, **call))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("queries", [1, 70])
def test_a_factor_of_a_hidden_element_does_not_count(queries) -> None:
    """Whatever it is: NaN where the mask hides a column, inf where the score is -inf."""
    variant = attnlang.loads(
        "attention hidden(gain: float[KV], bias: float[KV], n: int): mask = kv_idx < n "
        "score = score + bias[kv_col] weights = softmax(score) * gain[kv_col]"
    )
    s = Sizes(1, 2, 1, queries, 100, D, D)
    q, k, v = make_qkv(s, torch.float32, generator())
    gain, bias = torch.rand(s.kv), torch.zeros(s.kv)
    bias[::3] = -math.inf
    gain[::3] = math.inf
    clean = {"gain": gain.nan_to_num(posinf=0.0), "bias": bias, "n": 71}
    want = variant(q, k, v, **clean)
    gain[71:], k[:, :, 71:], v[:, :, 71:] = math.nan, math.nan, math.inf
    got = variant(q, k, v, gain=gain, bias=bias, n=71)
    assert torch.equal(got, want)
    assert want.isfinite().all()


def test_the_default_seed_is_one_draw_from_torchs_generator(kept_only) -> None:
    q, k, v = make_qkv(Sizes(1, 2, 2, 40, 50, D, D), torch.float32, generator())
    torch.manual_seed(5)
    first, second = kept_only(q, k, v), kept_only(q, k, v)
    torch.manual_seed(5)
    again = kept_only(q, k, v)
    torch.manual_seed(5)
    reference = kept_only.reference(q, k, v)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, reference)
    state = torch.get_rng_state()
    kept_only(q, k, v, seed=1)
    assert torch.equal(state, torch.get_rng_state())


def test_a_variant_without_dropout_draws_nothing() -> None:
    variant = attnlang.loads("attention bare: mask = causal")
    q, k, v = make_qkv(Sizes(1, 2, 2, 40, 50, D, D), torch.float32, generator())
    state = torch.get_rng_state()
    variant(q, k, v)
    assert torch.equal(state, torch.get_rng_state())


def test_a_bare_op_call_needs_a_seed(kept_only) -> None:
    q, k, v = make_qkv(Sizes(1, 2, 2, 40, 50, D, D), torch.float32, generator())
    with pytest.raises(RuntimeError, match="`seed`: expected one"):
        kept_only.op(q, k, v)
    want = kept_only(q, k, v, seed=7)
    assert torch.equal(kept_only.op(q, k, v, seed=7)[0], want)
    assert torch.equal(kept_only.op(q, k, v, seed_t=torch.tensor(7))[0], want)
    assert kept_only.tiles(q, k, v).partial == 0
    torch.library.opcheck(kept_only.op, (q, k, v), {"seed": 3, "return_max": True})


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_call_draws_a_seed_each_time(kept_only, backend) -> None:
    q, k, v = make_qkv(Sizes(1, 2, 2, 40, 50, D, D), torch.float32, generator())
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, k, v: kept_only(q, k, v), fullgraph=True, backend=backend)
    torch.manual_seed(5)
    first, second = compiled(q, k, v), compiled(q, k, v)
    torch.manual_seed(5)
    assert torch.equal(compiled(q, k, v), first)
    assert not torch.equal(first, second)
    seeded = torch.compile(
        lambda q, k, v: kept_only(q, k, v, seed=11), fullgraph=True, backend=backend
    )
    assert torch.equal(seeded(q, k, v), kept_only(q, k, v, seed=11))
