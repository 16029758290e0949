"""What, beside the spec, picks one kernel of a variant; to ask for it needs no compiler."""

from __future__ import annotations

from dataclasses import dataclass

from attnlang.jit.units import Target

MAX_HEAD_DIM = 576


@dataclass(frozen=True, slots=True)
class KernelKey:
    """What, beside the spec, picks one kernel of a variant; dtypes are named f32, bf16, i64 ..."""

    dtype: str
    head_dim: int
    value_dim: int
    param_dtypes: tuple[str, ...]  # of the tensor parameters in their order; "none" when absent
    target: Target = Target.CPU
    emulated: bool = False  # a GPU's kernel that runs on the CPU
    packed: bool = False  # runs packed calls, which are no other kernel's
