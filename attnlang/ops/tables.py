"""Tables of a serving plan as the host reads them: checked, or a `CallError` that names the entry.

Maps int32 and int64 tensors on the CPU to numpy arrays. Invariant: whatever comes out can be used
as an index without another look. Of tables on a GPU the host sees shapes alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnlang.ops.arguments import POSITION_LIMIT
from attnlang.ops.errors import CallError

IntArray = npt.NDArray[np.integer[Any]]


def check_table(name: str, table: object, size: int | None = None, what: str = "") -> IntArray:
    """Return an int tensor [n] as an array; `size` is the n that it must have, for `what`."""
    found = _check_shape(name, table, size, what)
    if found.device.type != "cpu":
        raise CallError(
            name, "a tensor on the CPU: planning reads its values", f"one on {found.device}"
        )
    array: IntArray = found.detach().numpy()
    return array


def is_unread(table: object) -> bool:
    """Whether a table lies where the host does not read it: on a GPU."""
    return isinstance(table, Tensor) and table.device.type == "cuda"


def check_unread(
    name: str, table: object, device: torch.device, size: int | None = None, what: str = ""
) -> Tensor:
    """Return an int tensor [n] that is to lie on the device where it is used."""
    found = _check_shape(name, table, size, what)
    if found.device != device:
        raise CallError(
            name, f"a tensor on {device}, as the other tables", f"one on {found.device}"
        )
    return found.detach()


def _check_shape(name: str, table: object, size: int | None, what: str) -> Tensor:
    expected = "an int tensor [n]" if size is None else f"an int tensor [{size}]{what}"
    if not isinstance(table, Tensor):
        raise CallError(name, expected, type(table).__name__)
    if table.dtype not in (torch.int32, torch.int64):
        found = str(table.dtype).removeprefix("torch.")
        raise CallError(name, f"{expected}, int32 or int64", f"dtype {found}")
    if table.dim() != 1 or (size is not None and table.shape[0] != size):
        raise CallError(name, expected, f"shape {list(table.shape)}")
    return table


def check_indptr(
    name: str, table: object, size: int | None = None, what: str = "", total: int | None = None
) -> IntArray:
    """Return a table of starts: from 0, never decreasing, and to `total` where that is known."""
    starts = check_table(name, table, size, what)
    if starts.size == 0:
        raise CallError(name, "a 0 and the end of every request", "shape [0]")
    if starts[0] != 0:
        raise CallError(name, "0 at entry 0", str(starts[0]))
    steps = np.diff(starts)
    if steps.size and steps.min() < 0:
        b = int(np.argmax(steps < 0))
        raise CallError(
            name,
            "entries that never decrease",
            f"{starts[b + 1]} at entry {b + 1}, after {starts[b]}",
        )
    if starts[-1] >= POSITION_LIMIT:
        raise CallError(name, "an end below 2 ** 30", str(starts[-1]))
    if total is not None and starts[-1] != total:
        raise CallError(name, f"{total} at the end{what}", str(starts[-1]))
    return starts


def check_range(name: str, values: IntArray, limit: int, what: str) -> None:
    """Check that every entry is an index below `limit`."""
    if values.size == 0:
        return
    wrong = (values < 0) | (values >= limit)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise CallError(name, f"{what} of 0 to {limit - 1}", f"{values[at]} at entry {at}")
