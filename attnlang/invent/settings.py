"""What a person fixed of a call that is otherwise invented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """0-d parameters, constants that fill tensors, sizes that tensors bind, and whole tensors."""

    scalars: Mapping[str, bool | int | float]
    fills: Mapping[str, bool | int | float]
    sizes: Mapping[str, int]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
