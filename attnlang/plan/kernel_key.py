"""What, beside the spec, picks one kernel of a variant; to ask for it needs no compiler."""

from __future__ import annotations

from dataclasses import dataclass

from attnlang.jit.units import Target

MAX_HEAD_DIM = 576
PAGES = ("f8e4m3", "f8e5m2")


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
    pages: str = ""  # of a GPU's packed calls: what their pages hold, if 8-bit floats

    @property
    def packing(self) -> int:
        """What the op's binding calls it: 0 dense, 1 packed, 2 and 3 over pages of `PAGES`."""
        return int(self.packed) if not self.pages else 2 + PAGES.index(self.pages)
