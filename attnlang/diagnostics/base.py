"""The base of all diagnostics.

A diagnostic is a frozen dataclass beside the checker that raises it: its fields
are the data of one mistake, its properties the words. Call sites pass data,
never prose. Codes: A1xx syntax, A2xx names, types and scopes, A3xx structure of
a variant, A4xx limits and imports, A5xx what this version cannot run yet,
W1xx warnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from attnlang.sources import Span


class Severity(StrEnum):
    """How bad it is: an error stops the compiler, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Label:
    """A span with a word on it; the primary label is underlined with `^`, others with `-`."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that is wrong, at one place.

    A subclass is `@dataclass(frozen=True, slots=True)`, sets `code`, and overrides `headline` and,
    where they say something, `label`, `secondary`, `notes` and `help`. Texts are lowercase,
    without a final stop, with code in backticks.
    """

    code: ClassVar[str]
    severity: ClassVar[Severity] = Severity.ERROR

    span: Span = field(kw_only=True)

    @property
    def headline(self) -> str:
        """What is wrong, in one line."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The words under the underlined part; may be empty."""
        return ""

    @property
    def secondary(self) -> tuple[Label, ...]:
        """Other places that belong to the mistake."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Facts that explain the rule."""
        return ()

    @property
    def help(self) -> str | None:
        """What to do about it; the only text that advises."""
        return None


class SpecError(Exception):
    """A spec was rejected. `diagnostics` holds every error found (and the warnings beside them)."""

    diagnostics: tuple[Diagnostic, ...]

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        from attnlang.diagnostics.render import render_text

        return "\n\n".join(render_text(d) for d in self.diagnostics)
