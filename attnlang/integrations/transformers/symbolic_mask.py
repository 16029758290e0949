"""A mask that layers hand around as a tensor, and that no memory holds.

To transformers a `SymbolicMask` is a bool tensor [B, 1, Q, KV], True where a query sees a key:
caches that make their masks ahead pass it in again, and models ask for its shape. Attention reads
what it says instead. Whatever else calculates with it gets the tensor, drawn there and then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True)
class Expression:
    """A mask in the language: its text, the parameters that it reads, and their values."""

    text: str
    params: tuple[str, ...]
    values: Mapping[str, int | Tensor] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Description:
    """What a symbolic mask says; queries stand at q_offset and on, keys at kv_offset and on.

    `model` is the type of the model that asked, `draw` makes the tensor.
    """

    model: str | None
    expression: Expression
    q_offset: int
    kv_offset: int
    draw: Callable[[], Tensor]


class SymbolicMask(Tensor):
    """A bool [B, 1, Q, KV] tensor without memory."""

    description: Description

    @staticmethod
    def __new__(
        cls: type[SymbolicMask], size: Sequence[int], device: torch.device, description: Description
    ) -> SymbolicMask:
        """Describe a mask of a size, on a device."""
        made: SymbolicMask = Tensor._make_wrapper_subclass(
            cls, size, dtype=torch.bool, device=device
        )
        made.description = description
        return made

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        """Say what it says; nothing is drawn."""
        return f"SymbolicMask({self.description.expression.text}, shape={tuple(self.shape)})"

    # Metadata comes from the tensor itself; every operation arrives below.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        function: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operation on the drawn tensor. A move to another device stays a description."""
        named = dict(kwargs or {})
        mask = args[0] if args else None
        copies = function is torch.ops.aten._to_copy.default
        if (
            copies
            and isinstance(mask, SymbolicMask)
            and named.get("dtype", torch.bool) is torch.bool
        ):
            device = torch.device(str(named.get("device") or mask.device))
            return SymbolicMask(mask.shape, device, mask.description)

        def drawn(x: object) -> object:
            return x.description.draw() if isinstance(x, SymbolicMask) else x

        return function(*pytree.tree_map(drawn, args), **pytree.tree_map(drawn, named))
