"""Options that several commands have: their types, and texts to values."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

File = Annotated[Path, typer.Argument(help="A spec.")]
Name = Annotated[str | None, typer.Argument(help="The variant; needed where the file has several.")]
Include = Annotated[
    list[Path] | None, typer.Option("--include", help="A further folder that imports may read.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A parameter, or a size that a tensor binds."),
]


class DType(StrEnum):
    """The dtype of q, k and v."""

    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"


def torch_dtype(dtype: DType) -> torch.dtype:
    """Return torch's dtype."""
    import torch

    return {
        DType.F32: torch.float32,
        DType.BF16: torch.bfloat16,
        DType.F16: torch.float16,
    }[dtype]
