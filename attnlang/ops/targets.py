"""Which kernels tensors of a device run: the CPU's, those of a GPU's capability, or emulated ones.

Maps a device to a `Runs`. Invariant: the codes are those of `attnlang::op::KernelKey`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from attnlang.jit.units import Target
from attnlang.ops.errors import CallError
from attnlang.options import emulated_target, emulation_text
from attnlang.plan.kernel_key import PAGES

_EMULATED = 1000
_PAGES = dict(zip((torch.float8_e4m3fn, torch.float8_e5m2), PAGES, strict=True))
_OLDEST = (8, 0)


@dataclass(frozen=True, slots=True)
class Runs:
    """What kernels are built for."""

    target: Target
    emulated: bool = False

    @property
    def code(self) -> int:
        """The number by which the op's binding knows it."""
        return self.target.code + (_EMULATED if self.emulated else 0)


CPU = Runs(Target.CPU)


_epoch: list[tuple[int, str]] = [(0, emulation_text())]


def emulation_epoch() -> int:
    """Return a number that grows whenever what CPU tensors run has changed since the last call."""
    number, before = _epoch[0]
    now = emulation_text()
    if now != before:
        emulated_target()  # is refused where it is no target
        number += 1
        _epoch[0] = (number, now)
    return number


def runs_on(device: torch.device) -> Runs:
    """Return what tensors of a device run. Raises CallError for a GPU that is too old."""
    if device.type == "cuda":
        return _of_gpu(torch.cuda.current_device() if device.index is None else device.index)
    emulated = emulated_target()
    return CPU if emulated is None else Runs(Target(emulated), emulated=True)


@cache
def _of_gpu(index: int) -> Runs:
    capability = torch.cuda.get_device_capability(index)
    if capability < _OLDEST:
        name = torch.cuda.get_device_name(index)
        raise CallError("q", "a GPU of compute capability 8.0 or later", f"one on {name}")
    return Runs(Target.SM90 if capability == (9, 0) else Target.SM80)


def pages_of(keys: Tensor | None, runs: Runs) -> str:
    """Return what the kernel of a packed call is built for: 8-bit floats in `keys`, on a GPU."""
    if keys is None or runs.target is Target.CPU:
        return ""
    return _PAGES.get(keys.dtype, "")


def binding_device(device: torch.device) -> int:
    """Return the number by which the op's binding knows a device: a GPU's index, else -1."""
    if device.type != "cuda":
        return -1
    return torch.cuda.current_device() if device.index is None else device.index


def check_dtype(q: Tensor) -> Runs:
    """Check that a kernel for q's device takes its dtype, and return what runs."""
    runs = runs_on(q.device)
    if runs.target is not Target.CPU and q.dtype == torch.float32:
        where = "the emulator" if runs.emulated else "a GPU"
        raise CallError("q", f"bfloat16 or float16 on {where}", "float32")
    return runs
