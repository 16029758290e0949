"""What a mask reads in one (request, head) of a call.

Maps the names of coordinates and sizes to values; lengths and offsets are the request's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from attnlang.ir.nodes import CoordName

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class MaskEnv:
    """What a mask reads, for one request and head. Lengths and offsets are this request's."""

    b: int
    h: int
    h_kv: int
    q_len: int
    kv_len: int
    q_offset: int
    kv_offset: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    scalars: Mapping[str, float | int | bool] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)

    def size(self, name: str) -> int:
        """Return a size; `Q` and `KV` are the request's."""
        own = {"Q": self.q_len, "KV": self.kv_len}
        return own[name] if name in own else self.sizes[name]

    def coordinate(self, name: CoordName, rows: Any, columns: Any) -> Any:  # noqa: ANN401
        """Return a coordinate for rows and columns, given as indices in the tensors."""
        match name:
            case CoordName.B:
                return self.b
            case CoordName.H:
                return self.h
            case CoordName.H_KV:
                return self.h_kv
            case CoordName.Q_ROW:
                return rows
            case CoordName.Q_IDX:
                return rows + self.q_offset
            case CoordName.KV_COL:
                return columns
            case CoordName.KV_IDX:
                return columns + self.kv_offset
            case CoordName.PART:
                return 0
        raise ValueError(f"a mask does not read {name}")
