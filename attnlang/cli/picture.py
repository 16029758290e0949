"""The picture of a mask: from its tiles to a PNG, queries downwards and keys to the right."""

from __future__ import annotations

import textwrap
from pathlib import Path

from attnlang.cli.errors import InputError
from attnlang.cli.grid import Grid, Verdict
from attnlang.cli.outputs import write_whole

_COLORS = {Verdict.FULL: "#20639b", Verdict.PARTIAL: "#f6a945", Verdict.EMPTY: "#f3f3f0"}
_MEANINGS = {
    Verdict.FULL: "full: no mask needed",
    Verdict.PARTIAL: "partial: mask applied",
    Verdict.EMPTY: "empty: skipped",
}
# With more tiles a side their borders would hide them.
_MAX_LINES = 160
_DPI = 150
# Parts of the figure: the layout engines of matplotlib clip labels beside axes of a fixed aspect.
_AXES = (0.095, 0.08, 0.61, 0.84)
_LEGEND = (0.73, 0.92)


def draw(path: Path, grid: Grid, title: str, mask: str) -> None:
    """Draw the tiles of a mask into a file; its suffix says in which format."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
        from matplotlib.ticker import MultipleLocator, StrMethodFormatter
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install 'attnlang[plot]'") from None
    figure = Figure(figsize=(9.6, 7.0))
    FigureCanvasAgg(figure)
    axes = figure.add_axes(_AXES)
    axes.imshow(
        grid.verdicts,
        cmap=ListedColormap([_COLORS[v] for v in sorted(Verdict)]),
        vmin=0,
        vmax=len(Verdict) - 1,
        extent=(0, grid.verdicts.shape[1] * grid.tile, grid.verdicts.shape[0] * grid.tile, 0),
        interpolation="nearest",
        aspect="equal" if grid.q_len == grid.kv_len else "auto",
    )
    axes.set_xlim(0, grid.kv_len)
    axes.set_ylim(grid.q_len, 0)
    if max(grid.verdicts.shape) <= _MAX_LINES:
        width = 30 / (100 + 3 * max(grid.verdicts.shape))
        lines = {"colors": "white", "linewidth": width}
        axes.vlines(range(0, grid.kv_len, grid.tile), 0, grid.q_len, **lines)
        axes.hlines(range(0, grid.q_len, grid.tile), 0, grid.kv_len, **lines)
    for axis, length in ((axes.xaxis, grid.kv_len), (axes.yaxis, grid.q_len)):
        axis.set_major_locator(MultipleLocator(_tick_step(length)))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("key column")
    axes.set_ylabel("query row")
    axes.set_title(f"{title}\n{textwrap.shorten(mask, 110, placeholder=' ...')}", fontsize=10)
    handles = [
        Patch(
            facecolor=_COLORS[v],
            edgecolor="#999999",
            label=f"{_MEANINGS[v]}\n{grid.count(v):,} tiles ({100 * grid.share(v):.1f}%)",
        )
        for v in (Verdict.FULL, Verdict.PARTIAL, Verdict.EMPTY)
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=_LEGEND,
        borderaxespad=0.0,
        frameon=False,
        title=f"tiles of {grid.tile} x {grid.tile}",
        alignment="left",
        labelspacing=1.0,
    )
    suffix = path.suffix.removeprefix(".").lower()
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=_DPI, format=suffix))


def _tick_step(length: int) -> int:
    """Return a power of two that divides an axis into four to eight parts."""
    return max(1, 1 << max(0, (length - 1).bit_length() - 3))
