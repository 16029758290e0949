"""What the compiler understood of a variant, as one frozen value.

`make.explain` makes it; `text`, `page` and `picture` render it. Invariant: everything that a
renderer shows stands here, so the three cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attnlang.explain.boxes import Box
from attnlang.invent.shape import Shape
from attnlang.passes.lowered import Declined
from attnlang.symbolic.range_text import RangeText
from attnlang.symbolic.variability import Level

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Equation:
    """One line of the meaning: `left = right`, and a remark."""

    left: Box
    right: Box
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the simplifier: what it does, how often it fired, and one place where it did."""

    name: str
    doc: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the compiler looked for: whether it holds, and what follows or why not."""

    name: str
    holds: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Hoisted:
    """A term and the loop in which it is computed."""

    level: Level
    name: str
    value: Box


@dataclass(frozen=True, slots=True)
class Count:
    """Tiles, and the elements in them."""

    tiles: int
    elements: int


SHADES = 8  # of blue in a picture of the mask


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """The tiles of the first request and head, and a picture of them.

    `cells` [rows, columns] are verdicts (0 empty, 1 full, 2 partial) of `span` x `span` tiles each;
    `density` is the part of a cell's elements that count, from a sample of each cell.
    """

    tile: int
    full: Count
    partial: Count
    empty: Count
    visited_columns: int
    cells: npt.NDArray[np.int8]
    span: int
    density: npt.NDArray[np.float64]
    unknown: tuple[str, ...]  # tensors too large to invent

    @property
    def shades(self) -> npt.NDArray[np.int64]:
        """The density in steps from 0 to SHADES; a single element that counts is one step."""
        return np.ceil(self.density * SHADES).astype(np.int64)

    @property
    def all(self) -> int:
        """The number of tiles."""
        return self.full.tiles + self.partial.tiles + self.empty.tiles

    @property
    def visited(self) -> int:
        """The number of tiles that a kernel computes."""
        return self.full.tiles + self.partial.tiles

    def share(self, count: Count) -> float:
        """Return the part of all tiles that some are."""
        return count.tiles / self.all if self.all else 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine can do, measured: all threads together, in float32."""

    flops: float  # of multiply-adds, each counted as two
    functions: float  # elementary functions a second
    bandwidth: float  # bytes read a second
    threads: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a call computes and moves: all requests and heads of it."""

    product_flops: int  # of the two matrix products over visited tiles
    operations: int  # elementwise, those of the softmax included
    functions: int  # elementary ones: exponentials, tanh ...
    bytes: int  # every tensor read or written once, hidden columns not
    tile_flops: int  # the products of one whole tile

    @property
    def flops(self) -> int:
        """All arithmetic, elementary functions apart."""
        return self.product_flops + self.operations

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True, slots=True)
class Roofline:
    """How long the work takes at least on a machine, and what holds it back."""

    machine: Machine
    products: float  # seconds
    elementwise: float
    functions: float
    memory: float

    @property
    def compute(self) -> float:
        """Seconds of arithmetic: products and elementwise work share the same units."""
        return self.products + self.elementwise + self.functions

    @property
    def seconds(self) -> float:
        """The bound: arithmetic and memory overlap."""
        return max(self.compute, self.memory)

    @property
    def bound(self) -> str:
        """What holds it back."""
        if self.memory >= self.compute:
            return "memory"
        parts = {
            "matrix products": self.products,
            "elementwise arithmetic": self.elementwise,
            "elementary functions": self.functions,
        }
        return max(parts, key=lambda name: parts[name])

    @property
    def ridge(self) -> float:
        """The operations for each byte from which on arithmetic is the bound."""
        return self.machine.flops / self.machine.bandwidth


@dataclass(frozen=True, slots=True)
class SpecLine:
    """A line of a spec that generated code comes from, or of the file itself."""

    file: str
    number: int
    text: str

    @property
    def key(self) -> str:
        """What names the line within a page."""
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class CodeLine:
    """A line of the generated unit, and the key of the spec's line that it comes from."""

    text: str
    origin: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The spec's lines and the unit generated from them."""

    spec: tuple[SpecLine, ...]
    code: tuple[CodeLine, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What a variant means, what the compiler found, and what a call of it costs."""

    name: str
    doc: str | None
    values: tuple[tuple[str, str], ...]  # of the 0-d parameters
    shape: Shape
    meaning: tuple[Equation, ...]
    letters: tuple[tuple[str, str], ...]
    operations: tuple[int, int]  # of an element: as written, as lowered
    fired: tuple[Rule, ...]
    silent: tuple[Rule, ...]
    declined: tuple[Declined, ...]  # what came to nothing, and why
    findings: tuple[Finding, ...]
    terms: tuple[Hoisted, ...]
    kernel: tuple[Equation, ...]  # what is left for each element
    transforms: tuple[tuple[str, str], ...]
    mask: Box
    tiles: Tiles | None  # None: the mask reads scores
    ranges: tuple[RangeText, ...]  # of blocks, in closed form: keys of rows, and rows of keys
    work: Work
    roofline: Roofline | None
    listing: Listing

    @property
    def title(self) -> str:
        """The variant with the values of its parameters."""
        values = ", ".join(f"{n} = {v}" for n, v in self.values)
        return f"{self.name}({values})" if values else self.name

    def __str__(self) -> str:
        from attnlang.explain.text import to_text

        return to_text(self)

    def to_html(self) -> str:
        """Return one HTML page that needs nothing else: no network, no font, no script."""
        from attnlang.explain.page import to_html

        return to_html(self)

    def plot(self, path: str | Path | None = None, format: str | None = None) -> Figure:
        """Draw mask, tiles and roofline; return matplotlib's figure, which a notebook shows.

        With a path the figure is saved there too; its suffix (or `format`) says in which format.

        Raises ModuleNotFoundError, saying what to install, where matplotlib is missing.
        """
        from attnlang.explain.picture import draw

        figure = draw(self)
        if path is not None:
            figure.savefig(path, format=format or Path(path).suffix.removeprefix(".").lower())
        return figure
