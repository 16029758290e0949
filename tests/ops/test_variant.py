"""Variants as users call them: arguments, errors, ops, `torch.compile`."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from support import EXAMPLES, Sizes, assert_accurate, make_qkv

import attnlang
from attnlang.jit import build as build_module

SIZES = Sizes(2, 4, 2, 33, 33, 16, 16)
CAPPED = "attention capped(cap: float = 5.0, window: int = 9): score = soft_cap(score, cap) " + (
    "mask = sliding_window(window)"
)


@pytest.fixture(scope="module")
def capped() -> attnlang.Variant:
    return attnlang.loads(CAPPED)


@pytest.fixture
def qkv() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return make_qkv(SIZES, torch.float32, torch.Generator().manual_seed(0))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is built, or looked up in the cache, during a test."""
    from attnlang.ops import specialised

    names: list[str] = []

    def build(sources: object, **kwargs: object) -> Path:
        names.append(sources.name)
        return build_module.build(sources, **kwargs)

    monkeypatch.setattr(specialised, "build", build)
    return names


def test_signature_and_doc() -> None:
    variant = attnlang.load(EXAMPLES / "gemma2_local.attn")
    parameters = inspect.signature(variant).parameters
    assert list(parameters)[:5] == ["q", "k", "v", "cap", "window_size"]
    assert parameters["cap"].default == 50.0
    assert variant.__doc__ is not None
    assert "Gemma 2" in variant.__doc__
    assert "gemma2_local(q, k, v, cap=50.0" in repr(variant)


def test_position_name_and_default(capped, qkv) -> None:
    by_name = capped(*qkv, cap=3.0, window=5)
    assert torch.equal(capped(*qkv, 3.0, 5), by_name)
    assert torch.equal(capped(*qkv, 3.0, window=5), by_name)
    assert torch.equal(capped(*qkv), capped(*qkv, cap=5.0, window=9))


def test_no_rebuild_for_another_value_length_batch_or_stride(capped, qkv, builds) -> None:
    capped(*qkv)
    del builds[:]
    capped(*qkv, cap=2.5, window=100, scale=0.3, q_offset=7, kv_offset=3)
    g = torch.Generator().manual_seed(1)
    for sizes in (Sizes(1, 2, 1, 7, 90, 16, 16), Sizes(3, 6, 6, 1, 12, 16, 16)):
        for layout in ("bhsd", "bshd", "gap"):
            assert_accurate(capped, *make_qkv(sizes, torch.float32, g, layout=layout))
    assert builds == []


def test_offsets_and_lengths(capped) -> None:
    g = torch.Generator().manual_seed(2)
    sizes = Sizes(3, 2, 1, 20, 50, 16, 16)
    q, k, v = make_qkv(sizes, torch.float32, g)
    lens = torch.tensor([50, 0, 17])
    for call in (
        {"q_offset": 3},
        {"q_offset": torch.tensor([0, 30, -5]), "kv_offset": torch.tensor([4, 0, 9])},
        {"kv_lens": lens},
        {"kv_lens": lens.int(), "kv_offset": 100, "scale": 0.125},
        {"scale": torch.tensor(0.5)},
    ):
        assert_accurate(capped, q, k, v, **call)


def test_what_lies_past_a_length_has_no_effect(capped) -> None:
    q, k, v = make_qkv(Sizes(2, 2, 2, 10, 90, 16, 16), torch.float32, torch.Generator())
    lens = torch.tensor([40, 71])
    clean = capped(q, k, v, kv_lens=lens)
    for b, length in enumerate(lens.tolist()):
        k[b, :, length:] = torch.nan
        v[b, :, length:] = torch.inf
    assert torch.equal(capped(q, k, v, kv_lens=lens), clean)


@pytest.mark.parametrize(
    "shape",
    [(0, 2, 2, 5, 5), (2, 2, 2, 0, 5), (2, 2, 2, 5, 0), (1, 0, 0, 4, 4), (1, 2, 1, 1, 1)],
)
def test_empty_dimensions(capped, shape) -> None:
    sizes = Sizes(*shape, 16, 16)
    q, k, v = make_qkv(sizes, torch.float32, torch.Generator())
    out, lse = capped(q, k, v, return_lse=True)
    assert out.shape == q.shape
    assert lse.shape == q.shape[:3]
    if sizes.kv == 0:
        assert not out.any()
        assert torch.isneginf(lse).all()


def _wrong(q, k, v):
    """Calls that are wrong: arguments, keywords, the argument's name, a word of the message."""
    lens = torch.tensor([1, 2])
    return {
        "dtype": ((q.double(), k.double(), v.double()), {}, "q", "reference"),
        "mixed dtypes": ((q, k.bfloat16(), v), {}, "k", "float32"),
        "rank": ((q[0], k, v), {}, "q", "4 dimensions"),
        "batch": ((q, k[:1], v), {}, "k", "B = 2"),
        "heads": ((q[:, :3], k, v), {}, "q", "multiple"),
        "head dim": ((q, k[..., :8], v), {}, "k", "D = 16"),
        "lengths": ((q, k, v[:, :, :5]), {}, "v", "length"),
        "no tensor": ((q, None, v), {}, "k", "NoneType"),
        "no v": ((q, k), {}, "v", "nothing"),
        "unknown": ((q, k, v), {"windw": 3}, "windw", "`window`"),
        "twice": ((q, k, v, 3.0), {"cap": 3.0}, "cap", "two"),
        "too many": ((q, k, v, 3.0, 4, 5), {}, "parameters", "at most 2"),
        "kind": ((q, k, v), {"window": 2.5}, "window", "int"),
        "bool for int": ((q, k, v), {"window": True}, "window", "int"),
        "text": ((q, k, v), {"cap": "50"}, "cap", "float"),
        "0-d kind": ((q, k, v), {"window": torch.tensor(2.0)}, "window", "int"),
        "not 0-d": ((q, k, v), {"cap": torch.ones(2)}, "cap", "0-d"),
        "kv_lens dtype": ((q, k, v), {"kv_lens": lens.float()}, "kv_lens", "int32"),
        "kv_lens shape": ((q, k, v), {"kv_lens": lens[:1]}, "kv_lens", "B = 2"),
        "kv_lens number": ((q, k, v), {"kv_lens": 3}, "kv_lens", "tensor"),
        "offset": ((q, k, v), {"q_offset": 1.5}, "q_offset", "int"),
        "huge offset": ((q, k, v), {"q_offset": 2**31}, "q_offset", "2 ** 30"),
        "scale": ((q, k, v), {"scale": "big"}, "scale", "number"),
        "wide heads": ((q.repeat(1, 1, 1, 40),) * 3, {}, "q", "576"),
    }


@pytest.mark.parametrize("case", _wrong(*[torch.zeros(2, 2, 4, 16)] * 3))
def test_a_wrong_call_names_its_argument(capped, qkv, case) -> None:
    args, keywords, argument, word = _wrong(*qkv)[case]
    with pytest.raises(attnlang.CallError) as caught:
        capped(*args, **keywords)
    assert caught.value.argument == argument
    assert word in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


def test_tensor_parameters_are_checked(qkv) -> None:
    text = 'attention t(a: float[HQ, 2 * R + 1]): require R > 1, "too small" ' + (
        "score = score + a[h, clamp(kv_idx - q_idx + R, 0, 2 * R)]"
    )
    variant = attnlang.loads(text)
    cases = {
        "nothing": ({}, "nothing"),
        "even": ({"a": torch.ones(4, 6)}, "2 * R + 1"),
        "heads": ({"a": torch.ones(3, 7)}, "HQ = 4"),
        "rank": ({"a": torch.ones(7)}, "shape [7]"),
        "dtype": ({"a": torch.ones(4, 7, dtype=torch.int32)}, "int32"),
        "number": ({"a": 1.0}, "float"),
    }
    for keywords, word in cases.values():
        with pytest.raises(attnlang.CallError, match="`a`") as caught:
            variant(*qkv, **keywords)
        assert word in str(caught.value)
    with pytest.raises(attnlang.CallError, match="too small"):
        variant(*qkv, a=torch.ones(4, 3))
    variant(*qkv, a=torch.ones(4, 7))


def test_requires_and_scale_of_the_spec(qkv) -> None:
    variant = attnlang.loads(
        'attention s(w: int): require w > 0, "w counts the query" scale = 1.0 / D '
        "mask = sliding_window(w)"
    )
    with pytest.raises(attnlang.CallError, match="w counts the query"):
        variant(*qkv, w=0)
    variant(*qkv, w=torch.tensor(3))
    with pytest.raises(attnlang.CallError, match="sets the scale"):
        variant(*qkv, w=3, scale=0.1)


def test_a_size_of_a_const(qkv) -> None:
    variant = attnlang.loads(
        "attention t(const r: int, bias: float[HQ, 2 * r + 1]): "
        "score = score + bias[h, clamp(kv_idx - q_idx + r, 0, 2 * r)]"
    )
    assert_accurate(variant, *qkv, r=3, bias=torch.randn(4, 7))
    with pytest.raises(attnlang.CallError, match="= 9"):
        variant(*qkv, r=4, bias=torch.randn(4, 7))


def test_a_const_is_another_op(qkv, builds) -> None:
    variant = attnlang.loads("attention c(const w: int = 4): mask = sliding_window(w)")
    assert torch.equal(variant(*qkv), variant(*qkv, w=4))
    assert len(builds) == 2
    assert not torch.equal(variant(*qkv, w=8), variant(*qkv))
    assert len(builds) == 4


def test_loading(tmp_path: Path) -> None:
    file = tmp_path / "two.attn"
    file.write_text("attention first: mask = causal attention second:")
    assert list(attnlang.load_all(file)) == ["first", "second"]
    assert attnlang.load(file, "second").__name__ == "second"
    with pytest.raises(attnlang.CallError, match="first, second"):
        attnlang.load(file)
    with pytest.raises(attnlang.CallError, match="`first`"):
        attnlang.load(file, "frst")
    with pytest.raises(attnlang.SpecError, match="A101"):
        attnlang.loads("attention broken: mask = ")
    with pytest.raises(FileNotFoundError):
        attnlang.load(tmp_path / "none.attn")


def test_op(capped, qkv) -> None:
    op = capped.op
    assert op.namespace == "attnlang"
    assert op._opname.startswith("capped_")
    out, lse, _ = op(*qkv, return_lse=True)
    assert lse.shape == qkv[0].shape[:3]
    assert torch.equal(out, capped(*qkv))
    torch.library.opcheck(op, qkv, {"return_lse": True, "kv_lens": torch.tensor([9, 33])})
    assert attnlang.loads(CAPPED).op is op


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compile_cold_in_one_graph(qkv) -> None:
    # A name that no cache has: the build happens while tracing.
    variant = attnlang.loads(
        f"attention cold_{id(qkv)}(cap: float = 5.0, const w: int = 4): "
        "score = soft_cap(score, cap) mask = sliding_window(w)"
    )

    def model(q, k, v, cap):
        return variant(q * 2, k, v, cap=cap, w=6).sum(-1)

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    for cap in (3.0, 3.0):
        torch.testing.assert_close(compiled(*qkv, cap), model(*qkv, cap))


@pytest.mark.slow
def test_compile_dynamic_shapes_and_values(capped) -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda q, k, v, cap: capped(q, k, v, cap=cap), fullgraph=True, dynamic=True,
        backend=counter,
    )  # fmt: skip
    g = torch.Generator().manual_seed(3)
    frames = set()
    for length, cap in ((20, 2.0), (31, 3.0), (57, 4.0)):
        q, k, v = make_qkv(Sizes(2, 4, 2, length, length, 16, 16), torch.float32, g)
        wanted = capped(q, k, v, cap=cap)
        torch.testing.assert_close(compiled(q, k, v, torch.tensor(cap)), wanted)
        frames.add(counter.frame_count)
    assert len(frames) == 1, "another length or value compiled again"
