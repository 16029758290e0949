"""Counting calls: what tells a model that runs through attnlang from one that ignores it."""

from __future__ import annotations

from collections import Counter
from threading import Lock

from attnlang.ops.errors import CallError

_PATIENCE = 32  # masks; a model asks for at most one per kind of layer and stack before it attends


class Calls:
    """How often which class of layer called attention, and which models only asked for masks."""

    def __init__(self) -> None:
        self.by_layer: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def total(self) -> int:
        """The calls so far, of all models."""
        return self.by_layer.total()

    def attended(self, layer: str, model: str | None) -> None:
        """Count a call of a layer's class; `model` is the type that its mask was made for."""
        with self._lock:
            self.by_layer[layer] += 1
            if model is not None:
                self._waiting.pop(model, None)

    def mask_made(self, model: str) -> None:
        """Count a mask. Raises CallError for a model that makes masks and never attends."""
        with self._lock:
            self._waiting[model] += 1
            if self._waiting[model] > _PATIENCE:
                self._waiting.pop(model)
                raise CallError(
                    "attn_implementation",
                    "a model whose layers look their attention function up",
                    f"{model}, which asked for {_PATIENCE} masks and never attended",
                )


CALLS = Calls()
