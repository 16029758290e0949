"""Formulas as MathML, which browsers render without a script or a font of ours.

Maps boxes to elements. Invariant: every text of a spec becomes the text of an element, so that
whoever serialises the tree escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never
from xml.etree.ElementTree import Element

from attnlang.explain import boxes
from attnlang.explain.boxes import Box

_HIGH: Final = frozenset({"mfrac", "mtable", "munder"})


def to_mathml(box: Box) -> Element:
    """Return a `math` element."""
    return _element("math", [_element("mrow", _parts(box))], displaystyle="true")


def _element(tag: str, children: Iterable[Element], **attributes: str) -> Element:
    element = Element(tag, attributes)
    element.extend(children)
    return element


def _leaf(tag: str, text: str, **attributes: str) -> Element:
    element = Element(tag, attributes)
    element.text = text
    return element


def _one(box: Box) -> Element:
    parts = _parts(box)
    return parts[0] if len(parts) == 1 else _element("mrow", parts)


def _parts(box: Box) -> list[Element]:
    match box:
        case boxes.Name(text, vector):
            attributes = {"class": "v"} if vector else {}
            return [_leaf("mi", text, **attributes)]
        case boxes.Number(text):
            return [_leaf("mn", text)]
        case boxes.Operator(text, prefix):
            form = {"form": "prefix"} if prefix else {"form": "infix"}
            return [_leaf("mo", text, **form)]
        case boxes.Word(text):
            return [_leaf("mtext", text)]
        case boxes.Row(parts):
            return [e for part in parts for e in _parts(part)]
        case boxes.Fenced(inner, text_only=True):
            return _parts(inner)
        case boxes.Fenced(inner, left, right):
            return [_fenced(left, _parts(inner), right)]
        case boxes.Apply(function, args):
            applied = _leaf("mo", "\u2061")
            return [_one(function), applied, _fenced("(", _list(args), ")")]
        case boxes.Sub(base, indices, read):
            listed = _list(indices) if read else [e for i in indices for e in _parts(i)]
            if read and _is_high(listed):  # below the line nobody could read them
                return [_one(base), _fenced("[", listed, "]")]
            return [_element("msub", [_one(base), _element("mrow", listed)])]
        case boxes.Power(base, exponent):
            return [_element("msup", [_one(base), _one(exponent)])]
        case boxes.Fraction(top, bottom):
            return [_element("mfrac", [_one(top), _one(bottom)])]
        case boxes.Root(inner):
            return [_element("msqrt", _parts(inner))]
        case boxes.Sum(under, body):
            sign = _leaf("mo", "∑", movablelimits="false")
            return [_element("munder", [sign, _one(under)]), *_parts(body)]
        case boxes.Cases(condition, then, otherwise):
            return [_cases(condition, then, otherwise)]
        case _:
            assert_never(box)


def _cases(condition: Box, then: Box, otherwise: Box) -> Element:
    def line(value: Box, when: list[Element]) -> Element:
        cells = (_element("mtd", [_one(value)]), _element("mtd", when))
        return _element("mtr", cells)

    first = line(then, [_leaf("mtext", "if\u00a0"), *_parts(condition)])
    table = _element("mtable", [first, line(otherwise, [_leaf("mtext", "otherwise")])])
    return _element("mrow", [_leaf("mo", "{", form="prefix"), table])


def _fenced(left: str, inside: list[Element], right: str) -> Element:
    """Put brackets around a formula, as high as it is where it is higher than a line.

    Of a line of text a browser may find one bracket too low and the other not, for want of a font.
    """
    stretchy = "true" if _is_high(inside) else "false"
    opening = _leaf("mo", left, form="prefix", stretchy=stretchy)
    return _element(
        "mrow", [opening, *inside, _leaf("mo", right, form="postfix", stretchy=stretchy)]
    )


def _is_high(elements: Iterable[Element]) -> bool:
    """Whether a formula is higher than a line of text."""
    return any(e.tag in _HIGH for part in elements for e in part.iter())


def _list(items: tuple[Box, ...]) -> list[Element]:
    elements: list[Element] = []
    for item in items:
        if elements:
            elements.append(_leaf("mo", ",", separator="true"))
        elements += _parts(item)
    return elements
