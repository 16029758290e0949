"""Elements of a page, and the two listings side by side.

Maps Python values to elements; texts are escaped when the tree is serialised, nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from xml.etree.ElementTree import Element

from attnlang.explain.explanation import CodeLine, Listing, SpecLine

Child = Element | str


_NUMBERS = frozenset({"number", "share", "time", "fired"})  # columns aligned to the right


def element(tag: str, *children: Child, cls: str = "", **attributes: str) -> Element:
    """Make an element; `cls` is its class."""
    made = Element(tag, {**({"class": cls} if cls else {}), **attributes})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def table(heading: Sequence[str], rows: Iterable[Sequence[Child]]) -> Element:
    """Make a table; a cell that is a `td` already stays as it is."""
    head = (
        [
            element(
                "tr",
                *(element("th", text, cls="n" if text in _NUMBERS else "") for text in heading),
            )
        ]
        if heading
        else []
    )
    body = (element("tr", *map(_cell, row)) for row in rows)
    return element("table", *head, *body)


def _cell(child: Child) -> Element:
    is_cell = isinstance(child, Element) and child.tag == "td"
    return child if isinstance(child, Element) and is_cell else element("td", child)


def sources(listing: Listing) -> Element:
    """Make the spec's lines and the generated ones, linked by their origins."""
    numbers = {line.key: i for i, line in enumerate(listing.spec)}
    first: dict[str, int] = {}
    for i, line in enumerate(listing.code):
        if line.origin is not None:
            first.setdefault(line.origin, i)
    spec: list[Child] = []
    for file, lines in groupby(listing.spec, key=lambda line: line.file):
        spec += [element("h3", file), element("div", *_spec(lines, numbers, first), cls="code")]
    parts = [element("div", *spec)]
    if listing.code:
        code = (_code_line(i, line, numbers) for i, line in enumerate(listing.code))
        generated = element("div", *code, cls="code")
        parts.append(element("div", element("h3", "generated"), generated))
    return element("div", *parts, cls="sources")


def _spec(
    lines: Iterable[SpecLine], numbers: dict[str, int], first: dict[str, int]
) -> Iterable[Element]:
    for line in lines:
        n = numbers[line.key]
        number = element("span", str(line.number), cls="num")
        own = {"id": f"s{n}"}
        if line.key in first:
            target = f"#c{first[line.key]}"
            yield element("a", number, line.text, cls=f"o{n}", href=target, **own)
        else:
            yield element("span", number, line.text, **own)


def _code_line(i: int, line: CodeLine, numbers: dict[str, int]) -> Element:
    if line.origin is None:
        return element("span", line.text or " ", id=f"c{i}")
    n = numbers[line.origin]
    return element("a", line.text, cls=f"o{n}", href=f"#s{n}", id=f"c{i}")
