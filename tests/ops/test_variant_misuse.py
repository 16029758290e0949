"""Calls that nobody should make, and what Python does with a variant besides calling it."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from support import Sizes, make_qkv

import attnlang

SPEC = (
    "attention biased(bias: float[HQ], gain: float = 1.0, window: int = 9):\n"
    ' "A bias."\n'
    ' require window > 0, "a window holds the query"\n'
    " score = gain * score + bias[h] * kv_idx\n"
    " mask = sliding_window(window)\n"
)
BIAS = torch.linspace(-0.1, 0.1, 4)


@pytest.fixture(scope="module")
def biased() -> attnlang.Variant:
    return attnlang.loads(SPEC)


@pytest.fixture
def qkv() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return make_qkv(Sizes(1, 4, 2, 17, 17, 16, 16), torch.float32, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["k", "v", "bias", "gain", "kv_lens", "scale"])
def test_a_tensor_elsewhere_is_refused_not_answered_with_memory(biased, qkv, name) -> None:
    call = dict(zip("qkv", qkv, strict=True)) | {
        "bias": BIAS,
        "gain": torch.tensor(1.0),
        "kv_lens": torch.tensor([17]),
        "scale": torch.tensor(1.0),
    }
    call[name] = call[name].to("meta")
    with pytest.raises(attnlang.CallError, match="q's device, cpu, found one on meta") as caught:
        biased(**call)
    assert caught.value.argument == name


def test_all_on_meta_gives_shapes(biased, qkv) -> None:
    out, lse = biased(*(x.to("meta") for x in qkv), BIAS.to("meta"), return_lse=True)
    assert out.device.type == lse.device.type == "meta"
    assert out.shape == qkv[0].shape


def test_gradients_on_meta_are_refused(biased, qkv) -> None:
    q, k, v = (x.to("meta") for x in qkv)
    with pytest.raises(attnlang.CallError, match="`q`: expected a CPU or a CUDA tensor"):
        biased(q.requires_grad_(), k, v, BIAS.to("meta"))


def test_a_sparse_tensor_is_refused(biased, qkv) -> None:
    q, k, v = qkv
    with pytest.raises(attnlang.CallError, match="`k`: expected a dense tensor"):
        biased(q, k.to_sparse(), v, BIAS)


@pytest.mark.parametrize("seed", ["x", 1.5, True, 2**64])
def test_a_seed_is_an_int_of_64_bits(biased, qkv, seed) -> None:
    with pytest.raises(attnlang.CallError, match="`seed`"):
        biased(*qkv, BIAS, seed=seed)


def test_an_int_beyond_64_bits_is_refused(biased, qkv) -> None:
    assert torch.equal(biased(*qkv, BIAS, window=2**63 - 1), biased(*qkv, BIAS, window=17))
    with pytest.raises(attnlang.CallError, match="`window`: expected an int of 64 bits"):
        biased(*qkv, BIAS, window=2**63)


def test_without_a_softmax_there_is_no_lse(qkv) -> None:
    variant = attnlang.loads("attention plain: weights = sigmoid(score)")
    for call in (variant, variant.reference):
        with pytest.raises(attnlang.CallError, match="`return_lse`"):
            call(*qkv, return_lse=True)


def test_copies_and_pickles_mean_the_same(biased, qkv) -> None:
    expected = biased(*qkv, BIAS)
    model = torch.nn.Linear(1, 1)
    model.attend = biased
    assert copy.deepcopy(model).attend is biased
    for twin in (copy.copy(biased), pickle.loads(pickle.dumps(biased))):
        assert twin.signature == biased.signature
        assert twin.__doc__ == "A bias."
        assert torch.equal(twin(*qkv, BIAS), expected)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"q": "text"}, "q"),
        ({"q": torch.ones(4, 17, 16)}, "q"),
        ({"v": None}, "v"),
        ({"k": torch.ones(1, 2, 17, 16, dtype=torch.int64)}, "k"),
        ({"bias": torch.ones(3)}, "bias"),
        ({"window": 2.0}, "window"),
        ({"window": 0}, "window"),
        ({"rounding": "most"}, "rounding"),
        ({"gian": 1.0}, "gian"),
        ({"q_offset": 1.5}, "q_offset"),
        ({"kv_offset": torch.ones(1)}, "kv_offset"),
        ({"kv_lens": 5}, "kv_lens"),
        ({"scale": torch.ones(2)}, "scale"),
        ({"seed": 1.5}, "seed"),
        ({"kv_indices": torch.zeros(1, 2, 17, 1)}, "kv_indices"),
        ({"dtype": torch.int32}, "dtype"),
        ({"dtype": "float64"}, "dtype"),
        ({"q": torch.ones(1, 3, 17, 16)}, "q"),
        ({"k": torch.ones(2, 2, 17, 16)}, "k"),
        ({"k": torch.ones(1, 2, 17, 8)}, "k"),
        ({"v": torch.ones(1, 2, 5, 16)}, "v"),
        ({"rows": [0]}, "rows"),
        ({"rows": torch.tensor([0, 17])}, "rows"),
        ({"rows": torch.tensor([-1])}, "rows"),
        ({"rows": torch.tensor([1.0])}, "rows"),
    ],
)
def test_the_reference_checks_its_call_too(biased, qkv, change, argument) -> None:
    call = {**dict(zip("qkv", qkv, strict=True)), "bias": BIAS, **change}
    with pytest.raises(attnlang.CallError) as caught:
        biased.reference(**call)
    assert caught.value.argument == argument


def test_the_reference_of_no_head(biased, qkv) -> None:
    q, k, v = (x.double() for x in qkv)
    for heads in (0, 2):
        passed = (q[:, :0], k[:, :heads], v[:, :heads], BIAS[:0], torch.tensor(1.0))
        call = [x.clone().requires_grad_() for x in passed]
        out, lse, top = biased.reference(*call, return_lse=True, return_max=True)
        kernel = biased(*(x.detach().float() for x in call), return_lse=True, return_max=True)
        assert [x.shape for x in kernel] == [x.shape for x in (out, lse, top)]
        (out.sum() + lse.sum()).backward()
        assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in call)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("return_ls", "return_lse"), ("kv_len", "kv_lens"), ("windw", "window"), ("xyz", None)],
)
def test_a_misspelt_keyword_is_told_the_right_one(biased, qkv, name, meant) -> None:
    for call in (biased, biased.reference):
        with pytest.raises(attnlang.CallError) as caught:
            call(*qkv, BIAS, **{name: 1})
        assert caught.value.argument == name
        assert caught.value.help == (None if meant is None else f"a similar name exists: `{meant}`")


def test_errors_come_out_of_a_worker_process_as_they_are() -> None:
    errors = (
        attnlang.CallError("q", "a tensor", "a list", help="make one"),
        attnlang.BuildError("no space", command="g++ a.cpp", log=Path("/tmp/log"), help="clear"),
    )
    for error in errors:
        twin = pickle.loads(pickle.dumps(error))
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.__dict__ == error.__dict__


def test_a_dtype_is_no_name(biased, qkv) -> None:
    with pytest.raises(attnlang.CallError, match="a floating dtype, found 'float64'"):
        biased.reference(*qkv, BIAS, dtype="float64")


def test_the_reference_takes_other_dtypes_and_makes_v_of_k(qkv) -> None:
    q, k, _ = (x.double() for x in qkv)
    variant = attnlang.loads("attention shared: v = k[0:8]")
    assert variant.reference(q, k).shape == (1, 4, 17, 8)


def test_the_reference_refuses_a_scale_that_the_spec_sets(qkv) -> None:
    variant = attnlang.loads("attention fixed: scale = 0.5")
    with pytest.raises(attnlang.CallError, match="the spec sets the scale by itself"):
        variant.reference(*qkv, scale=0.25)


def test_texts_that_hold_no_variant(tmp_path) -> None:
    with pytest.raises(attnlang.CallError, match="`text`: expected a string, found bytes"):
        attnlang.loads(b"attention a:")
    empty = tmp_path / "empty.attn"
    empty.write_text("")
    with pytest.raises(attnlang.CallError, match=r"expected a spec with an attention.*empty\.attn"):
        attnlang.load(empty)


def test_a_parameter_may_have_any_name_that_the_language_leaves_free(qkv) -> None:
    """Also those of Python's `self` and of the reference's own keywords."""
    variant = attnlang.loads(
        "attention a(self: float, rows: float, dtype: float = 1.0):\n"
        "    score = score * self * rows * dtype"
    )
    expected = attnlang.loads("attention b: score = score * 6")(*qkv)
    torch.testing.assert_close(variant(*qkv, self=2.0, rows=3.0), expected)
    torch.testing.assert_close(variant.reference(*qkv, 2.0, 3.0), expected)
    assert variant.tiles(*qkv, self=2.0, rows=3.0).visited == 4  # a tile a head
    with pytest.raises(attnlang.CallError, match="pass the parameter by position"):
        variant.reference(*qkv, self=2.0, rows=3.0)


def test_a_default_that_a_schema_cannot_write(qkv) -> None:
    variant = attnlang.loads(
        "attention a(low: float = -inf, high: float = inf, far: int = 3):\n"
        "    score = clamp(score, low, high)\n    mask = q_idx - kv_idx < far"
    )
    for given in ({}, {"high": 0.5}, {"low": -0.5, "far": 2}, {"high": torch.tensor(0.25)}):
        torch.testing.assert_close(variant(*qkv, **given), variant.reference(*qkv, **given))
    (grad,) = torch.autograd.grad(variant(qkv[0].requires_grad_(), *qkv[1:]).sum(), qkv[0])
    assert grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": torch.ones(3)}, r"`bias`: expected shape \[HQ = 4\], found shape \[3\]"),
        ({"bias": torch.ones(4, dtype=torch.int64)}, "`bias`: expected a float tensor"),
        ({"q": torch.ones(1, 3, 17, 16)}, "`q`: expected a multiple of k's 2 heads"),
        ({"v": torch.ones(1, 2, 5, 16)}, "`v`: expected k's heads and length"),
        ({"window": 0}, "`window`: expected `window > 0`, found window = 0"),
        ({"size": 3}, "`size`: expected `size >= KV`, found size = 3, KV = 17"),
    ],
)
def test_a_traced_call_is_checked_while_it_is_traced(qkv, change, message) -> None:
    """With the words of the eager call, inside the compiler's own error."""
    variant = attnlang.loads(
        SPEC.replace("window: int = 9", "window: int = 9, const size: int = 64").replace(
            " score", " require size >= KV\n score", 1
        )
        + " mask = mask and kv_idx < size\n"
    )
    call = {**dict(zip("qkv", qkv, strict=True)), "bias": BIAS}
    torch._dynamo.reset()
    compiled = torch.compile(lambda **kw: variant(**kw), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**call), variant(**call))
    torch._dynamo.reset()
    with pytest.raises(RuntimeError) as caught:
        compiled(**{**call, **change})
    told = str(caught.value).replace("\\'", "'")
    assert re.search(message, told), told
