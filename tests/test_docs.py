"""The manual: its examples are sound, its numbers are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnlang.compiler import check_source
from attnlang.diagnostics.render import render_text
from attnlang.sources import Source
from attnlang.syntax import limits

MANUAL = Path(__file__).parent.parent / "docs" / "language.md"
TEXT = MANUAL.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```attn\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_sound(example: str) -> None:
    result = check_source(Source("language.md", example))
    assert not result.diagnostics, "\n\n".join(render_text(d) for d in result.diagnostics)
    assert result.variants


def test_the_error_shown_is_the_one_given() -> None:
    (shown,) = re.findall(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    (line,) = re.findall(r"^ 2 \| (.*)$", shown, re.MULTILINE)
    text = f"attention packed(doc: int[B, KV]):\n{line}\n"
    (found,) = (
        d for d in check_source(Source("packed.attn", text)).diagnostics if d.code == "A104"
    )
    assert render_text(found) + "\n" == shown


def test_the_limits_are_the_codes() -> None:
    rows = TEXT.split("## Limits")[1]
    for number in (limits.MAX_TOKENS, limits.MAX_ITEMS, limits.MAX_DEPTH, limits.MAX_NAMES):
        assert f"{number:,} " in rows
    assert limits.MAX_FILE_BYTES == 2**20
    assert "1 MiB" in rows
