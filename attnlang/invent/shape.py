"""The sizes of a dense call, and what a parameter may be."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

ParamValue = Tensor | float | int | bool | None


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a dense call."""

    b: int
    hq: int
    hkv: int
    q: int
    kv: int
    d: int
    dv: int

    def sizes(self) -> dict[str, int]:
        """Return them under the language's names."""
        return {
            "B": self.b,
            "HQ": self.hq,
            "HKV": self.hkv,
            "Q": self.q,
            "KV": self.kv,
            "D": self.d,
            "DV": self.dv,
        }
