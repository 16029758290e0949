"""The attention function that transformers calls for every layer.

Maps the arguments of transformers' attention interface to a call of the variant that says the same.
What a layer asks for and no spec says is a CallError that names the argument and the layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from attnlang.integrations.transformers import continuous
from attnlang.integrations.transformers.calls import CALLS
from attnlang.integrations.transformers.forms import Asked, form_of, sizes, variant
from attnlang.integrations.transformers.masks import CAUSAL, EVERYTHING
from attnlang.integrations.transformers.symbolic_mask import Expression, SymbolicMask
from attnlang.ops.errors import CallError

# What a layer may pass that changes which keys a query sees, or how, in a way that no form has.
_UNKNOWN_TO_FORMS = ("indices", "block_indices", "sinks", "head_mask")
_AXES = ("b", "h", "q_row", "kv_col")
_HEAD_DIM_STEP = 16  # of the CUDA kernels


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attend; query [B, HQ, Q, D], key [B, HKV, KV, D], value [B, HKV, KV, DV] -> [B, Q, HQ, DV].

    Raises CallError for what cannot be computed, naming the layer in a note.
    """
    try:
        refuse(others)
        if continuous.is_step(others):
            if position_bias is not None or is_causal is False:
                name = "is_causal" if position_bias is None else "position_bias"
                raise CallError(name, "nothing else than causal, in continuous batching", "it")
            asked = Asked(softcap, s_aux, dropout)
            attended = continuous.attend(
                module, query, key, value, asked, sliding_window, scaling, others
            )
            _count(module, None)
            return attended, None
        seen, biases = _mask(module, query, key, attention_mask, is_causal, sliding_window)
        if position_bias is not None:
            biases.insert(0, _aligned("position_bias", position_bias, query, key))
        asked = Asked(softcap, s_aux, dropout, tuple(biases))
        out = _attend(query, key, value, seen, asked, attention_mask, scaling)
    except CallError as error:
        error.add_note(f'in {describe(module)}, with attn_implementation="attnlang"')
        raise
    _count(module, attention_mask)
    return out.transpose(1, 2).contiguous(), None


def refuse(others: Mapping[str, object]) -> None:
    """Refuse arguments that mean something and that no form has; the rest concerns other layers."""
    for name in _UNKNOWN_TO_FORMS:
        if others.get(name) is not None:
            raise CallError(name, "nothing: no spec says what it means", "a value")
    if others.get("output_attentions"):
        raise CallError(
            "output_attentions",
            "False: the weights are never in memory",
            "True",
            help='attn_implementation="eager" has them',
        )


def describe(module: torch.nn.Module) -> str:
    """Name a layer for a message."""
    layer = getattr(module, "layer_idx", None)
    model = getattr(getattr(module, "config", None), "model_type", None)
    where = ", ".join(
        [f"layer {layer}"] * (layer is not None) + [f"model type {model}"] * (model is not None)
    )
    return f"{type(module).__name__} ({where})" if where else type(module).__name__


def _count(module: torch.nn.Module, mask: object) -> None:
    if not torch.compiler.is_compiling():
        model = mask.description.model if isinstance(mask, SymbolicMask) else None
        CALLS.attended(type(module).__name__, model)


Biases = list[tuple[str, Tensor]]


def _mask(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    is_causal: bool | None,
    sliding_window: int | None,
) -> tuple[Expression, Biases]:
    """Return which keys are seen, and what is added to the scores."""
    q_len, kv_len = query.shape[2], key.shape[2]
    match mask:
        case SymbolicMask():
            if tuple(mask.shape[2:]) != (q_len, kv_len):
                expected = f"{mask.shape[2]} queries and {mask.shape[3]} keys, as its mask has"
                raise CallError("key", expected, f"{q_len} and {kv_len}")
            return mask.description.expression, []
        case Tensor(dtype=torch.bool):
            axes, seen = _aligned("attention_mask", mask, query, key)
            text, param = f"drawn[{axes}]", f"drawn: bool[{sizes(axes)}]"
            return Expression(text, (param,), {"drawn": seen}), []
        case Tensor():
            if not mask.is_floating_point():
                raise CallError("attention_mask", "bool or float, of 4 dimensions", str(mask.dtype))
            return EVERYTHING, [_aligned("attention_mask", mask, query, key)]
        case None:
            causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
            if sliding_window is not None and kv_len > sliding_window:
                raise CallError("attention_mask", "a mask with the sliding window", "None")
            if not causal or q_len == 1:
                return EVERYTHING, []
            if q_len != kv_len:
                expected = "a mask, for a causal layer with other keys than queries"
                raise CallError("attention_mask", expected, "None")
            return CAUSAL, []
    raise CallError("attention_mask", "a tensor or None", type(mask).__name__)


def _aligned(name: str, tensor: Tensor, query: Tensor, key: Tensor) -> tuple[str, Tensor]:
    """Return the axes along which a tensor differs, and the tensor with these axes only."""
    full = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    if tensor.dim() != 4:
        raise CallError(name, "4 dimensions [B, HQ, Q, KV]", str(tuple(tensor.shape)))
    index: list[int | slice] = []
    axes: list[str] = []
    for axis, size, whole in zip(_AXES, tensor.shape, full, strict=True):
        if size == whole:
            index.append(slice(None))
            axes.append(axis)
        elif size == 1:
            index.append(0)
        else:
            raise CallError(name, f"a shape that broadcasts to {full}", str(tuple(tensor.shape)))
    if not axes:
        return _AXES[3], tensor[0, 0, 0].expand(full[3])
    return ", ".join(axes), tensor[tuple(index)]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Expression,
    asked: Asked,
    mask: Tensor | None,
    scaling: float | Tensor | None,
) -> Tensor:
    """Call the variant; returns [B, HQ, Q, DV]."""
    form, values = form_of(seen, asked, query.shape[1])
    q_offset, kv_offset = None, 0
    if isinstance(mask, SymbolicMask):
        q_offset, kv_offset = mask.description.q_offset, mask.description.kv_offset
        values = {n: x.to(query.device) if isinstance(x, Tensor) else x for n, x in values.items()}
    value_head = value.shape[3]
    if scaling is None:
        scaling = 1 / math.sqrt(query.shape[3])
    if query.device.type == "cuda":  # zeros add nothing to a dot product
        query, key, value = (_filled(x) for x in (query, key, value))
    out: Tensor = variant(form)(  # type: ignore[assignment]
        query, key, value, scale=scaling, q_offset=q_offset, kv_offset=kv_offset,
        **values,  # type: ignore[arg-type]
    )  # fmt: skip
    return out[..., :value_head]


def _filled(x: Tensor) -> Tensor:
    """Fill the head dimension up with zeros to what CUDA kernels take."""
    missing = -x.shape[3] % _HEAD_DIM_STEP
    return functional.pad(x, (0, missing)) if missing else x
