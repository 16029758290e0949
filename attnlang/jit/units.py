"""`Sources`: the contract between code generation and the build.

Code generation makes it without a compiler; the build takes it without a spec. Two equal `Sources`
give one artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Target(StrEnum):
    """What a unit is compiled for."""

    CPU = "cpu"
    SM80 = "sm80"  # mma.sync and cp.async: Ampere, and whatever came after
    SM90 = "sm90"  # wgmma and TMA: Hopper

    @property
    def code(self) -> int:
        """The number by which an op's binding knows it (`attnlang::op::KernelKey`)."""
        return {Target.CPU: 0, Target.SM80: 80, Target.SM90: 90}[self]


@dataclass(frozen=True, slots=True)
class Unit:
    """One translation unit: a file name such as `kernel.cpp` and its text."""

    name: str
    text: str
    torch: bool = False  # includes torch's stable-ABI headers
    portable: bool = False  # computes nothing, and is compiled for every CPU alike
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """What one shared object is built from.

    `name` is for people (it opens the artifact's file name); `entry_points` are the C symbols that
    the loaded object must export.
    """

    name: str
    target: Target
    units: tuple[Unit, ...]
    entry_points: tuple[str, ...]
    emulated: bool = False  # units for a GPU, built to run on the CPU

    @property
    def on_gpu(self) -> bool:
        """Whether nvcc compiles the units that are not torch's."""
        return self.target is not Target.CPU and not self.emulated
