"""Source texts and spans: where in a `.attn` file something stands.

A span is a pair of character offsets into a `Source`; lines and columns are
computed by the diagnostics renderer alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one `.attn` file. `path` is what diagnostics show (`<string>` for `loads`)."""

    path: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Span:
    """The half-open range of characters `[start, end)` of a source."""

    source: Source
    start: int
    end: int

    def to(self, other: Span) -> Span:
        """Return the span from the start of this one to the end of `other`."""
        return Span(self.source, self.start, other.end)
