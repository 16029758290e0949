"""Arguments and options that several commands have: their declarations, and texts to values."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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


def add_files(parser: ArgumentParser) -> None:
    """Declare `FILE...`, and what imports may read."""
    parser.add_argument(
        "files", nargs="+", type=a_path, metavar="FILE", help="a spec, or a folder of them"
    )
    add_include(parser)


def add_file_and_name(parser: ArgumentParser) -> None:
    """Declare `FILE [NAME]`, and what imports may read."""
    parser.add_argument("file", type=a_path, metavar="FILE", help="a spec")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the variant, where the file has several"
    )
    add_include(parser)


def add_include(parser: ArgumentParser) -> None:
    """Declare `--include`, which may be given several times."""
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="a further folder that imports may read",
    )


def add_set(parser: ArgumentParser) -> None:
    """Declare `--set`, which may be given several times."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter, or a size that a tensor binds",
    )


def add_choice(
    parser: ArgumentParser, name: str, choices: type[StrEnum], default: StrEnum, help: str
) -> None:
    """Declare an option with a few values; argparse gives the text, the command the member."""
    parser.add_argument(
        name,
        choices=[c.value for c in choices],
        default=default.value,
        help=f"{help} (default: {default.value})",
    )


def a_path(text: str) -> Path:
    """Read a path; the empty text, to `Path` the current folder, is a variable without a value."""
    if not text:
        raise ArgumentTypeError("expected a path, found nothing")
    return Path(text)


def positive(text: str) -> int:
    """Read a number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a number from 1, found {text}")
    return int(text)
