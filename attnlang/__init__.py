"""attnlang: attention variants written as mathematics, compiled to fused torch ops.

Names are imported when they are first used, so that `attnlang check` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnlang.diagnostics import SpecError
    from attnlang.jit.errors import BuildError
    from attnlang.ops.block_sparse import BlockSparse
    from attnlang.ops.errors import CallError
    from attnlang.ops.load import load, load_all, loads
    from attnlang.ops.merge import merge_states
    from attnlang.ops.paged_kv import PagedKV
    from attnlang.ops.parts import Paged, Part
    from attnlang.ops.variant import Variant

__version__ = "0.1.0"

__all__ = [
    "BlockSparse",
    "BuildError",
    "CallError",
    "Paged",
    "PagedKV",
    "Part",
    "SpecError",
    "Variant",
    "load",
    "load_all",
    "loads",
    "merge_states",
]

_HOME = {
    "BlockSparse": "attnlang.ops.block_sparse",
    "BuildError": "attnlang.jit.errors",
    "CallError": "attnlang.ops.errors",
    "Paged": "attnlang.ops.parts",
    "PagedKV": "attnlang.ops.paged_kv",
    "Part": "attnlang.ops.parts",
    "SpecError": "attnlang.diagnostics",
    "Variant": "attnlang.ops.variant",
    "load": "attnlang.ops.load",
    "load_all": "attnlang.ops.load",
    "loads": "attnlang.ops.load",
    "merge_states": "attnlang.ops.merge",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'attnlang' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
