"""Where commands run kernels: the CPU, this machine's GPU, or the emulator.

Maps `--target` and the machine to `Place`s. A GPU's kernels run on the GPU where it has one of the
target, and otherwise, if ATTNLANG_EMULATE is set, on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnlang.cli.errors import InputError
from attnlang.invent.inputs import Call
from attnlang.invent.shape import ParamValue
from attnlang.jit.units import Target
from attnlang.ops.targets import runs_on
from attnlang.options import emulated_target, emulating


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call runs; `target` is whose kernel."""

    target: Target
    device: str  # torch's
    emulated: bool = False

    @property
    def is_cpu(self) -> bool:
        """Whether the CPU's own kernels run."""
        return self.target is Target.CPU

    def __str__(self) -> str:
        if self.emulated:
            return f"{self.target}, emulated"
        return "the CPU" if self.is_cpu else f"{self.target}, {torch.cuda.get_device_name()}"

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Let calls on tensors of the CPU run this place's kernels."""
        with emulating(str(self.target) if self.emulated else None):
            yield

    def bring(self, call: Call) -> Call:
        """Bring a call's tensors to the device, in 16 bits where a GPU's kernel runs."""
        if self.is_cpu:
            return call
        if call.q.dtype == torch.float32:
            q, k, v = (x.bfloat16() for x in (call.q, call.k, call.v))
            call = replace(call, q=q, k=k, v=v)
        return call if self.emulated else self._moved(call)

    def _moved(self, call: Call) -> Call:
        def moved(values: Mapping[str, ParamValue]) -> dict[str, ParamValue]:
            return {n: x.to(self.device) if isinstance(x, Tensor) else x for n, x in values.items()}

        q, k, v = (x.to(self.device) for x in (call.q, call.k, call.v))
        options = {n: x for n, x in moved(call.options).items() if isinstance(x, int | Tensor)}
        return replace(call, q=q, k=k, v=v, params=moved(call.params), options=options)

    def waiting(self, work: Callable[[], object]) -> Callable[[], object]:
        """Return work that ends when the device is done."""
        if self.device == "cpu":
            return work

        def run() -> None:
            work()
            torch.cuda.synchronize()

        return run


CPU = Place(Target.CPU, "cpu")


def place_of(target: str | None) -> Place:
    """Return where the kernels of a target run. Raises InputError where they cannot."""
    wanted = Target.CPU if target is None else Target(target)
    if wanted is Target.CPU:
        return CPU
    if (gpu := _gpu()) is not None and gpu.target is wanted:
        return gpu
    if emulated_target() is not None:
        return Place(wanted, "cpu", emulated=True)
    raise InputError(
        f"--target: this machine has no GPU that runs {wanted} kernels; "
        "ATTNLANG_EMULATE=1 runs them on the CPU, slowly"
    )


def all_places() -> tuple[Place, ...]:
    """Return every place that this machine has; the emulator where it is asked for."""
    places = [CPU]
    if (gpu := _gpu()) is not None:
        places.append(gpu)
    if (emulated := emulated_target()) is not None:
        places.append(Place(Target(emulated), "cpu", emulated=True))
    return tuple(places)


def _gpu() -> Place | None:
    if not torch.cuda.is_available():
        return None
    return Place(runs_on(torch.device("cuda")).target, "cuda")
