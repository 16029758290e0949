"""The picture of an explanation, by matplotlib: mask, tiles and roofline in one figure.

Maps an `Explanation` to a figure. Invariant: queries downwards, keys to the right, the
colours of the page.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from attnlang.explain.boxes import to_text
from attnlang.explain.explanation import SHADES, Explanation, Roofline, Tiles
from attnlang.explain.units import count, duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISSING = "a picture needs matplotlib: pip install 'attnlang[plot]'"
_FULL, _PARTIAL, _EMPTY, _GREY = "#20639b", "#f0a03c", "#eceae3", "#5d6875"
_DPI = 150
_SECOND = 0.425  # where the second picture begins


def draw(e: Explanation) -> Figure:
    """Draw an explanation as a figure. Raises ModuleNotFoundError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError(MISSING) from None
    figure = Figure(figsize=(11.0, 5.2), dpi=_DPI)
    FigureCanvasAgg(figure)
    mask = textwrap.shorten(to_text(e.mask), 120, placeholder=" …")
    figure.suptitle(_plain(e.title), x=0.06, y=0.97, ha="left", fontsize=13, fontweight="bold")
    figure.text(0.06, 0.90, _plain(f"keep (i, j) if {mask}"), fontsize=10, color=_GREY)
    if e.tiles is None:
        figure.text(0.06, 0.5, "the mask reads scores: no tile is known before they are")
    elif e.shape.q and e.shape.kv:
        _masks(figure, e, e.tiles)
        _legend(figure, e.tiles)
    if e.roofline is not None:
        _times(figure.add_axes((0.79, 0.1, 0.18, 0.26)), e.roofline)
    return figure


def _plain(text: str) -> str:
    """Keep matplotlib from reading mathematics between dollars."""
    return text.replace("$", r"\$")


def _masks(figure: Figure, e: Explanation, tiles: Tiles) -> None:
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    q, kv = e.shape.q, e.shape.kv
    side = tiles.tile * tiles.span
    extent = (0, tiles.cells.shape[1] * side, tiles.cells.shape[0] * side, 0)
    shades = LinearSegmentedColormap.from_list("mask", [_EMPTY, _FULL])
    verdicts = ListedColormap([_EMPTY, _FULL, _PARTIAL])
    for left, title, values, colours, top in (
        (0.06, "elements that count", tiles.shades, shades, SHADES),
        (_SECOND, "tiles, as the compiler knows them", tiles.cells, verdicts, 2.0),
    ):
        axes = figure.add_axes((left, 0.1, 0.32, 0.71))
        axes.imshow(
            np.asarray(values, np.float64),
            cmap=colours,
            vmin=0.0,
            vmax=top,
            extent=extent,
            interpolation="nearest",
            aspect="equal" if q == kv else "auto",
        )
        axes.set_xlim(0, kv)
        axes.set_ylim(q, 0)
        axes.set_title(title, fontsize=10, color=_GREY)
        _label(axes, q, kv)
        if left < _SECOND:
            axes.set_ylabel("query row", fontsize=9)


def _label(axes: Axes, q: int, kv: int) -> None:
    from matplotlib.ticker import MultipleLocator, StrMethodFormatter

    for axis, length in ((axes.xaxis, kv), (axes.yaxis, q)):
        axis.set_major_locator(MultipleLocator(_tick_step(length)))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(labelsize=8)
    axes.set_xlabel("key column", fontsize=9)


def _tick_step(length: int) -> int:
    """Return a power of two that divides an axis into about four parts."""
    return max(1, 1 << max(0, (length - 1).bit_length() - 2))


def _legend(figure: Figure, tiles: Tiles) -> None:
    from matplotlib.patches import Patch

    entries = (
        (_FULL, "full: no mask needed", tiles.full),
        (_PARTIAL, "partial: mask applied", tiles.partial),
        (_EMPTY, "empty: skipped", tiles.empty),
    )
    handles = [
        Patch(
            facecolor=colour,
            edgecolor="#999999",
            label=f"{told}\n{count(found.tiles)} tiles ({tiles.share(found):.1%})",
        )
        for colour, told, found in entries
    ]
    cell = "" if tiles.span == 1 else f"\na cell: {tiles.span} x {tiles.span} of them"
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.785, 0.79),
        borderaxespad=0.0,
        frameon=False,
        title=f"tiles of {tiles.tile} x {tiles.tile}{cell}",
        title_fontsize=9,
        fontsize=9,
        alignment="left",
        labelspacing=0.9,
    )


def _times(axes: Axes, r: Roofline) -> None:
    parts = (
        ("products", r.products, _FULL),
        ("elementwise", r.elementwise, _FULL),
        ("functions", r.functions, _FULL),
        ("memory", r.memory, _PARTIAL),
    )
    names = [f"{name}  {duration(seconds)}" for name, seconds, _ in parts]
    axes.barh(range(len(parts)), [p[1] for p in parts], color=[p[2] for p in parts], height=0.35)
    for i, name in enumerate(names):
        axes.text(0, i - 0.28, name, fontsize=8, va="bottom")
    axes.set_ylim(len(parts) - 0.6, -0.8)
    axes.axis("off")
    axes.set_title(f"at least {duration(r.seconds)}, by {r.bound}", fontsize=8, loc="left", pad=10)
