"""The attention function by itself: what it refuses, and masks that models bring along."""

from __future__ import annotations

import pytest
import torch
from support import sample
from torch import Tensor, nn
from transformers_families import FAMILIES

import attnlang
from attnlang.integrations.transformers import masks, use
from attnlang.integrations.transformers.attention import attention

pytestmark = pytest.mark.filterwarnings("ignore")


class Layer(nn.Module):
    """What a layer of a model shows of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_idx, self.is_causal = 3, True


def qkv(q_len: int = 9, kv_len: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, q_len, 16, generator=g)
    k, v = (torch.randn(2, 2, kv_len, 16, generator=g) for _ in range(2))
    return q, k, v


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("output_attentions", True),
        ("indices", torch.zeros(2, 9, 4, dtype=torch.int64)),
        ("block_indices", torch.zeros(2, 9, 4, dtype=torch.int64)),
        ("sinks", torch.zeros(4)),
        ("s_aux", torch.zeros(3)),
        ("position_bias", torch.zeros(4, 9, 9)),
        ("position_bias", torch.zeros(1, 4, 9, 8)),
        ("attention_mask", torch.zeros(2, 9)),
        ("attention_mask", torch.ones(2, 1, 9, 9, dtype=torch.int64)),
        ("attention_mask", torch.ones(2, 1, 9, 8, dtype=torch.bool)),
        ("attention_mask", "flash"),
    ],
)
def test_what_no_spec_says_is_refused_by_name(argument: str, value: object) -> None:
    call = {"attention_mask": None, argument: value}
    with pytest.raises(attnlang.CallError, match=f"`{argument}`") as caught:
        attention(Layer(), *qkv(), **call)
    assert "Layer (layer 3)" in caught.value.__notes__[0]


def test_other_lengths_than_those_of_the_mask_are_refused() -> None:
    described = masks.mask(2, 9, 9)
    with pytest.raises(attnlang.CallError, match="9 queries and 9 keys, as its mask has"):
        attention(Layer(), *qkv(9, 12), described)


def test_a_causal_layer_without_a_mask_needs_as_many_keys_as_queries() -> None:
    with pytest.raises(attnlang.CallError, match="a causal layer with other keys"):
        attention(Layer(), *qkv(9, 12), None)


def test_a_lost_window_is_noticed() -> None:
    with pytest.raises(attnlang.CallError, match="a mask with the sliding window"):
        attention(Layer(), *qkv(), None, sliding_window=4)


def test_the_dtype_of_a_model_is_named() -> None:
    with pytest.raises(attnlang.CallError, match="`q`: expected float32") as caught:
        attention(Layer(), *(x.double() for x in qkv()), None)
    assert "Layer (layer 3)" in caught.value.__notes__[0]


def eager(q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float) -> Tensor:
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    weights = (q @ k.transpose(-1, -2) * scale + added).softmax(-1)
    return (weights @ v).transpose(1, 2)


SHAPES = ((2, 1, 9, 12), (1, 4, 9, 12), (1, 1, 9, 12), (2, 1, 1, 12))


@pytest.mark.parametrize("shape", sample(SHAPES, *SHAPES[:2]), ids=str)
def test_masks_of_four_dimensions(shape: tuple[int, ...]) -> None:
    q, k, v = qkv(9, 12)
    g = torch.Generator().manual_seed(1)
    keep = torch.rand(shape, generator=g) < 0.7
    keep[..., 0] = True  # eager attention makes a mean of a row without keys
    added = torch.zeros(shape).masked_fill(~keep, torch.finfo(torch.float32).min)
    want = eager(q, k, v, added, 0.3)
    for mask in (keep, added, added.clamp(min=-torch.inf)):
        out, _ = attention(Layer(), q, k, v, mask, scaling=0.3)
        assert out.is_contiguous()
        torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)


def test_no_mask_is_causal_as_the_layer_says() -> None:
    q, k, v = qkv()
    hidden = torch.full((9, 9), -torch.inf).triu(1)
    causal, everything = eager(q, k, v, hidden, 0.25), eager(q, k, v, torch.zeros(9, 9), 0.25)
    for said, want in ((None, causal), (True, causal), (False, everything)):
        out, _ = attention(Layer(), q, k, v, None, is_causal=said)
        torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)
    out, _ = attention(Layer(), q[:, :, -1:], k, v, None)
    torch.testing.assert_close(out, causal[:, -1:], rtol=1e-5, atol=1e-5)


def test_a_head_dimension_of_no_tile_and_values_of_another() -> None:
    q, k, v = qkv()
    q, k, v = q[..., :13], k[..., :13], v[..., :7]
    out, _ = attention(Layer(), q, k, v, None, is_causal=False)
    torch.testing.assert_close(out, eager(q, k, v, torch.zeros(9, 9), 13**-0.5))


@pytest.mark.slow
def test_dropout_in_training_keeps_the_mean() -> None:
    q, k, v = qkv()
    want = eager(q, k, v, torch.zeros(9, 9), 0.25)
    torch.manual_seed(0)
    outs = [attention(Layer(), q, k, v, None, dropout=0.5, is_causal=False)[0] for _ in range(400)]
    assert (outs[0] - outs[1]).abs().max() > 0.1
    stacked = torch.stack(outs)
    error = stacked.mean(0) - want
    assert error.abs().mean() < 2 * (stacked.std(0) / 20).mean()


@pytest.mark.slow
@pytest.mark.parametrize("padded", [True, False])
def test_a_compiled_model_stays_one_graph(padded: bool) -> None:
    family = FAMILIES["llama"]
    model, inputs = family.build(), family.inputs()
    if not padded:
        del inputs["attention_mask"]
    want = family.outputs(model, inputs).detach()
    compiled = torch.compile(use(model), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        got = family.outputs(compiled, inputs)
    assert (got - want).abs().max() <= 2e-5 * want.abs().max()
