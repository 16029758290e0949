"""docs/simplifier.md: each rule of its table exists, fires on its example, and gives its result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnlang.compiler import check_source
from attnlang.ir.printer import print_expr
from attnlang.sources import Source
from attnlang.symbolic.rules import RULES
from attnlang.symbolic.simplify import simplify

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "simplifier.md").read_text("utf-8")
ROWS = re.findall(r"^\| ([a-z-]+) \| `(.+?)` \| `(.+?)` \|", TEXT, re.MULTILINE)
HEADER = "x: float, y: float, n: int, m: int, c: bool, u: bool, w: bool"


def simplified(text: str) -> tuple[str, set[str]]:
    """Return an expression after simplification, and the names of the rules that fired."""
    for form in ("mask = {}", "score = {}"):
        spec = f"attention made({HEADER}):\n    {form.format(text)}\n"
        result = check_source(Source("made.attn", spec), folder=Path())
        if not result.errors:
            made = result.variants[0]
            after, fired = simplify(made.mask if form.startswith("mask") else made.score)
            return print_expr(after), {f.rule for f in fired}
    raise AssertionError(f"`{text}` is no expression")


@pytest.mark.parametrize(("name", "before", "after"), ROWS, ids=[r[0] for r in ROWS])
def test_a_rule_does_what_the_page_says(name: str, before: str, after: str) -> None:
    text, fired = simplified(before)
    assert text == after
    assert name in fired


def test_every_rule_is_on_the_page() -> None:
    assert [name for name, _, _ in ROWS] == [rule.name for rule in RULES]
