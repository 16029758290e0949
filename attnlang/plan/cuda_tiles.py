"""Which CUDA skeleton runs a kernel, and in which tiles.

Maps a target and the widths of the products to `CudaTiles`, or raises WidthError where no skeleton
takes them. Invariant: what is chosen fits the shared memory of every GPU of the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnlang.jit.units import Target
from attnlang.plan.widths import WidthError, Widths

_STEP = 16  # entries that one matrix instruction multiplies
_WIDEST = 576
_ELEMENT_BYTES = 2
_HEADER_BYTES = 1024  # barriers, ranges of tiles
_REQUEST_BYTES = 2048  # what a block of a packed call keeps of its request
_SHARED_BYTES = {Target.SM80: 99 << 10, Target.SM90: 227 << 10}  # sm_86 and sm_89 have 99 KiB
PANEL = 64  # entries of a row that lie together in a Hopper kernel's shared memory
_WGMMA_WIDEST = 256  # of an accumulator
_SPLIT_WIDEST = 512  # of two warpgroups'


def _value_warps(width: int) -> int:
    """Return how many warps share the values of a row, so that each can hold its sums."""
    return -(-width // _WGMMA_WIDEST)


_VALUE_WIDTHS = tuple(
    n for n in range(_STEP, _WIDEST + 1, _STEP) if n % (_STEP * _value_warps(n)) == 0
)


@dataclass(frozen=True, slots=True)
class CudaTiles:
    """A skeleton and its tiles: rows of queries and keys, stages of keys in flight, warps."""

    skeleton: str
    query_tile: int
    key_tile: int
    stages: int
    warps: int
    blocks: int  # of a multiprocessor, at least

    @property
    def constants(self) -> tuple[tuple[str, int], ...]:
        """The constants of the generated `Tiles`."""
        return (
            ("kQueryTile", self.query_tile),
            ("kKeyTile", self.key_tile),
            ("kStages", self.stages),
            ("kWarps", self.warps),
            ("kBlocks", self.blocks),
        )


def choose_tiles(
    target: Target,
    widths: Widths,
    *,
    plain: bool = False,
    shared: bool = False,
    packed: bool = False,
) -> CudaTiles:
    """Choose the skeleton and its tiles. Raises WidthError for widths that none takes.

    `plain`: no mask, for which smaller tiles of keys save what larger ones would waste, and a score
    without functions, which need registers. `shared`: the row of a key holds its value, whole
    panels from its start, and out is what the product gives. `packed`: for packed calls.
    """
    for name, width in (("q", widths.product), ("v", widths.acc)):
        if width % _STEP or width > _WIDEST:
            raise WidthError(
                name, f"a head dim that GPU kernels take: 16, 32, 48 ... {_WIDEST}", str(width)
            )
    if widths.acc not in _VALUE_WIDTHS:
        wide = ", ".join(str(n) for n in _VALUE_WIDTHS if n > _WGMMA_WIDEST)
        raise WidthError(
            "v", f"a head dim that GPU kernels take: 16, 32 ... {_WGMMA_WIDEST}, {wide}",
            str(widths.acc),
        )  # fmt: skip
    if target is Target.SM90 and max(widths.product, widths.acc) <= _WGMMA_WIDEST:
        tiles = _sm90(widths, plain, packed)
        if not packed:
            return tiles
        # Requests' rows end within tiles, and what a block keeps of requests needs room.
        most = 64 if widths.product + widths.acc > 384 else 128
        return replace(tiles, key_tile=min(tiles.key_tile, most))
    if target is Target.SM90 and not packed and shared and widths.acc == _SPLIT_WIDEST:
        return CudaTiles("sm90", 64, 64, 2, 12, 1)
    limit = _SHARED_BYTES[Target.SM80 if packed else target] - (_REQUEST_BYTES if packed else 0)
    return next(t for t in _sm80(widths) if _bytes(t, widths) <= limit)


def _sm90(widths: Widths, plain: bool, packed: bool) -> CudaTiles:
    """Return tiles for warpgroups of 64 rows, one producer beside them."""
    widest = max(widths.product, widths.acc)
    if widest <= 64:
        return CudaTiles("sm90", 192, 128, 4, 16, 1)
    if widest <= 128:
        # Three stages leave room for one tile of queries, in packed calls for no request.
        stages = 2 if plain or packed else 3
        return CudaTiles("sm90", 128, 176 if plain else 128, stages, 12, 1)
    if widest <= 192:
        return CudaTiles("sm90", 128, 112 if widths.acc <= 128 else 96, 2, 12, 1)
    return CudaTiles("sm90", 128, 80, 2, 12, 1)


def _sm80(widths: Widths) -> Iterator[CudaTiles]:
    """Yield tiles for warps of 16 rows, the best first; wide values are shared out by two warps."""
    value_warps = _value_warps(widths.acc)
    shapes = ((128, 64), (128, 32), (64, 64), (64, 32), (64, 16), (32, 32), (32, 16), (16, 16))
    for rows, keys in shapes:
        yield CudaTiles("sm80", rows, keys, 2, rows // 16 * value_warps, 1)


def _bytes(tiles: CudaTiles, widths: Widths) -> int:
    """Return the shared memory of the mma.sync skeleton: operands, then the sums over them."""
    entries = tiles.query_tile * widths.product
    entries += tiles.stages * tiles.key_tile * (widths.product + widths.acc)
    sums = tiles.query_tile * (widths.acc + 4) * 4 + tiles.warps * widths.out * 4
    return _HEADER_BYTES + max(entries * _ELEMENT_BYTES, sums)
