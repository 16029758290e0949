"""Masks of transformers as expressions: each sees exactly the keys of the tensor that sdpa gets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import masking_utils
from transformers.masking_utils import and_masks, causal_mask_function, or_masks

from attnlang.integrations.transformers import masks
from attnlang.integrations.transformers.forms import Form, spec, variant
from attnlang.integrations.transformers.symbolic_mask import SymbolicMask
from attnlang.integrations.transformers.terms import Untraceable, trace

pytestmark = pytest.mark.filterwarnings("ignore")

B, Q = 2, 13
SEQUENCES = torch.tensor([[0] * 5 + [1] * 8, [0] * 1 + [1] * 9 + [2] * 3])
POSITIONS = torch.tensor([[*range(5), *range(8)], [*range(1), *range(9), *range(3)]])
BLOCKS = torch.tensor([[-1, -1, 0, 0, 0, -1, 1, 1, -1, -1, -1, 2, 2], [0] * 4 + [-1] * 9])
LEFT = torch.ones(B, Q, dtype=torch.bool)
LEFT[1, :4] = False
RIGHT = LEFT.flip(1)

window = masking_utils.sliding_window_causal_mask_function
band = masking_utils.sliding_window_bidirectional_mask_function
packed = masking_utils.packed_sequence_mask_function(SEQUENCES)
blocks = masking_utils.blockwise_overlay(BLOCKS)


def chunk(left: int) -> Callable[..., object]:
    return masking_utils.chunked_causal_mask_function(5, torch.tensor([0, left]))


def users(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Nothing that transformers has: strided, and one tensor read by row alone."""
    return ((q - kv) % 3 == 0) & ~(BLOCKS[b, q] == 1) | (2 * kv <= q + 1)


MASKS = {
    "causal": causal_mask_function,
    "bidirectional": masking_utils.bidirectional_mask_function,
    "window": window(4),
    "band": band(3),
    "chunk": chunk(0),
    "chunk after padding": chunk(4),
    "packed": and_masks(causal_mask_function, packed),
    "packed window": and_masks(packed, window(4)),
    "packed chunk": and_masks(packed, chunk(0)),
    "blocks": or_masks(causal_mask_function, blocks),
    "blocks in a window": or_masks(window(3), blocks),
    "packed blocks": and_masks(or_masks(causal_mask_function, blocks), packed),
    "user": users,
}


def seen(mask: SymbolicMask) -> Tensor:
    """Return which keys each query sees, as the spec's reference has it: bool [B, Q, KV]."""
    q = torch.zeros(B, 1, mask.shape[2], 4, dtype=torch.float64)
    k = torch.zeros(B, 1, mask.shape[3], 4, dtype=torch.float64)
    v = torch.eye(mask.shape[3], dtype=torch.float64).expand(B, 1, -1, -1)
    said = mask.description
    form = Form(said.expression.text, said.expression.params)
    call = {"q_offset": said.q_offset, "kv_offset": said.kv_offset, **said.expression.values}
    out = variant(form).reference(q, k, v, **call)
    assert isinstance(out, Tensor)
    return out[:, 0] > 0


def both(mask_function: object, **call: object) -> tuple[SymbolicMask, Tensor]:
    arguments = {"batch_size": B, "q_length": Q, "kv_length": Q, "mask_function": mask_function}
    arguments |= call
    described = masks.mask(**arguments)
    assert isinstance(described, SymbolicMask)
    drawn = masking_utils.sdpa_mask(**arguments, allow_is_causal_skip=False)
    return described, drawn[:, 0]


@pytest.mark.parametrize("padding", [None, LEFT, RIGHT], ids=["whole", "left", "right"])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_sees_what_the_tensor_says(name: str, padding: Tensor | None) -> None:
    described, drawn = both(MASKS[name], attention_mask=padding)
    assert torch.equal(seen(described), drawn)
    assert "drawn" not in described.description.expression.text


@pytest.mark.parametrize(
    ("q_length", "kv_length", "q_offset", "kv_offset"),
    [(1, 13, 12, 0), (4, 13, 9, 0), (3, 20, 7, 0), (1, 4, 12, 9), (5, 8, 5, 2)],
)
@pytest.mark.parametrize("name", ["causal", "window", "chunk after padding", "blocks"])
def test_offsets_of_a_cache(
    name: str, q_length: int, kv_length: int, q_offset: int, kv_offset: int
) -> None:
    call = {"q_length": q_length, "kv_length": kv_length}
    call |= {"q_offset": torch.tensor(q_offset), "kv_offset": kv_offset}
    function = MASKS[name]
    if name == "blocks":
        ids = torch.nn.functional.pad(BLOCKS, (0, 7), value=-1)
        function = or_masks(causal_mask_function, masking_utils.blockwise_overlay(ids))
    described, drawn = both(function, attention_mask=LEFT, **call)
    assert torch.equal(seen(described), drawn)


@pytest.mark.skipif(
    not hasattr(masking_utils, "remap_positions_for_packed_sequence"),
    reason="this transformers does not count packed positions",
)
@pytest.mark.parametrize(
    ("inner", "text"),
    [
        (causal_mask_function, "(kv_idx <= q_idx)"),
        (window(4), "((kv_idx > (q_idx - n0)) and (kv_idx <= q_idx))"),
        (chunk(0), None),
    ],
)
def test_packed_positions_become_indices_where_that_is_the_same(
    inner: Callable[..., object], text: str | None
) -> None:
    remapped = masking_utils.remap_positions_for_packed_sequence(inner, POSITIONS)
    described, drawn = both(and_masks(remapped, packed))
    assert torch.equal(seen(described), drawn)
    if text is not None:
        assert text in described.description.expression.text
        assert len([p for p in described.description.expression.params if "[" in p]) == 1

    # Positions that jump within a sequence are no indices.
    jumping = POSITIONS.clone()
    jumping[0, 3:5] += 2
    remapped = masking_utils.remap_positions_for_packed_sequence(inner, jumping)
    described, drawn = both(and_masks(remapped, packed))
    assert torch.equal(seen(described), drawn)
    assert len([p for p in described.description.expression.params if "[" in p]) > 1


def test_a_sequence_in_two_pieces_keeps_its_positions() -> None:
    """Its positions go on after a gap: another mask than that of indices."""
    if not hasattr(masking_utils, "remap_positions_for_packed_sequence"):
        pytest.skip("this transformers does not count packed positions")
    ids = torch.tensor([[0] * 4 + [1] * 5 + [0] * 4] * B)
    positions = torch.tensor([[*range(4), *range(5), *range(4)]] * B)
    remapped = masking_utils.remap_positions_for_packed_sequence(window(3), positions)
    same = masking_utils.packed_sequence_mask_function(ids)
    described, drawn = both(and_masks(remapped, same))
    assert torch.equal(seen(described), drawn)


def branching(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return torch.where(q % 2 == 0, kv <= q, kv < 2)


def negative(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Reads from the end of the tensor, as torch does and no kernel."""
    return BLOCKS[b, kv - 1] >= 0


@pytest.mark.parametrize("function", [branching, negative])
def test_what_no_term_says_is_drawn(function: Callable[..., object]) -> None:
    with pytest.raises(Untraceable):
        trace(function, torch.device("cpu"))
    described, drawn = both(function, attention_mask=LEFT)
    assert described.description.expression.text == "drawn[b, q_row, kv_col]"
    assert torch.equal(seen(described), drawn)


def test_a_short_tensor_is_drawn_rather_than_clamped() -> None:
    short = and_masks(causal_mask_function, masking_utils.padding_mask_function(LEFT[:, :-1]))
    with pytest.raises((IndexError, RuntimeError)):
        both(short)


def test_another_window_is_the_same_spec() -> None:
    texts = {both(window(n))[0].description.expression.text for n in (2, 4, 7)}
    assert len(texts) == 1


def test_no_padding_is_no_parameter() -> None:
    described, _ = both(causal_mask_function, attention_mask=torch.ones(B, Q, dtype=torch.bool))
    assert described.description.expression.text == "(kv_idx <= q_idx)"


def test_who_calculates_with_a_mask_gets_the_tensor() -> None:
    described, drawn = both(window(4), attention_mask=LEFT)
    assert described.shape == (B, 1, Q, Q)
    assert described.dtype == torch.bool
    assert type(described[:, 0]) is Tensor
    assert torch.equal(described[:, 0], drawn)
    assert torch.equal(~described & True, ~drawn[:, None])
    assert torch.equal(torch.where(described, 1.0, 2.0)[:, 0], torch.where(drawn, 1.0, 2.0))
    assert described.to(torch.bool) is described
    moved = described.to("meta")
    assert isinstance(moved, SymbolicMask)
    assert moved.device.type == "meta"


def test_the_spec_of_a_full_form() -> None:
    form = Form("(kv_idx <= q_idx)", ("n0: int",), ("h, q_row, kv_col",), True, True, True)
    assert spec(form) == (
        "attention transformers_layer(n0: int, cap: float, bias0: float[HQ, Q, KV], "
        "sink: float[HQ], p: float):\n"
        "    score = soft_cap(score, cap)\n"
        "    score = score + bias0[h, q_row, kv_col]\n"
        "    mask = (kv_idx <= q_idx)\n"
        "    weights = softmax(score, sink=sink[h]) * dropout(p)\n"
    )
