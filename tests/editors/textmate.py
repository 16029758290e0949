"""A tokeniser that runs a TextMate grammar: `match`, `captures`, `begin`/`end`, `include`.

As an editor does it: a line at a time, at each place the rule that matches first, the earlier rule
where two match at one place, and inside `begin` ... `end` the end before the rules. Python's `re`
stands in for Oniguruma; the grammar keeps to what both read alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A stretch of a line and its scopes, the innermost last."""

    text: str
    start: int
    scopes: tuple[str, ...]


def tokenize(grammar: dict, text: str) -> list[Piece]:
    """Return the pieces of a text; what no rule took has the grammar's own scope alone."""
    machine = _Machine(grammar)
    at = 0
    for line in text.splitlines(keepends=True):
        machine.line(line.rstrip("\n"), at)
        at += len(line)
    return machine.pieces


class _Machine:
    def __init__(self, grammar: dict) -> None:
        self.grammar = grammar
        self.pieces: list[Piece] = []
        self.open: list[dict] = []

    def rules(self, patterns: list[dict]) -> list[dict]:
        found = []
        for rule in patterns:
            if "include" in rule:
                found += self.rules([self.grammar["repository"][rule["include"].removeprefix("#")]])
            elif "match" in rule or "begin" in rule:
                found.append(rule)
            else:
                found += self.rules(rule["patterns"])
        return found

    def scopes(self) -> tuple[str, ...]:
        return (self.grammar["scopeName"], *(rule["name"] for rule in self.open))

    def emit(self, text: str, start: int, *more: str) -> None:
        if text:
            self.pieces.append(Piece(text, start, (*self.scopes(), *more)))

    def line(self, line: str, base: int) -> None:
        at = 0
        while True:
            inside = self.open[-1] if self.open else self.grammar
            # `start()` decides, then the order: the end of what is open goes first.
            found = []
            if self.open and (end := re.compile(inside["end"]).search(line, at)):
                found.append((end.start(), -1, end, None))
            for order, rule in enumerate(self.rules(inside.get("patterns", []))):
                pattern = re.compile(rule.get("match") or rule["begin"])
                if match := pattern.search(line, at):
                    found.append((match.start(), order, match, rule))
            if not found:
                self.emit(line[at:], base + at)
                return
            start, _, match, rule = min(found, key=lambda f: f[:2])
            self.emit(line[at:start], base + at)
            self.take(match, rule, base)
            if match.end() == at == start and rule is not None:
                return
            at = match.end()

    def take(self, match: re.Match, rule: dict | None, base: int) -> None:
        if rule is None:
            self.emit(match[0], base + match.start())
            self.open.pop()
        elif "begin" in rule:
            self.open.append(rule)
            self.emit(match[0], base + match.start())
        else:
            self.captures(match, rule, base)

    def captures(self, match: re.Match, rule: dict, base: int) -> None:
        name = [rule["name"]] if "name" in rule else []
        at = match.start()
        for group, capture in sorted(rule.get("captures", {}).items()):
            start, end = match.span(int(group))
            self.emit(match.string[at:start], base + at, *name)
            self.emit(match.string[start:end], base + start, *name, capture["name"])
            at = end
        self.emit(match.string[at : match.end()], base + at, *name)
