"""`--set name=value`: texts to values of a variant's parameters and bound sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from attnlang.cli.errors import InputError
from attnlang.invent.settings import Settings
from attnlang.ir.nodes import Kind, ScalarParam, TensorParam, Variant

_BOOLS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}


def parse_settings(variant: Variant, texts: Iterable[str]) -> Settings:
    """Read `name=value` texts against the header of a variant."""
    params = {p.name: p for p in variant.params}
    bound = {s.name for s in variant.sizes}
    scalars: dict[str, bool | int | float] = {}
    fills: dict[str, bool | int | float] = {}
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise InputError(f"--set: expected name=value, found {text}")
        match params.get(name):
            case ScalarParam(kind=kind):
                scalars[name] = _number(name, kind, value)
            case TensorParam(kind=kind):
                fills[name] = _number(name, kind, value)
            case None if name in bound:
                sizes[name] = int(_number(name, Kind.INT, value))
            case None:
                known = ", ".join([*params, *sorted(bound)]) or "none"
                raise InputError(f"--set: {variant.name} has no parameter {name}; it has: {known}")
    return Settings(scalars, fills, sizes)


def _number(name: str, kind: Kind, text: str) -> bool | int | float:
    try:
        match kind:
            case Kind.BOOL:
                return _BOOLS[text]
            case Kind.INT:
                return _whole(text)
            case Kind.FLOAT:
                return _real(text)
    except (ValueError, KeyError):
        raise InputError(f"--set: {name} is of kind {kind}, found {text}") from None


def _whole(text: str) -> int:
    """Read an int of 64 bits."""
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(text)
    return value


def _real(text: str) -> float:
    """Read a float; NaN is no value that a kernel could be held to."""
    value = float(text)
    if math.isnan(value):
        raise ValueError(text)
    return value


def settings_text(values: Mapping[str, bool | int | float]) -> str:
    """Write values as they are typed after `--set`."""
    return " ".join(
        f"--set {n}={str(v).lower() if isinstance(v, bool) else v}" for n, v in values.items()
    )
