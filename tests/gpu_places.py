"""Where tests run a GPU's kernels: on a GPU, or emulated on the CPU; and graphs of calls there.

The same test body runs in both places: inputs are made on the CPU and moved to `device`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def place_of(param: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the device of a parameter; see to it that the emulator runs there if it is one."""
    if param == "cuda":
        return "cuda"
    monkeypatch.setenv("ATTNLANG_EMULATE", param)
    return "cpu"


def capture(device: str, call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Return what a call makes, and what makes it again in the same memory, without Python.

    On a GPU that is a CUDA graph; in the emulator the ops of the call with the same tensors.
    """
    call()  # builds what is missing
    if device == "cuda":
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = call()

        def replay() -> None:
            graph.replay()
            torch.cuda.synchronize()

        return out, replay
    with _Recording() as recording:
        out = call()
    return out, recording.replay


class _Recording(TorchDispatchMode):
    """The ops of a call. A read of a value by the host, which no graph can hold, is an error."""

    def __init__(self) -> None:
        super().__init__()
        self._ops: list[tuple[object, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host reads a value"
        found = func(*args, **(kwargs or {}))
        self._ops.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        for func, args, kwargs, found in self._ops:
            again = func(*args, **kwargs)
            made: list[Tensor] = []
            tree_map_only(Tensor, made.append, again)
            kept: list[Tensor] = []
            tree_map_only(Tensor, kept.append, found)
            for to, x in zip(kept, made, strict=True):
                if to.data_ptr() != x.data_ptr():
                    to.copy_(x)
