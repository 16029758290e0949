"""Making `attn_implementation="attnlang"` known to transformers, and switching models to it."""

from __future__ import annotations

from functools import wraps

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from attnlang.integrations.transformers import continuous
from attnlang.integrations.transformers.attention import attention
from attnlang.integrations.transformers.calls import CALLS, Calls
from attnlang.integrations.transformers.masks import mask
from attnlang.ops.errors import CallError

NAME = "attnlang"


def register() -> Calls:
    """Register attention and mask function; returns the counter of calls.

    Both are needed: without a mask function transformers passes no mask at all, and padding,
    windows and packed sequences are silently gone. Once is enough, and again does no harm.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
    _join_continuous_batching()
    return CALLS


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend in a step of continuous batching; raises CallError elsewhere, where masks are lost."""
    if not continuous.is_step(kwargs):
        expected = f"{NAME}, outside of continuous batching"
        raise CallError("attn_implementation", expected, f"paged|{NAME}")
    return attention(module, query, key, value, mask, **kwargs)  # type: ignore[arg-type]


def _join_continuous_batching() -> None:
    """Let `generate_batch` keep attnlang; it takes no names but its own."""
    if "paged|sdpa" in AttentionInterface._global_mapping:  # up to 5.17 a name of its own will do
        AttentionInterface.register(f"paged|{NAME}", paged_attention)
        return
    from transformers.generation.continuous_batching import continuous_api

    manager = continuous_api.ContinuousBatchingManager
    original = manager.switch_to_cb_friendly_attn
    if getattr(original, "knows_attnlang", False):
        return

    @wraps(original)
    def switch(self: object, model: PreTrainedModel, *args: object, **kwargs: object) -> None:
        if model.config._attn_implementation != NAME:
            original(self, model, *args, **kwargs)

    switch.knows_attnlang = True  # type: ignore[attr-defined]
    manager.switch_to_cb_friendly_attn = switch


def use(model: PreTrainedModel) -> PreTrainedModel:
    """Switch a model to attnlang, registering it where needed; returns the model.

    Raises CallError for a model that cannot be switched, of which transformers only warns, and at
    the model's first forward pass where none of its layers called attnlang.
    """
    register()
    expected = "a model whose layers look their attention function up"
    name = type(model).__name__
    if not model._can_set_attn_implementation():
        raise CallError("model", expected, f"{name}, which has its own")
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise CallError(
            "model", expected, f"{name}, which kept {model.config._attn_implementation}"
        )
    before = CALLS.total

    def check(*_: object) -> None:
        if torch.compiler.is_compiling():  # a graph counts nothing: the first eager pass will tell
            return
        handle.remove()
        if CALLS.total == before and model.config._attn_implementation == NAME:
            found = f"{name}, which ran without one call"
            raise CallError("model", expected, found, help="it computes its attention itself")

    handle = model.register_forward_hook(check)
    return model
