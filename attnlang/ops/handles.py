"""Variants by handles, which a traced graph can hold: constants to the tracer.

Older torch traces only what takes constants as running in Python, and a number would become
symbolic in the second graph: handles are strings.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant

_variants: WeakValueDictionary[str, Variant] = WeakValueDictionary()
_count = itertools.count()


def new_handle(variant: Variant) -> str:
    """Return a handle of a variant."""
    handle = f"{variant.ir.name} {next(_count)}"
    _variants[handle] = variant
    return handle


def variant_of(handle: str) -> Variant:
    """Return the variant of a handle; it is there while somebody holds it."""
    return _variants[handle]


def resolve(
    handle: str, consts: tuple[tuple[str, bool | int | float], ...], given: tuple[str, ...]
) -> str:
    """Register a variant's op and return its name; this runs as Python while a graph is traced."""
    return _variants[handle].specialised(consts, frozenset(given)).op.schema.name


# As torch.compiler.assume_constant_result, which imports torch's whole tracer: 1.5 s for everybody.
resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]
