"""Contenders from outside: a Python file that binds kernels which this repository does not hold.

The file has a dict `FORWARD`, of functions by name that map q, k, v (bfloat16, [B, H, S, D]) and
whether the mask is causal to what runs once; and a dict `BACKWARD`, whose functions take the
gradient of the output last and return what gives those of q, k and v.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Peers:
    """What a file offers."""

    forward: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    backward: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def read_peers(path: Path | None) -> Peers:
    """Run a file, if one is named; what it raises is its own."""
    if path is None:
        return Peers()
    found = runpy.run_path(str(path))
    return Peers(found.get("FORWARD", {}), found.get("BACKWARD", {}))
