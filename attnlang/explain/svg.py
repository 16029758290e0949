"""Pictures of a mask as inline SVG: queries downwards, keys to the right, coloured by the page.

Maps cells to one path a kind, so that a picture takes kilobytes. The page's style sheet gives each
class its colour, in light and in dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import numpy.typing as npt

from attnlang.explain.explanation import SHADES, Tiles
from attnlang.explain.units import count
from attnlang.symbolic.masks import EMPTY, FULL, UNKNOWN

_SIDE, _LEFT, _TOP, _REST = 320, 64, 34, 28
_LEAST = 28  # of a short side, so that a decode step is seen
_CLASSES = {int(EMPTY): "empty", int(FULL): "full", int(UNKNOWN): "partial"}

Array = npt.NDArray[np.int64]


def tile_picture(tiles: Tiles, q_len: int, kv_len: int) -> Element:
    """Draw the verdicts."""
    svg, body = _frame("tile picture", q_len, kv_len)
    cells = tiles.cells.astype(np.int64)
    for value, name in _CLASSES.items():
        _paths(body, cells == value, name, tiles, q_len, kv_len)
    return svg


def mask_picture(tiles: Tiles, q_len: int, kv_len: int) -> Element:
    """Draw how many of each cell's elements count."""
    svg, body = _frame("mask picture", q_len, kv_len)
    for step in range(SHADES + 1):
        _paths(body, tiles.shades == step, f"d{step}", tiles, q_len, kv_len)
    return svg


def _sides(q_len: int, kv_len: int) -> tuple[float, float]:
    longest = max(q_len, kv_len, 1)
    return max(_LEAST, _SIDE * kv_len / longest), max(_LEAST, _SIDE * q_len / longest)


def _frame(label: str, q_len: int, kv_len: int) -> tuple[Element, Element]:
    width, height = _sides(q_len, kv_len)
    box = f"0 0 {width + _LEFT + _REST:g} {height + _TOP + _REST:g}"
    svg = Element("svg", {"viewBox": box, "role": "img", "aria-label": label})
    svg.set("width", f"{width + _LEFT + _REST:g}")
    body = SubElement(svg, "g", {"transform": f"translate({_LEFT} {_TOP})"})
    for length, side, across in ((kv_len, width, True), (q_len, height, False)):
        for at in _ticks(length, side):
            _tick(body, at, side * at / max(length, 1), across)
    _text(svg, _LEFT + width / 2, 11, "key column", "axis")
    turned = f"rotate(-90 11 {_TOP + height / 2:g})"
    _text(svg, 11, _TOP + height / 2, "query row", "axis", transform=turned)
    frame = {"width": f"{width:g}", "height": f"{height:g}", "class": "frame"}
    picture = SubElement(body, "g")
    SubElement(body, "rect", frame)
    return svg, picture


def _ticks(length: int, side: float) -> Iterable[int]:
    """Yield powers of two apart, as many as there is room for; always the end."""
    if side < 2 * _LEAST:
        return (0, length)
    step = max(1, 1 << max(0, (length - 1).bit_length() - 2))
    inner = [at for at in range(0, length, step) if length - at >= step // 2]
    return (*inner, length)


def _tick(body: Element, at: int, place: float, across: bool) -> None:
    line = {"class": "tick"}
    if across:
        line |= {"x1": f"{place:g}", "x2": f"{place:g}", "y1": "-4", "y2": "0"}
        _text(body, place, -7, count(at), "number")
    else:
        line |= {"x1": "-4", "x2": "0", "y1": f"{place:g}", "y2": f"{place:g}"}
        _text(body, -7, place + 3.5, count(at), "number end")
    SubElement(body, "line", line)


def _text(
    parent: Element, x: float, y: float, text: str, style: str, transform: str | None = None
) -> None:
    element = SubElement(parent, "text", {"x": f"{x:g}", "y": f"{y:g}", "class": style})
    if transform is not None:
        element.set("transform", transform)
    element.text = text


def _paths(
    body: Element, here: npt.NDArray[np.bool_], name: str, tiles: Tiles, q_len: int, kv_len: int
) -> None:
    """Draw all cells of one kind, those at the ends cut where the sequence ends."""
    width, height = _sides(q_len, kv_len)
    side = tiles.tile * tiles.span
    parts = []
    for top, bottom, left, right in rectangles(here):
        x0, x1 = (width * min(n * side, kv_len) / kv_len for n in (left, right))
        y0, y1 = (height * min(n * side, q_len) / q_len for n in (top, bottom))
        parts.append(f"M{x0:.5g} {y0:.5g}H{x1:.5g}V{y1:.5g}H{x0:.5g}z")
    if parts:
        SubElement(body, "path", {"class": name, "d": "".join(parts)})


def rectangles(here: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int]]:
    """Yield disjoint rectangles (top, bottom, left, right) that cover what is true."""
    open_: dict[tuple[int, int], int] = {}
    for row in range(here.shape[0] + 1):
        runs = set(_runs(here[row])) if row < here.shape[0] else set()
        for run in [r for r in open_ if r not in runs]:
            yield open_.pop(run), row, *run
        for run in sorted(runs - open_.keys()):
            open_[run] = row


def _runs(line: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(np.int8), [0]))))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
