"""Whole models of transformers: logits, gradients and greedy tokens equal those of eager attention.

Weights are random and small. What a padded position computes is nobody's, so it is not compared.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers_families import FAMILIES, LENGTH, REFUSED, Family

import attnlang
from attnlang.integrations.transformers import CALLS, NAME, register, use

pytestmark = pytest.mark.filterwarnings("ignore")

QUICK = ("llama", "gpt_oss")  # plain and windowed layers, masks, a sink


@pytest.fixture(autouse=True)
def registered() -> None:
    register()


def families(*quick: str, kinds: tuple[str, ...] = ()) -> list[object]:
    names = [n for n, f in FAMILIES.items() if not kinds or f.kind in kinds]
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def some(*slow: str) -> list[object]:
    return ["llama", *(pytest.param(n, marks=pytest.mark.slow) for n in slow)]


def assert_close(got: Tensor, want: Tensor, scale: float) -> None:
    """Float32 through a few layers: rounding, in units of what is compared."""
    worst = (got - want).abs().max().item()
    assert worst <= 2e-5 * max(scale, 1e-30), f"{worst:.3g} beside {scale:.3g}"


@pytest.mark.parametrize("name", families(*QUICK))
def test_a_family_computes_what_eager_attention_does(name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build(), family.inputs()
    batches = [inputs]
    if family.pads:
        batches.append({n: x for n, x in inputs.items() if n != "attention_mask"})
    want = [family.outputs(model, batch).detach() for batch in batches]
    gradients = family.gradients(model, inputs)
    generates = family.kind in ("text", "pair", "audio")
    tokens = family.tokens(model, inputs) if generates else None

    use(model)
    before = CALLS.total
    for batch, expected in zip(batches, want, strict=True):
        got = family.outputs(model, batch)
        assert_close(got, expected, expected.abs().max().item())
    assert CALLS.total >= before + 2 * len(batches), "fewer calls than layers"
    found = family.gradients(model, inputs)
    assert found.keys() == gradients.keys()
    largest = max(g.abs().max().item() for g in gradients.values())
    for parameter, expected in gradients.items():
        scale = max(expected.abs().max().item(), 0.05 * largest)
        assert_close(found[parameter], expected, scale)
    if tokens is not None:
        assert torch.equal(family.tokens(model, inputs), tokens)


@pytest.mark.parametrize("name", families("llama", kinds=("text",)))
def test_packed_sequences(name: str) -> None:
    """Two sequences in a row of the batch, known by their positions alone."""
    family = FAMILIES[name]
    model, tokens = family.build(), family.inputs()["input_ids"]
    if name in ("gpt2", "opt", "gpt_neox"):
        pytest.skip("positions of this model are not those of packed sequences")
    positions = torch.cat([torch.arange(10), torch.arange(LENGTH - 10)]).expand(2, -1)
    want = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
    plain = model(input_ids=tokens, use_cache=False).logits
    assert not torch.allclose(want, plain, atol=1e-2), "packing changes nothing here"
    got = use(model)(input_ids=tokens, position_ids=positions, use_cache=False).logits
    assert_close(got, want, want.abs().max().item())


@pytest.mark.parametrize("name", some("gemma2", "gpt_oss", "llama4"))
def test_a_static_cache(name: str) -> None:
    """Its masks are made ahead, and its keys go on past the sequence."""
    family = FAMILIES[name]
    model, inputs = family.build(), family.inputs()
    want = family.tokens(model, inputs, cache_implementation="static")
    got = family.tokens(use(model), inputs, cache_implementation="static")
    assert torch.equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt_oss", "gemma2"])
def test_bfloat16_is_as_close_to_float32_as_eager_is(name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.build(), family.inputs()
    exact = family.outputs(model, inputs)
    model.to(torch.bfloat16)
    eager = (family.outputs(model, inputs).float() - exact).abs()
    ours = (family.outputs(use(model), inputs).float() - exact).abs()
    assert ours.mean() <= 1.25 * eager.mean()
    assert ours.max() <= 2 * eager.max()


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_switch_is_refused(name: str) -> None:
    with pytest.raises(attnlang.CallError, match="which has its own"):
        use(REFUSED[name].build())


def test_a_model_that_ignores_its_attention_function_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.models.llama import modeling_llama as llama

    family: Family = FAMILIES["llama"]
    stubborn = lambda self, name, default: llama.eager_attention_forward  # noqa: E731
    model = use(family.build())
    monkeypatch.setattr(type(llama.ALL_ATTENTION_FUNCTIONS), "get_interface", stubborn)
    with pytest.raises(attnlang.CallError, match="LlamaForCausalLM, which ran without one call"):
        model(input_ids=family.inputs()["input_ids"])
    # Without `use`, after some masks that nobody read.
    assert model.config._attn_implementation == NAME
    for _ in range(31):
        model(input_ids=family.inputs()["input_ids"])
    with pytest.raises(attnlang.CallError, match="llama, which asked for 32 masks"):
        model(input_ids=family.inputs()["input_ids"])
