"""The manual: its examples are sound and run, its errors and values are the compiler's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import attnlang
from attnlang.compiler import check_source
from attnlang.diagnostics.render import render_text
from attnlang.emit.op_schema import takes_v
from attnlang.invent.inputs import invent
from attnlang.invent.scalars import Request
from attnlang.invent.settings import Settings
from attnlang.ops.arguments import Shape
from attnlang.sema import imports, names, session
from attnlang.sema.modules import prelude
from attnlang.sources import Source
from attnlang.syntax import limits
from attnlang.syntax.formatter import format_source

ROOT = Path(__file__).resolve().parent.parent
MANUAL = ROOT / "docs" / "language.md"
TEXT = MANUAL.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```attn\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
ERRORS = re.findall(
    r"^```attn wrong\n(.*?)^```\n+```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL
)
VALUES = re.findall(r"^\| `(.+?)` \| `(.+: .+ = .+)` \| (.+) \|$", TEXT, re.MULTILINE)
NAMES = re.findall(r"attention (\w+)", "\n".join(EXAMPLES))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 14
    assert len(ERRORS) == TEXT.count("```attn wrong") == TEXT.count("```text") >= 4
    assert len(VALUES) >= 19
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: re.findall(r"attention (\w+)", e)[0])
def test_an_example_is_sound_and_in_the_layout(example: str) -> None:
    source = Source("language.md", example)
    result = check_source(source)
    assert not result.diagnostics, "\n\n".join(render_text(d) for d in result.diagnostics)
    assert result.variants
    assert format_source(source).text == example


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name: str) -> None:
    """The reference computes it on inputs drawn by use, with its optional tensors and without."""
    (text,) = (e for e in EXAMPLES if re.search(rf"^attention {name}\b", e, re.MULTILINE))
    ir = next(v for v in check_source(Source("language.md", text)).variants if v.name == name)
    optional = frozenset(p.name for p in ir.params if getattr(p, "optional", False))
    dv = 16 if takes_v(ir) else 8
    variant = attnlang.loads(text, name=name)
    for given in (frozenset(), optional):
        request = Request(
            Shape(2, 4, 2, 9, 13, 16, dv), torch.float64, 7, Settings({}, {}, {}),
            optional=given, vary=False,
        )  # fmt: skip
        call = invent(ir, request)
        v = call.v if takes_v(ir) else None
        out = variant.reference(call.q, call.k, v, seed=5, **call.params)
        assert out.shape == (2, 4, 9, dv)
        assert torch.isfinite(out).all()
        assert out.abs().sum() > 0


@pytest.mark.parametrize(("example", "shown"), ERRORS)
def test_an_error_is_the_one_shown(example: str, shown: str) -> None:
    (found,) = check_source(Source("spec.attn", example)).errors
    assert render_text(found) + "\n" == shown


@pytest.mark.parametrize(("expression", "where", "value"), VALUES)
def test_a_value_is_the_one_stated(expression: str, where: str, value: str) -> None:
    """One element, whose weight is the expression and whose value is 1."""
    text = f"attention one({where}):\n    weights = float({expression})\n"
    variant = attnlang.loads(text)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    if value.startswith("an error"):
        with pytest.raises(ZeroDivisionError):
            variant.reference(one, one, one)
    else:
        assert variant.reference(one, one, one).item() == float(value)


def test_the_calls_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    scope: dict[str, object] = {"attnlang": attnlang, "torch": torch}
    for block in blocks:
        exec(compile(block, "language.md", "exec"), scope)


def test_every_name_of_the_language_is_explained() -> None:
    code = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", TEXT))))
    known = {*names.BUILTIN_VALUES, *names.FUNCTIONS, *names.CALL_KEYWORDS, *prelude().own}
    assert not known - code
    read = set(re.findall(r"\w+", " ".join(EXAMPLES)))
    assert {"rope", "rms_norm", "dot", "dropout", "softmax", "lse", "row_sum", "require"} <= read


def test_the_limits_are_the_codes() -> None:
    rows = TEXT.split("## Limits")[1]
    for number in (limits.MAX_TOKENS, limits.MAX_ITEMS, limits.MAX_DEPTH, limits.MAX_NAMES):
        assert f"{number:,} " in rows
    assert limits.MAX_FILE_BYTES == 2**20
    assert "1 MiB" in rows
    assert f"{session.MAX_NODES:,} operations, {session.MAX_DEPTH} levels deep" in rows
    assert f"{imports.MAX_FILES} imported files" in rows
