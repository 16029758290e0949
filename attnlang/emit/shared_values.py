"""Values over a tile that a printed function needs in several places: each a local, made once.

Maps the int expressions and comparisons of a mask that occur more than once, and read no tensor, to
`const Interval` and `const Verdict` in the order in which they are needed. Invariant: a local reads
those before it alone, and making one early costs arithmetic, no access to memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attnlang.emit.cpp_text import bare
from attnlang.emit.spec_lines import spec_line
from attnlang.ir.nodes import QK, Binary, Call, Compare, Dot, Expr, Kind, Load, Raw, Select
from attnlang.ir.traverse import children
from attnlang.symbolic.variability import Level, level


@dataclass(frozen=True, slots=True)
class LocalText:
    """A named value of a function's body."""

    type: str
    name: str
    value: str
    line: str


class SharedValues:
    """The locals of one function: those of `roots` that are shared, and what its printer names."""

    def __init__(self, roots: Iterable[Expr] = ()) -> None:
        self._arithmetic: dict[Expr, bool] = {}
        self._uses: Counter[Expr] = Counter()
        self._names: dict[Expr | tuple[str, str], str] = {}
        self._locals: list[LocalText] = []
        for root in roots:
            self._count(root)

    @property
    def locals(self) -> tuple[LocalText, ...]:
        """The locals, each after those that it reads."""
        return tuple(self._locals)

    def value(self, expr: Expr, text: Callable[[], str]) -> str:
        """Return the name of a shared value, or the text of another."""
        if self._uses[expr] < 2:
            return text()
        if expr not in self._names:
            if expr.type.kind == Kind.INT:
                name = self.named("Interval", "values", text(), spec_line(expr))
            else:
                name = self.named("Verdict", "holds", text(), spec_line(expr))
            self._names[expr] = name
        return self._names[expr]

    def named(self, type_: str, stem: str, value: str, line: str) -> str:
        """Return the name of the local that holds a value."""
        if (type_, value) not in self._names:
            name = f"{stem}_{sum(local.type == type_ for local in self._locals)}"
            self._names[type_, value] = name
            self._locals.append(LocalText(type_, name, bare(value), line))
        return self._names[type_, value]

    def _count(self, expr: Expr) -> None:
        if self._is_worth_a_name(expr):
            self._uses[expr] += 1
            if self._uses[expr] > 1:
                return  # what it is made of is needed once, for its local
        for child in children(expr):
            self._count(child)

    def _is_worth_a_name(self, expr: Expr) -> bool:
        match expr:
            case Binary() | Call() | Select() if expr.type.kind == Kind.INT:
                pass
            case Compare(left=left) if left.type.kind == Kind.INT:
                pass
            case _:
                return False
        return level(expr) not in (Level.CALL, Level.REQUEST) and self._is_arithmetic(expr)

    def _is_arithmetic(self, expr: Expr) -> bool:
        if expr not in self._arithmetic:
            self._arithmetic[expr] = (
                expr.type.kind in (Kind.INT, Kind.BOOL)
                and not isinstance(expr, Load | Dot | QK | Raw)
                and all(map(self._is_arithmetic, children(expr)))
            )
        return self._arithmetic[expr]
