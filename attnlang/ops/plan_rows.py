"""The rows of a step of several parts, for what comes after the merge.

Maps the requests of a step to `Rows`. Invariant: with maxima they lie in the same memory in every
step, where a captured run reads them; rows beyond a step's count as the first request's.
"""

from __future__ import annotations

import numpy as np
import torch

from attnlang.ops.finish import Rows
from attnlang.ops.levels import Positions, on_device
from attnlang.ops.plan_parts import PlanParts


class RowBuffers:
    """Where a plan's rows lie: new memory each time, or the same if a plan has maxima."""

    @torch.inference_mode(False)
    def __init__(
        self, device: torch.device, max_rows: int | None, max_requests: int | None
    ) -> None:
        self._device = device
        self._sizes: list[int] | None = None
        if max_rows is not None and max_requests is not None:
            self._sizes = [max_rows] * 2 + [max_requests] * 5
            self._held = torch.zeros(sum(self._sizes), dtype=torch.int64, device=device)

    def fill(self, parts: PlanParts, positions: Positions) -> Rows:
        """Write the rows of a step."""
        lens = parts.q_lens
        request = np.repeat(np.arange(parts.requests), lens)
        row = np.arange(request.size) - parts.q_starts[request]
        arrays = (
            request, row, parts.q_starts[:-1], lens, positions.q_offset, positions.kv_offset,
            parts.kv_lens,
        )  # fmt: skip
        sizes = self._sizes
        if sizes is None:
            moved = on_device(np.concatenate(arrays), self._device)
            return Rows(*torch.split(moved, [x.size for x in arrays]))
        joined, at = np.zeros(sum(sizes), dtype=np.int64), 0
        for values, size in zip(arrays, sizes, strict=True):
            joined[at : at + values.size] = values
            at += size
        self._held.copy_(on_device(joined, self._device))
        return Rows(*torch.split(self._held, sizes))
