"""Which skeletons run a CUDA backward kernel, and in which tiles.

Maps a target and the widths of the products to `BackwardTiles`, or raises WidthError where no tiles
take them. Invariant: what is chosen fits the shared memory of every GPU of the target, and the
registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnlang.jit.units import Target
from attnlang.plan.cuda_tiles import PANEL
from attnlang.plan.widths import WidthError, Widths

_STEP = 16  # entries that one matrix instruction multiplies
_WIDEST = 256
_WIDEST_VALUE = _WIDEST + 2 * _STEP  # `row_sum` is made of a value beside v
_ELEMENT_BYTES = 2
_HEADER_BYTES = 1024  # ranges of tiles
_SHARED_BYTES = 99 << 10
_SUMS = 128  # floats of a thread that results may take
_FLOATS = 168  # the same with the scores of a tile
_WARPS = 8
_SHAPES = ((128, 32), (64, 32), (64, 16), (32, 32), (32, 16), (16, 16))  # larger tiles spill
# Where elements read tensors: the addresses and what is read of all of a thread's elements are on
# their way at once, beside the products, and tiles of 32 spill in the main loop.
_READING_SHAPES = ((128, 16), (64, 16), (32, 16), (16, 16))
_HOPPER_WIDEST = 128  # two results of that width leave a warpgroup registers for a tile


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that stay, rows of the other side that come at once, warps that share out results."""

    rows: int
    tile: int
    split: int


@dataclass(frozen=True, slots=True)
class HopperBlock:
    """On wgmma: keys that stay, 64 a warpgroup, queries of a tile, stages of tiles."""

    rows: int
    tile: int
    stages: int


@dataclass(frozen=True, slots=True)
class BackwardTiles:
    """The blocks for mma.sync, of keys and values and of queries; on Hopper one on wgmma for all.

    With a block on wgmma, those for mma.sync run the calls that want parameters' gradients.
    """

    keys: Block
    queries: Block
    hopper: HopperBlock | None = None

    @property
    def skeleton(self) -> str:
        """The skeleton of the gradients of q, k and v."""
        return "sm80" if self.hopper is None else "sm90"

    @property
    def text(self) -> str:
        """The skeleton and its blocks, for people."""
        if self.hopper is not None:
            rows, tile = self.hopper.rows, self.hopper.tile
            return f"sm90_backward, {rows} keys x {tile} queries; parameters': sm80"
        keys, queries = self.keys, self.queries
        return (
            f"sm80_backward, {keys.rows} keys x {keys.tile} queries, "
            f"{queries.rows} queries x {queries.tile} keys"
        )

    @property
    def constants(self) -> tuple[tuple[str, int], ...]:
        """The constants of the generated `Tiles`."""
        constants = (
            ("kKeyRows", self.keys.rows),
            ("kQueryTile", self.keys.tile),
            ("kKeySplit", self.keys.split),
            ("kQueryRows", self.queries.rows),
            ("kKeyTile", self.queries.tile),
            ("kQuerySplit", self.queries.split),
        )
        if self.hopper is None:
            return constants
        return (
            *constants,
            ("kHopperRows", self.hopper.rows),
            ("kHopperTile", self.hopper.tile),
            ("kHopperStages", self.hopper.stages),
        )


def choose_backward_tiles(
    target: Target, widths: Widths, *, reads: bool = False, packed: bool = False
) -> BackwardTiles:
    """Choose the skeleton and its tiles; `reads`: each element reads a tensor.

    Raises WidthError for widths that none take.
    """
    limits = ("q", widths.product, _WIDEST), ("v", widths.acc, _WIDEST_VALUE)
    for name, width, widest in limits:
        if width % _STEP or width > widest:
            expected = f"a head dim that GPU kernels differentiate: 16, 32, 48 ... {_WIDEST}"
            raise WidthError(name, expected, str(width))
    both = widths.product + widths.acc
    shapes = _READING_SHAPES if reads else _SHAPES
    keys, queries = _block(both, both, shapes), _block(widths.product, both, shapes)
    widest = max(widths.product, widths.acc)
    if target is not Target.SM90 or reads or packed or widest > _HOPPER_WIDEST:
        return BackwardTiles(keys, queries)
    tile = 128 if widest <= PANEL else 64
    return BackwardTiles(keys, queries, HopperBlock(128, tile, stages=2))


def _block(results: int, entries: int, shapes: tuple[tuple[int, int], ...]) -> Block:
    """Return the first shape that fits; a thread has half of its warp's entries for a row each."""
    split = -(-results // 2 // _SUMS)
    for rows, tile in shapes:
        shared = (rows + 2 * tile) * entries * _ELEMENT_BYTES + _HEADER_BYTES + 16 * tile
        floats = -(-results // _STEP // split) * _STEP // 2 + tile
        fits = shared <= _SHARED_BYTES and floats <= _FLOATS
        if fits and rows // 16 * split <= _WARPS:
            return Block(rows, tile, split)
    raise AssertionError("the smallest shape fits the widest head dims")
