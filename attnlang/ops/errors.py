"""What a wrong call raises."""

from __future__ import annotations

from functools import partial


class CallError(ValueError, TypeError):
    """A call's arguments are wrong: which one, what was expected, what came.

    It is a ValueError and a TypeError, so that callers need not know this package to catch it.
    """

    argument: str
    expected: str
    found: str
    help: str | None

    def __init__(
        self, argument: str, expected: str, found: str, *, help: str | None = None
    ) -> None:
        self.argument = argument
        self.expected = expected
        self.found = found
        self.help = help
        text = f"`{argument}`: expected {expected}, found {found}"
        super().__init__(f"{text} ({help})" if help else text)

    def __reduce__(self) -> tuple[object, ...]:
        """Let it leave a worker process as what it is."""
        again = partial(type(self), help=self.help)
        return again, (self.argument, self.expected, self.found)
