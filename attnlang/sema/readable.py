"""Whether a value may be read in a place: its sources are among the place's."""

from __future__ import annotations

from typing import Final

from attnlang.ir import nodes as ir
from attnlang.sema import places
from attnlang.sema.scope import Scope
from attnlang.sema.session import Session
from attnlang.sema.unknown import NotReadableHere
from attnlang.sema.values import POISON, Value, WeightForm
from attnlang.sources import Span

_WORDS: Final = {
    places.TENSOR: "an element of a tensor",
    places.PARAMETER: "a parameter of the run",
    places.CONST: "a `const` parameter",
    "score": "the score of a query and a key",
}


def check_readable(session: Session, name: str, value: Value, span: Span, scope: Scope) -> Value:
    """Return a value that was read by `name`, or POISON where its place forbids it."""
    place = scope.place
    if isinstance(value, WeightForm) and place not in (places.WEIGHTS, places.LOCAL):
        error = NotReadableHere(name, place.title, place.words, span=span)
        session.report(error, scope.calls)
        return POISON
    part = value.factor if isinstance(value, WeightForm) else value
    if not isinstance(part, ir.Expr):
        return value
    forbidden = session.sources(part) - place.sources
    if not forbidden:
        return value
    source, leaf = next((s, x) for s, x in session.leaves(part) if s in forbidden)
    what = _WORDS.get(source) or f"`{source}`"
    origin = leaf.span if leaf.span != span else None
    error = NotReadableHere(name, place.title, place.words, what, origin, span=span)
    session.report(error, scope.calls)
    return POISON
