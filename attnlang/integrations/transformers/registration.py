"""Making `attn_implementation="attnlang"` known to transformers, and switching models to it."""

from __future__ import annotations

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

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
    return CALLS


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
        handle.remove()
        if CALLS.total == before and model.config._attn_implementation == NAME:
            found = f"{name}, which ran without one call"
            raise CallError("model", expected, found, help="it computes its attention itself")

    handle = model.register_forward_hook(check)
    return model
