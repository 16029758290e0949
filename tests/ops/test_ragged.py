"""Ragged calls against the float64 reference of each request: any lengths, grouped heads."""

from __future__ import annotations

import math

import pytest
import torch
from ragged_inputs import Packed, offsets, pack
from ragged_specs import HEADS, LENGTHS, SPECS, call_of, results
from support import Sizes, sample

import attnlang

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
CASES = [(n, d) for n in sorted(SPECS) for d in (F32, BF16, F16)]
# Every spec, every dtype, and two dtypes of what reads tensors by row.
QUICK = [("causal", F16), ("rows", BF16), *((n, F32) for n in sorted(SPECS))]


@pytest.mark.parametrize("case", sample(CASES, *QUICK), ids=lambda c: f"{c[0]}-{c[1]}")
def test_each_request_agrees_with_the_reference(case: tuple[str, torch.dtype]) -> None:
    name, dtype = case
    call = call_of(name, dtype)
    out, lse = results(call)
    assert out.shape == (call.q.shape[0], HEADS.hq, HEADS.dv)
    call.check(out, lse)


def test_a_request_is_the_same_call_alone_bit_for_bit() -> None:
    call = call_of("rows", torch.float32)
    out, lse, top = call.call(return_lse=True, return_max=True)
    assert top.shape == (len(LENGTHS), HEADS.hq)
    for b in range(len(LENGTHS)):
        dense = (x[None].transpose(1, 2) for x in (
            call.q[call.rows(b)], call.k[call.columns(b)], call.v[call.columns(b)]
        ))  # fmt: skip
        params = {
            n: t[b : b + 1] if n in ("bias", "gain") else t for n, t in call.dense_params(b).items()
        }
        want = call.variant(*dense, **params, return_lse=True, return_max=True)
        rows = (x[call.rows(b)].transpose(0, 1)[None] for x in (out, lse))
        for got, expected in zip((*rows, top[b : b + 1]), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_offsets_scale_and_strides() -> None:
    call = call_of("causal", torch.float32)
    q_offset = torch.randint(0, 50, (len(LENGTHS),))
    keywords = {"q_offset": q_offset, "kv_offset": 7, "scale": 0.3}
    wide = [torch.full((x.shape[0], x.shape[1] + 1, 2 * x.shape[2]), math.nan)
            for x in (call.q, call.k, call.v)]  # fmt: skip
    for memory, x in zip(wide, (call.q, call.k, call.v), strict=True):
        memory[:, 1:, ::2] = x
    q, k, v = (x[:, 1:, ::2] for x in wide)
    strided = Packed(call.variant, call.lengths, q, k, v, call.params)
    out, lse = results(strided, **keywords)
    call_alone, lse_alone = results(call, **keywords)
    assert torch.equal(out, call_alone)
    assert torch.equal(lse, lse_alone)
    call.check(out, lse, **keywords)


@pytest.mark.parametrize("name", ["plain", "rows"])
def test_nothing_of_another_request_is_read(name: str) -> None:
    call = call_of(name, torch.bfloat16)
    out, lse = results(call)
    b = 3
    got, got_lse = results(call.only(b))
    assert torch.equal(got[call.rows(b)], out[call.rows(b)])
    assert torch.equal(got_lse[call.rows(b)], lse[call.rows(b)])


def test_no_request_and_no_row() -> None:
    variant = attnlang.loads(SPECS["causal"])
    for lengths in ((), ((0, 0),), ((0, 5), (0, 3))):
        g = torch.Generator().manual_seed(0)
        call = pack(variant, lengths, HEADS, torch.float32, g, {})
        out, lse, top = call.call(return_lse=True, return_max=True)
        assert out.shape == (0, HEADS.hq, HEADS.dv)
        assert lse.shape == (0, HEADS.hq)
        assert torch.isneginf(top).all()
        assert top.shape == (len(lengths), HEADS.hq)


def test_threads_change_nothing() -> None:
    lengths = ((1, 9000), (200, 700), (1, 3), (1, 4000), (64, 5000))
    call = call_of("causal", torch.bfloat16, lengths)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(results(call))
    finally:
        torch.set_num_threads(before)
    for out, lse in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(lse, found[0][1])


def test_long_requests_are_cut_and_merged() -> None:
    call = call_of("causal", torch.float32, ((1, 5000), (2, 1300), (65, 2100)))
    call.check(*results(call))


def test_a_compiled_call() -> None:
    call = call_of("rows", torch.float32)
    params = call.packed_params()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(q, k, v, q_indptr, kv_indptr):
        return call.variant.ragged(q, k, v, q_indptr, kv_indptr, return_lse=True, **params)

    out, lse = compiled(call.q, call.k, call.v, call.q_indptr, call.kv_indptr)
    want, want_lse = results(call)
    assert torch.equal(out, want)
    assert torch.equal(lse, want_lse)


@pytest.mark.parametrize(
    ("text", "passed", "argument"),
    [
        ("weights = sigmoid(score)", {"return_lse": True}, "return_lse"),
        ("require n > 0, 'positive'\n score = score * n", {"n": -1}, "n"),
    ],
)
def test_a_compiled_call_is_checked(text: str, passed: dict[str, object], argument: str) -> None:
    variant = attnlang.loads(f"attention compiled_ragged(n: int = 1):\n {text}".replace("'", '"'))
    q, starts = torch.randn(3, 2, 16), torch.tensor([0, 1, 3])

    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(q, **given):
        return variant.ragged(q, q, q, starts, starts, **given)

    assert torch.equal(compiled(q), variant.ragged(q, q, q, starts, starts))
    with pytest.raises(Exception, match=f"`{argument}`"):
        compiled(q, **passed)


def test_the_op_is_sound() -> None:
    call = call_of("plain", torch.float32, ((3, 5), (0, 2), (1, 9)))
    call.call()
    op = getattr(torch.ops.attnlang, call.variant.op._schema.name.partition("::")[2] + "_packed")
    torch.library.opcheck(
        op.default,
        (call.q, call.k, call.v),
        {
            "q_indptr": call.q_indptr,
            "kv_indptr": call.kv_indptr,
            "return_lse": True,
            "return_max": True,
        },
    )


WRONG = {
    "starts": ({"q_indptr": torch.tensor([1, 3, 5])}, "`q_indptr`: expected 0 as its first"),
    "decreases": ({"q_indptr": torch.tensor([0, 6, 5])}, "never decrease, found 6, 5 at request 1"),
    "end": ({"kv_indptr": torch.tensor([0, 3, 8])}, "`kv_indptr`: expected 9 as its last offset"),
    "dtype": ({"q_indptr": torch.tensor([0.0, 3, 5])}, "int32 or int64, found dtype float32"),
    "rank": ({"q_indptr": torch.tensor([[0, 3, 5]])}, r"tensor \[B \+ 1\], found shape"),
    "empty": ({"q_indptr": torch.tensor([], dtype=torch.int32)}, r"found shape \[0\]"),
    "none": ({"q_indptr": None}, "found NoneType"),
    "count": ({"kv_indptr": torch.tensor([0, 9])}, "q_indptr's 3 offsets, found 2"),
    "dims": ({"q": torch.zeros(1, 5, 4, 40)}, "3 dimensions"),
    "head dim": ({"k": torch.zeros(9, 2, 41)}, "q's head dim D = 40"),
    "v": ({"v": torch.zeros(8, 2, 24)}, r"k's rows and heads \[9, 2, DV\]"),
    "heads": ({"k": torch.zeros(9, 3, 40), "v": torch.zeros(9, 3, 24)}, "a multiple of k's 3"),
    "mixed": ({"v": torch.zeros(9, 2, 24, dtype=torch.float64)}, "`v`: expected float32"),
    "param": ({"bias": torch.zeros(8, 4)}, r"shape \[sum KV = 9, HQ = 4\], found shape \[8, 4\]"),
    "short": ({"order": torch.zeros(4, dtype=torch.int32)}, "KV >= 6, for the longest request"),
    "offset": ({"q_offset": torch.zeros(3, dtype=torch.int32)}, r"int tensor \[B = 2\]"),
    "unknown": ({"kv_lens": torch.tensor([3, 6])}, "a name that the spec does not have"),
    "list": ({"kv_indptr": [0, 3, 9]}, "`kv_indptr`: .*found list"),
    "place": ({"kv_indptr": torch.tensor([0, 3, 9]).to("meta")}, "found one on meta"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_a_wrong_call_names_the_argument(case: str) -> None:
    change, text = WRONG[case]
    call = {
        "q": torch.zeros(5, 4, 40), "k": torch.zeros(9, 2, 40), "v": torch.zeros(9, 2, 24),
        "q_indptr": torch.tensor([0, 3, 5]), "kv_indptr": torch.tensor([0, 3, 9]),
        "bias": torch.zeros(9, 4), "gain": torch.ones(5), "order": torch.arange(6),
    }  # fmt: skip
    with pytest.raises(attnlang.CallError, match=text) as caught:
        attnlang.loads(SPECS["rows"]).ragged(**(call | change))
    assert caught.value.argument in {*change, "q", "k", "v", "kv_indptr"}


@pytest.mark.parametrize("dims", ["B, Q, KV", "HQ, Q, KV", "B, Q + 1", "B, Q, Q", "B, 2 * KV"])
def test_a_tensor_without_a_place_is_refused(dims: str) -> None:
    count = dims.count(",") + 1
    index = ", ".join(["0"] * count)
    spec = f"attention odd(t: float[{dims}]):\n score = score + t[{index}]\n"
    q = torch.zeros(2, 1, 16)
    with pytest.raises(attnlang.CallError, match="a packed call cannot pass a tensor") as caught:
        attnlang.loads(spec).ragged(q, q, q, offsets([2]), offsets([2]), torch.zeros([2] * count))
    assert caught.value.argument == "t"


def test_a_require_is_asked_of_each_request() -> None:
    variant = attnlang.loads(
        'attention short:\n require KV <= 4, "short requests"\n mask = causal\n'
    )
    q = torch.zeros(8, 1, 16)
    variant.ragged(q, q, q, offsets([4, 4]), offsets([4, 4]))
    with pytest.raises(attnlang.CallError, match="short requests"):
        variant.ragged(q, q, q, offsets([4, 4]), offsets([3, 5]))


def test_a_spec_that_makes_v_of_k_takes_none() -> None:
    variant = attnlang.loads("attention shared:\n v = k\n mask = causal\n")
    g = torch.Generator().manual_seed(3)
    call = pack(variant, ((3, 9), (40, 40)), Sizes(1, 4, 1, 0, 0, 24, 24), torch.float32, g, {})
    call.check(*call.call(return_lse=True))
    with pytest.raises(attnlang.CallError, match="the spec makes v of k"):
        variant.ragged(call.q, call.k, v=call.k, q_indptr=call.q_indptr, kv_indptr=call.kv_indptr)


def test_the_raw_op_refuses_offsets_itself() -> None:
    call = call_of("plain", torch.float32, ((3, 5), (1, 9)))
    call.call()
    op = getattr(torch.ops.attnlang, call.variant.op._schema.name.partition("::")[2] + "_packed")
    good = {"q_indptr": call.q_indptr, "kv_indptr": call.kv_indptr}
    for name, wrong, text in (
        ("q_indptr", torch.tensor([0, 5, 4]), "decreases after request 1"),
        ("q_indptr", torch.tensor([1, 3, 4]), "expected 0 first"),
        ("kv_indptr", torch.tensor([0, 5, 15]), "expected 14 rows at the end"),
        ("kv_indptr", torch.tensor([0, 14]), "as many offsets as q_indptr"),
        ("kv_indptr", torch.tensor([0.0, 5, 14]), "int32 or int64"),
    ):
        with pytest.raises(RuntimeError, match=text):
            op(call.q, call.k, call.v, **(good | {name: wrong}))
