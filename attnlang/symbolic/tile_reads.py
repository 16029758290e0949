"""The least and greatest element of a tensor over boxes of indices, one box for each tile.

Maps a tensor and an interval for each of its indices to bounds of what is read. Linear (times a
logarithm) in the tensor where one index varies; where more do, boxes up to a size are looked at and
for the others the bounds of the whole tensor hold. Indices are clamped to the extents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attnlang.symbolic.int_intervals import IntArray, Ints

Array = npt.NDArray[Any]

_MAX_BOX = 4096  # elements of one box
_MAX_WORK = 1 << 24  # elements of all boxes of one read


def bounds(tensor: Array, indices: tuple[Ints, ...]) -> tuple[Array, Array] | None:
    """Return the least and the greatest element that each tile may read.

    None for an empty tensor, of which nothing can be said. `tensor` has no NaN.
    """
    if tensor.size == 0:
        return None
    starts, stops = [], []
    for axis, index in enumerate(indices):
        last = tensor.shape[axis] - 1
        starts.append(np.clip(index.low, 0, last))
        stops.append(np.clip(index.high, 0, last))
    fixed = [
        s.size == 1 and e.size == 1 and s.item() == e.item()
        for s, e in zip(starts, stops, strict=True)
    ]
    rest = tensor[tuple(s.item() if f else slice(None) for s, f in zip(starts, fixed, strict=True))]
    boxes = [(s, e) for s, e, f in zip(starts, stops, fixed, strict=True) if not f]
    if not boxes:
        return rest, rest
    if len(boxes) == 1:
        return running(np.minimum, rest, *boxes[0]), running(np.maximum, rest, *boxes[0])
    return _in_boxes(rest, boxes)


def running(pick: np.ufunc, line: Array, start: IntArray, stop: IntArray) -> Array:
    """Return the extreme of `line[start : stop + 1]`, of two overlapping powers of two."""
    start, stop = np.broadcast_arrays(start, stop)
    rows = [line]
    longest = int((stop - start).max()) + 1
    while 2 ** len(rows) <= longest:
        half = 2 ** (len(rows) - 1)
        rows.append(pick(rows[-1][:-half], rows[-1][half:]))
    result = np.empty(start.shape, line.dtype)
    power = np.frexp((stop - start + 1).astype(np.float64))[1] - 1
    for exponent, row in enumerate(rows):
        here = power == exponent
        first, last = start[here], stop[here] + 1 - 2**exponent
        result[here] = pick(row[first], row[last])
    return result


def _in_boxes(tensor: Array, boxes: list[tuple[IntArray, IntArray]]) -> tuple[Array, Array]:
    """Look at every different box of a bounded size."""
    edges = np.broadcast_arrays(*(edge for box in boxes for edge in box))
    flat = np.stack([e.reshape(-1) for e in edges], axis=1)
    unique, inverse = np.unique(flat, axis=0, return_inverse=True)
    low = np.full(len(unique), tensor.min(), tensor.dtype)
    high = np.full(len(unique), tensor.max(), tensor.dtype)
    sizes = np.prod(unique[:, 1::2] - unique[:, 0::2] + 1, axis=1)
    work = 0
    for i in np.flatnonzero(sizes <= _MAX_BOX):
        work += int(sizes[i])
        if work > _MAX_WORK:
            break
        box = tuple(slice(unique[i, 2 * n], unique[i, 2 * n + 1] + 1) for n in range(len(boxes)))
        low[i], high[i] = tensor[box].min(), tensor[box].max()
    shape = edges[0].shape
    inverse = inverse.reshape(-1)
    return low[inverse].reshape(shape), high[inverse].reshape(shape)
