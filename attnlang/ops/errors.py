"""What a wrong call raises."""

from __future__ import annotations


class CallError(ValueError, TypeError):
    """A call's arguments are wrong: which one, what was expected, what came.

    It is a ValueError and a TypeError, so that callers need not know this package to catch it.
    """

    argument: str
    expected: str
    found: str

    def __init__(
        self, argument: str, expected: str, found: str, *, help: str | None = None
    ) -> None:
        self.argument = argument
        self.expected = expected
        self.found = found
        text = f"`{argument}`: expected {expected}, found {found}"
        super().__init__(f"{text} ({help})" if help else text)
