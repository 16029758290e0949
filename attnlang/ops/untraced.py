"""What a compiled graph leaves to Python: imported where one is traced, never before.

The import costs torch's whole tracer, more than a second, which a graph has paid anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@torch.compiler.disable(  # type: ignore[no-untyped-call, untyped-decorator]
    reason="a call with gradients runs outside of a compiled graph"
)
def untraced(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function outside of the graph that is being traced."""
    return call(*args, **kwargs)
