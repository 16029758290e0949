"""The results as bars, by matplotlib: a row a case, a bar a contender, each as a share of the peak.

Maps recorded cases to PNG, SVG or PDF. What is bound by memory is shown beside the reading rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlang.bench.case import EAGER, FLEX, OURS, PEAK, PRODUCT, READ, SDPA

MISSING = "a picture needs matplotlib: pip install 'attnlang[plot]'"
SUFFIXES = (".png", ".svg", ".pdf")
_COLORS = {OURS: "#20639b", SDPA: "#f0a03c", FLEX: "#3caea3", EAGER: "#b0aca0", PRODUCT: "#5d6875"}
_BAR, _DPI = 0.16, 150


def draw(title: str, cases: Mapping[str, Any], path: Path, suffix: str) -> None:
    """Draw cases into a file. Raises ModuleNotFoundError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError(MISSING) from None
    figure = Figure(figsize=(9.0, 1.2 + 0.75 * len(cases)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10)
    for row, case in enumerate(cases.values()):
        contenders = case["contenders"]
        top = next((n for n in (PEAK, READ, PRODUCT) if n in contenders), OURS)
        shown = [n for n in _COLORS if n in contenders and n != top]
        for bar, name in enumerate(shown):
            share = contenders[name]["rate"] / contenders[top]["rate"]
            place = row + (bar - (len(shown) - 1) / 2) * _BAR
            axes.barh(place, share, height=_BAR, color=_COLORS[name])
    axes.set_yticks(range(len(cases)), list(cases), fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1.0, color=_COLORS[PRODUCT], linewidth=0.8)
    axes.set_xlabel("share of the peak (or of the rate of reading memory) in the same run")
    for name, color in _COLORS.items():
        axes.barh(0, 0, color=color, label=name)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=_DPI, format=suffix.removeprefix(".").lower())
