"""An explanation as one HTML page: no network, no font, no script.

Maps an `Explanation` to text. Invariant: the page is a tree of elements, and only its serialisation
makes markup: what a spec says can be text or the value of an attribute, never a tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, tostring

from attnlang.assets import asset
from attnlang.explain.boxes import Name, Operator, Row
from attnlang.explain.explanation import Equation, Explanation, Listing, Roofline, Tiles
from attnlang.explain.html import Child, element, sources, table
from attnlang.explain.mathml import to_mathml
from attnlang.explain.svg import mask_picture, tile_picture
from attnlang.explain.text import machine_line, work_lines
from attnlang.explain.units import count, duration, quantity

# What HTML has no way to write.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def to_html(e: Explanation) -> str:
    """Return the page."""
    style = asset("codegen", "explain", "page.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{e.name}: attnlang explain"),
        element("link", rel="icon", href="data:,"),
        element("style", style + _links(e.listing)),
    )
    page = element("html", head, element("body", _main(e)), lang="en")
    for node in page.iter():
        if node.text:
            node.text = _CONTROLS.sub("\ufffd", node.text)
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def _main(e: Explanation) -> Element:
    sections: Sequence[tuple[str, Iterable[Child]]] = (
        ("What it means", _meaning(e)),
        ("Tiles", _tiles(e)),
        ("What was found", _findings(e)),
        ("Rules", _rules(e)),
        ("What is computed in which loop", _loops(e)),
        ("Transforms", _transforms(e)),
        ("Work", _work(e)),
        ("The spec and the code made of it", _listing(e.listing)),
    )
    children: list[Child] = [element("h1", e.title)]
    if e.doc:
        children.append(element("p", e.doc, cls="doc"))
    children.append(_cards(e))
    for heading, parts in sections:
        body = list(parts)
        if body:
            children.append(element("section", element("h2", heading), *body))
    return element("main", *children)


def _cards(e: Explanation) -> Element:
    cards = [("tiles visited", "unknown")] if e.tiles is None else [
        ("tiles visited", f"{e.tiles.visited / max(e.tiles.all, 1):.1%}"),
        ("without the mask", f"{e.tiles.share(e.tiles.full):.1%}"),
    ]  # fmt: skip
    cards.append(("arithmetic", quantity(e.work.flops, "FLOP")))
    cards.append(("memory", quantity(e.work.bytes, "B")))
    if e.roofline is not None:
        cards.append((f"at least, bound by {e.roofline.bound}", duration(e.roofline.seconds)))
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in cards),
        cls="cards",
    )


def _equation(equation: Equation) -> Element:
    formula = to_mathml(Row((equation.left, Operator("="), equation.right)))
    if not equation.note:
        return element("div", formula)
    return element("div", formula, element("span", equation.note, cls="note"))


def _meaning(e: Explanation) -> Iterable[Child]:
    yield element("div", *map(_equation, e.meaning), cls="equations")
    legend: list[Child] = []
    for letter, told in e.letters:
        legend += [", " if legend else "", to_mathml(Name(letter)), f" {told}"]
    yield element("p", *legend, cls="soft")


def _tiles(e: Explanation) -> Iterable[Child]:
    s = e.shape
    if e.tiles is None:
        yield element("p", "Not known before the scores are: the mask reads them.")
        return
    t = e.tiles
    lengths = f"{count(t.all)} tiles of {t.tile} × {t.tile} elements: {count(s.q)} queries, "
    yield element("p", f"{lengths}{count(s.kv)} keys, one head of one request.")
    cell = f"{t.span * t.tile} × {t.span * t.tile} elements"
    whole = "a tile" if t.span == 1 else f"{t.span} × {t.span} tiles"
    pictures = (
        (
            mask_picture(t, s.q, s.kv),
            f"The mask: the stronger the colour, the more of {cell} count.",
        ),
        (tile_picture(t, s.q, s.kv), f"The tiles, as the compiler knows them; a cell is {whole}."),
    )
    if s.q and s.kv:
        yield element(
            "div",
            *(element("figure", p, element("figcaption", told)) for p, told in pictures),
            cls="pictures",
        )
    yield _verdicts(t)
    if t.unknown:
        yield element("p", f"{', '.join(t.unknown)}: too large to invent, taken as unknown.")


def _verdicts(t: Tiles) -> Element:
    rows = []
    for name, found, told in (
        ("full", t.full, "every element counts: computed without the mask"),
        ("partial", t.partial, "computed with the mask"),
        ("empty", t.empty, "no element counts: skipped"),
    ):
        label = element("td", element("span", cls=f"key {name}"), name, cls="k")
        share = f"{t.share(found):.1%}"
        rows.append((label, _number(count(found.tiles)), _number(share), told))
    return table(("tiles", "number", "share", ""), rows)


def _number(text: str) -> Element:
    return element("td", text, cls="n")


def _findings(e: Explanation) -> Iterable[Child]:
    rows = [
        (element("td", f.name, cls=f"k {'yes' if f.holds else 'no'}"), f.reason) for f in e.findings
    ]
    yield table((), rows)


def _rules(e: Explanation) -> Iterable[Child]:
    before, after = e.operations
    yield element("p", f"Operations for each element: {before} as written, {after} as lowered.")
    if e.fired:
        rows = [
            (_number(str(r.count)), element("td", r.name, cls="k"), r.doc, _code(r.example))
            for r in e.fired
        ]
        yield table(("fired", "rule", "what it does", "here, first"), rows)
    else:
        yield element("p", "No rule fired: what was saved is work that left the inner loop.")
    rest = [(element("td", r.name, cls="k"), r.doc) for r in e.silent]
    title = f"{len(rest)} other rules found nothing to rewrite"
    yield element("details", element("summary", title), table((), rest))


def _code(text: str) -> Element:
    return element("code", text)


def _loops(e: Explanation) -> Iterable[Child]:
    rows: list[tuple[Child, ...]] = [
        (element("td", t.level.value, cls="k"), _code(t.name), to_mathml(t.value), "")
        for t in e.terms
    ]
    rows += [
        (element("td", "element", cls="k"), to_mathml(q.left), to_mathml(q.right), q.note)
        for q in e.kernel
    ]
    yield element("div", table(("loop", "name", "value", ""), rows), cls="scroll")


def _transforms(e: Explanation) -> Iterable[Child]:
    if e.transforms:
        yield table((), [(element("td", name, cls="k"), told) for name, told in e.transforms])


def _work(e: Explanation) -> Iterable[Child]:
    s = e.shape
    yield element("p", f"B {s.b}, HQ {s.hq}, HKV {s.hkv}, D {s.d}, DV {s.dv}, float32.")
    yield table((), [tuple(line.split(maxsplit=1)) for line in work_lines(e.work)])
    if e.roofline is not None:
        yield from _roofline(e.roofline)


def _roofline(r: Roofline) -> Iterable[Child]:
    yield element("p", f"This machine, measured: {machine_line(r.machine)}.")
    longest = max(r.seconds, 1e-30)
    rows = []
    for name, seconds in (
        ("matrix products", r.products),
        ("elementwise arithmetic", r.elementwise),
        ("elementary functions", r.functions),
        ("memory", r.memory),
    ):
        kind = "bar memory" if name == "memory" else "bar"
        bar = element("div", cls=kind, style=f"width:{100 * seconds / longest:.1f}%")
        label = element("td", name, cls="k")
        rows.append((label, _number(duration(seconds)), element("td", bar, cls="wide")))
    yield table(("what", "time", ""), rows)
    yield element(
        "p",
        f"At least {duration(r.seconds)}, bound by {r.bound}: the roofline's ridge is at "
        f"{r.ridge:.3g} FLOP/B.",
    )


def _listing(listing: Listing) -> Iterable[Child]:
    if listing.refusal:
        yield element("p", f"No kernel: {listing.refusal}.")
    else:
        yield element(
            "p",
            "Marked lines belong together: point at one, or follow it, to see the other.",
            cls="soft",
        )
    yield sources(listing)


def _links(listing: Listing) -> str:
    """Return the style that lights up all lines of one origin when one of them is pointed at."""
    keys = sorted({line.origin for line in listing.code if line.origin is not None})
    numbers = {line.key: i for i, line in enumerate(listing.spec)}
    return "".join(
        f".sources:has(.o{n}:hover) .o{n}{{background:var(--mark)}}\n"
        for n in sorted(numbers[key] for key in keys)
    )
