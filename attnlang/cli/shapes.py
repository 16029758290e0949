"""The sizes of a call on the command line: `B,HQ,HKV,Q,KV,D[,DV]` to a `Shape`, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnlang.cli.errors import InputError

if TYPE_CHECKING:
    from attnlang.invent.shape import Shape

FORM = "B,HQ,HKV,Q,KV,D[,DV]"
MAX_ELEMENTS = 2**46  # of a tensor: 128 TiB in 16 bits, all that a process can address
MAX_SIZE = 2**30  # as positions in a call
DEFAULT = "1,16,4,2048,2048,64"
EMULATED = "1,4,2,200,300,64"  # of a call that the emulator runs, where none is given


def parse_shape(text: str) -> Shape:
    """Read `B,HQ,HKV,Q,KV,D[,DV]`; DV is D when it is left out."""
    from attnlang.invent.shape import Shape

    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--shape: expected {FORM} as numbers, found {text}") from None
    if len(sizes) not in (6, 7):
        raise InputError(f"--shape: expected {FORM}, found {len(sizes)} numbers")
    if min(sizes) < 0:
        raise InputError(f"--shape: a size is at least 0, found {min(sizes)}")
    if max(sizes) >= MAX_SIZE:
        raise InputError(f"--shape: a size is below 2 ** 30, found {max(sizes)}")
    b, hq, hkv, q, kv, d, *rest = sizes
    if hkv == 0 or d == 0 or hq % hkv:
        raise InputError(f"--shape: HQ must be a multiple of HKV and D positive, found {text}")
    shape = Shape(b, hq, hkv, q, kv, d, rest[0] if rest else d)
    if max(b, 1) * max(hq * q, hkv * kv) * max(d, shape.dv) >= MAX_ELEMENTS:
        raise InputError(f"--shape: no machine holds a call of this size, {text}")
    return shape


def shape_text(shape: Shape) -> str:
    """Write a shape as it is typed."""
    sizes = [shape.b, shape.hq, shape.hkv, shape.q, shape.kv, shape.d]
    return ",".join(map(str, sizes if shape.dv == shape.d else [*sizes, shape.dv]))
