"""An explanation as text for a terminal: a section a heading, at most about 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from attnlang.explain import boxes
from attnlang.explain.explanation import Equation, Explanation, Machine, Roofline, Tiles, Work
from attnlang.explain.units import count, duration, quantity

_WIDTH = 100


def to_text(e: Explanation) -> str:
    """Return the text, without a line break at its end."""
    sections = (
        ("", _head(e)),
        ("meaning", _meaning(e)),
        ("tiles", _tiles(e)),
        ("found", _findings(e)),
        ("rules", _rules(e)),
        ("loops", _loops(e)),
        ("transforms", (f"{name:<4} {place}" for name, place in e.transforms)),
        ("work", _work(e)),
        ("roofline", _roofline(e.roofline)),
        ("kernels", _kernels(e)),
    )
    parts = []
    for heading, lines in sections:
        body = [line for text in lines for line in _wrap(text, "  " if heading else "")]
        if body:
            parts.append("\n".join([heading, *body] if heading else body))
    return "\n\n".join(parts)


def _wrap(text: str, indent: str) -> list[str]:
    deeper = indent + " " * (4 + len(text) - len(text.lstrip()))
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=deeper, drop_whitespace=True,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _head(e: Explanation) -> Iterator[str]:
    yield e.title
    if e.doc:
        yield e.doc


def _equation(equation: Equation) -> str:
    text = f"{boxes.to_text(equation.left)} = {boxes.to_text(equation.right)}"
    return f"{text}    ({equation.note})" if equation.note else text


def _meaning(e: Explanation) -> Iterator[str]:
    yield from map(_equation, e.meaning)
    yield "with " + ", ".join(f"{letter}: {told}" for letter, told in e.letters)


def _tiles(e: Explanation) -> Iterator[str]:
    s = e.shape
    if e.tiles is None:
        yield "not known before the scores are: the mask reads them"
        return
    t = e.tiles
    yield f"{count(t.all)} of {t.tile} x {t.tile} in Q {count(s.q)} x KV {count(s.kv)}, of one head"
    yield from _verdicts(t)
    if t.unknown:
        yield f"{', '.join(t.unknown)}: too large to invent, taken as unknown"


def _verdicts(t: Tiles) -> Iterator[str]:
    for name, found, told in (
        ("full", t.full, "computed without the mask"),
        ("partial", t.partial, "computed with it"),
        ("empty", t.empty, "skipped"),
    ):
        yield f"{name:<8} {count(found.tiles)} ({t.share(found):.1%}), {told}"


def _findings(e: Explanation) -> Iterator[str]:
    for finding in e.findings:
        yield f"{'yes' if finding.holds else 'no ':<4} {finding.name}: {finding.reason}"


def _rules(e: Explanation) -> Iterator[str]:
    before, after = e.operations
    yield f"operations for each element: {before} as written, {after} as lowered"
    for rule in e.fired:
        yield f"{rule.count:>3}  {rule.name}: {rule.example}"
    silent = f"{len(e.silent)} other rules found nothing to rewrite"
    yield f"{silent}" if e.fired else f"no rule fired: {silent}"


def _loops(e: Explanation) -> Iterator[str]:
    for term in e.terms:
        yield f"{term.level.value:<8} {term.name} = {boxes.to_text(term.value)}"
    for equation in e.kernel:
        yield f"element  {_equation(equation)}"


def _work(e: Explanation) -> Iterator[str]:
    s, w = e.shape, e.work
    yield f"B {s.b}, HQ {s.hq}, HKV {s.hkv}, D {s.d}, DV {s.dv}, float32"
    yield from work_lines(w)


def work_lines(w: Work) -> Iterator[str]:
    """Say what a call computes and moves."""
    tile = quantity(w.tile_flops, "FLOP")
    yield f"products     {quantity(w.product_flops, 'FLOP')}, {tile} a tile"
    yield f"elementwise  {quantity(w.operations, 'operations')}"
    yield f"functions    {quantity(w.functions, 'elementary functions')}"
    yield f"memory       {quantity(w.bytes, 'B')}, each byte once"
    yield f"intensity    {w.intensity:.3g} FLOP/B"


def machine_line(m: Machine) -> str:
    """Say what a machine can do."""
    return (
        f"{quantity(m.flops, 'FLOP/s')}, {quantity(m.functions, 'functions/s')}, "
        f"{quantity(m.bandwidth, 'B/s')} read, {m.threads} threads"
    )


def _roofline(r: Roofline | None) -> Iterator[str]:
    if r is None:
        return
    yield f"this machine: {machine_line(r.machine)} (measured in this process)"
    yield f"ridge at {r.ridge:.3g} FLOP/B"
    yield (
        f"arithmetic {duration(r.compute)} (products {duration(r.products)}, "
        f"elementwise {duration(r.elementwise)}, functions {duration(r.functions)}), "
        f"memory {duration(r.memory)}"
    )
    yield f"at least {duration(r.seconds)}, bound by {r.bound}"


def _kernels(e: Explanation) -> Iterator[str]:
    yield e.listing.refusal or "cpu: forward (lanes are queries), decode (lanes are keys)"
