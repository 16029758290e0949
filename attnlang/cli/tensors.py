"""Tensors in files: `--input` and `--output`, in the safetensors format.

From a file to a call's arguments by name, and from results to a file that is there whole or not at
all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.outputs import write_whole
from attnlang.emit.op_schema import takes_v
from attnlang.invent.inputs import Call
from attnlang.invent.settings import Settings
from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir.nodes import Kind, ScalarParam, Variant

_VECTORS = ("q", "k", "v")


def not_finite(call: Call) -> tuple[str, ...]:
    """Name the tensors of a call that hold NaN or infinities."""
    vectors: dict[str, ParamValue] = {"q": call.q, "k": call.k, "v": call.v}
    return tuple(
        name
        for name, x in {**vectors, **call.params}.items()
        if isinstance(x, Tensor) and x.is_floating_point() and not x.isfinite().all()
    )


def read_call(path: Path, variant: Variant, settings: Settings) -> Call:
    """Read a call's tensors: q, k, v and parameters by name; `--set` values win over the file's."""
    tensors = _load(path)
    needed = _VECTORS if takes_v(variant) else _VECTORS[:2]
    missing = [n for n in needed if n not in tensors]
    if missing:
        raise InputError(f"{path} has no {missing[0]}; it has: {', '.join(tensors) or 'nothing'}")
    names = [p.name for p in variant.params]
    unknown = [n for n in tensors if n not in names and n not in _VECTORS]
    if unknown:
        console.labelled("warning", f"{path}: {', '.join(unknown)} not used by {variant.name}")
    q, k, v = (tensors[n] for n in (*needed, "k")[:3])
    params = {p.name: _param(path, variant, p.name, tensors, settings) for p in variant.params}
    return Call(_shape(path, q, k, v), q, k, v, params)


def _load(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        raise InputError(f"--input: {path} is a folder")
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None


def _shape(path: Path, q: Tensor, k: Tensor, v: Tensor) -> Shape:
    for name, tensor in zip(_VECTORS, (q, k, v), strict=True):
        if tensor.ndim != 4:
            raise InputError(f"{path}: {name} must be [B, H, length, D], found {[*tensor.shape]}")
    b, hq, q_len, d = q.shape
    return Shape(b, hq, k.shape[1], q_len, k.shape[2], d, v.shape[3])


def _param(
    path: Path, variant: Variant, name: str, tensors: Mapping[str, Tensor], settings: Settings
) -> ParamValue:
    (param,) = (p for p in variant.params if p.name == name)
    if name in settings.fills:
        raise InputError(f"--set {name}: with --input, pass the tensor in the file")
    if name in settings.scalars:
        return settings.scalars[name]
    tensor = tensors.get(name)
    if isinstance(param, ScalarParam):
        if tensor is None:
            if param.default is None:
                raise InputError(f"{path} has no {name}, which has no default; or --set {name}=...")
            return param.default
        return _number(path, param, tensor)
    if tensor is None and not param.optional:
        raise InputError(f"{path} has no {name}, which {variant.name} needs")
    return tensor


def _number(path: Path, param: ScalarParam, tensor: Tensor) -> bool | int | float:
    """Return a 0-d parameter as a number; safetensors writers often give it one axis of 1."""
    kinds = {Kind.BOOL: (bool,), Kind.INT: (int,), Kind.FLOAT: (float, int)}
    value = tensor.item() if tensor.numel() == 1 else None
    if isinstance(value, bool) != (param.kind is Kind.BOOL) or not isinstance(
        value, kinds[param.kind]
    ):
        found = f"{str(tensor.dtype).removeprefix('torch.')} {[*tensor.shape]}"
        raise InputError(f"{path}: {param.name} must be one {param.kind}, found {found}")
    assert value is not None, "an isinstance above says so"
    return float(value) if param.kind is Kind.FLOAT else value


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file, whole or not at all."""

    def write(temporary: Path) -> None:
        try:
            save_file({n: t.contiguous() for n, t in tensors.items()}, temporary)
        except SafetensorError as error:  # a full disk comes as this
            raise InputError(f"cannot write {path}: {error}") from None

    write_whole(path, write)
