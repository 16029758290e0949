"""What all diagnostics of sema share, and the collector of them.

A mistake inside an inlined def is reported once, at the def, with the call as a second label; in
the prelude, which its user cannot mend, the call comes first. Invariant: no two diagnostics of one
class stand at one place, and there are at most MAX_DIAGNOSTICS, and a last one that says so.
"""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice

from attnlang.diagnostics.base import Diagnostic, Label, Severity
from attnlang.diagnostics.suggest import nearest
from attnlang.sources import Source, Span
from attnlang.syntax.limits import MAX_DIAGNOSTICS

MAX_CANDIDATES = 200  # a comparison of names costs some ten microseconds


@dataclass(frozen=True, slots=True)
class SemaDiagnostic(Diagnostic):
    """A diagnostic of sema. `via` are the calls that led to a place inside a def."""

    via: tuple[Label, ...] = field(default=(), kw_only=True)

    @property
    def related(self) -> tuple[Label, ...]:
        """The other places that belong to this mistake wherever it is."""
        return ()

    @property
    def secondary(self) -> tuple[Label, ...]:
        """The related places, then the calls."""
        return (*self.related, *self.via)


@dataclass(frozen=True, slots=True)
class TooManyMistakes(SemaDiagnostic):
    """The rest is not worth reading."""

    code = "A412"
    limit: int

    @property
    def headline(self) -> str:
        return f"more than {self.limit} errors and warnings; the rest is not shown"


@dataclass(frozen=True, slots=True)
class CallSite:
    """Where a def was named; `span` is the whole call."""

    function: str
    span: Span


@dataclass(slots=True)
class Reporter:
    """Collects diagnostics, and counts the steps of the work on a file."""

    prelude: Source | None = None
    steps: int = 0
    diagnostics: list[Diagnostic] = field(default_factory=list)
    _seen: set[tuple[str, int, int, int]] = field(default_factory=set)

    @property
    def full(self) -> bool:
        """Whether so much has been said that nothing more is."""
        return len(self.diagnostics) > MAX_DIAGNOSTICS

    def suggest(self, name: str, known: Iterable[str]) -> str | None:
        """Return the known name that a wrong one was probably meant to be."""
        return None if self.full else nearest(name, islice(known, MAX_CANDIDATES))

    @property
    def errors(self) -> int:
        """How many errors there are."""
        return sum(d.severity == Severity.ERROR for d in self.diagnostics)

    def report(self, diagnostic: Diagnostic, calls: tuple[CallSite, ...] = ()) -> None:
        """Keep a diagnostic that arose inside `calls`, the outermost first."""
        if self.full:
            return
        if calls and isinstance(diagnostic, SemaDiagnostic):
            diagnostic = _placed(diagnostic, calls, self.prelude)
        span = diagnostic.span
        key = (type(diagnostic).__name__, id(span.source), span.start, span.end)
        if key not in self._seen:
            self._seen.add(key)
            if len(self.diagnostics) == MAX_DIAGNOSTICS:
                diagnostic = TooManyMistakes(MAX_DIAGNOSTICS, span=diagnostic.span)
            self.diagnostics.append(diagnostic)

    def report_unless_wrong(self, diagnostic: Diagnostic) -> None:
        """Keep a diagnostic only if there is no error at its place."""
        span = diagnostic.span
        if not any(d.span == span and d.severity == Severity.ERROR for d in self.diagnostics):
            self.report(diagnostic)


def _placed(
    diagnostic: SemaDiagnostic, calls: tuple[CallSite, ...], prelude: Source | None
) -> SemaDiagnostic:
    """Say through which call a place was reached."""
    span = diagnostic.span
    own = [c for c in calls if c.span.source is not prelude]
    if span.source is prelude and own:
        inner = Label(span, f"in the prelude's `{own[-1].function}`")
        return replace(diagnostic, span=own[-1].span, via=(inner,))
    if any(c.span.source is span.source and _contains(c.span, span) for c in calls):
        return diagnostic
    site = calls[-1]
    return replace(diagnostic, via=(Label(site.span, f"in this use of `{site.function}`"),))


def _contains(outer: Span, inner: Span) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end
