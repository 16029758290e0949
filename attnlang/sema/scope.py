"""What an expression sees from where it stands; frozen, so that no branch leaks into another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attnlang.sema.modules import Module
from attnlang.sema.places import Place
from attnlang.sema.report import CallSite
from attnlang.sema.values import Value
from attnlang.sources import Span


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an expression stands.

    `args` are those of the def that is being put in place; None in an attention itself. `given`
    are the optional tensors that the guards around the expression prove to be there.
    """

    place: Place
    module: Module
    args: Mapping[str, Value] | None = None
    given: frozenset[str] = frozenset()
    calls: tuple[CallSite, ...] = ()

    def at(self, place: Place) -> Scope:
        """Return the scope of an operand that stands in another place."""
        return replace(self, place=place)

    def under(self, given: frozenset[str]) -> Scope:
        """Return the scope under a guard that proves tensors given."""
        return self if given <= self.given else replace(self, given=self.given | given)

    def inside(self, name: str, site: Span, module: Module, args: Mapping[str, Value]) -> Scope:
        """Return the scope of a def's expression that is named at `site`."""
        return replace(self, module=module, args=args, calls=(*self.calls, CallSite(name, site)))
