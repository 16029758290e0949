"""The cases: bad programs with the text of their diagnostics, good ones with their trees.

A new error test is two files, `err/CODE_slug.attn` and `.err`, and no code here.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import attnlang
from attnlang.compiler import check_source
from attnlang.diagnostics import Diagnostic
from attnlang.diagnostics.explain import codes, explain
from attnlang.diagnostics.render import render_text
from attnlang.sources import Source
from attnlang.syntax.ast_printer import print_ast
from attnlang.syntax.parser import parse

CASES = Path(__file__).parent / "cases"
ERR = sorted((CASES / "err").glob("*.attn"))
OK = sorted((CASES / "ok").glob("*.attn"))
BLOCK = re.compile(r"^```attn (ok|wrong)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Golden = Callable[[Path, str], None]


# A first line that makes a long file of a short one: `# case: the last line 17000 times`.
REPEAT = re.compile(r"# case: the last line ([0-9]+) times\n")
# What is too long for an example, or needs a second file: their help texts show the right way only.
LIMITS = {"A130", "A131", "A132", "A135", "A136", "A407", "A408", "A409", "A410", "A411", "A412"}


def read(path: Path) -> Source:
    """A source whose path is the file's name alone, so that goldens hold on every machine."""
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    if (match := REPEAT.match(text)) is not None:
        *head, last = text.splitlines(keepends=True)
        text = "".join(head) + last * int(match[1])
    return Source(path.name, text)


def diagnose(source: Source, folder: Path | None) -> tuple[Diagnostic, ...]:
    """What `check` finds."""
    return check_source(source, folder=folder).diagnostics


@pytest.mark.parametrize("path", ERR, ids=lambda p: p.stem)
def test_err(path: Path, golden: Golden) -> None:
    found = diagnose(read(path), path.parent)
    expected = path.stem.partition("_")[0]
    assert expected in {d.code for d in found}, f"no {expected} among {[d.code for d in found]}"
    text = "\n\n".join(render_text(d) for d in found) + "\n"
    golden(path.with_suffix(".err"), text)


@pytest.mark.parametrize("path", OK, ids=lambda p: p.stem)
def test_ok(path: Path, golden: Golden) -> None:
    source = read(path)
    found = check_source(source, folder=path.parent).diagnostics
    assert not found, "\n\n".join(render_text(d) for d in found)
    golden(path.with_suffix(".ast"), print_ast(parse(source).file) + "\n")


def test_no_golden_without_its_case() -> None:
    stray = [
        path
        for suffix, cases in ((".err", ERR), (".ast", OK))
        for path in CASES.rglob(f"*{suffix}")
        if path.with_suffix(".attn") not in cases
    ]
    assert not stray


def diagnostic_classes() -> dict[str, type[Diagnostic]]:
    """Every diagnostic of the package by its code."""
    for module in pkgutil.walk_packages(attnlang.__path__, "attnlang."):
        if module.name.rpartition(".")[2] != "__main__":
            importlib.import_module(module.name)
    found: dict[str, type[Diagnostic]] = {}
    for cls in subclasses(Diagnostic):
        # A slotted dataclass leaves the class that it replaced among the subclasses.
        if cls.__module__.startswith("attnlang.") and "code" in vars(cls):
            other = found.setdefault(cls.code, cls)
            assert other.__qualname__ == cls.__qualname__, f"{cls.code} belongs to two messages"
    return found


def subclasses(cls: type[Diagnostic]) -> Iterator[type[Diagnostic]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_diagnostic_has_a_case_and_a_help_text() -> None:
    known = set(diagnostic_classes())
    assert known >= {"A101", "A112", "A136"}
    shown = {path.stem.partition("_")[0] for path in ERR}
    assert not known - shown, "no case in tests/cases/err"
    assert not shown - known, "a case of a code that nothing raises"
    assert not known - set(codes()), "no help text in grammar/help"
    assert not set(codes()) - known, "a help text of a code that nothing raises"


@pytest.mark.parametrize("code", codes())
def test_help_examples(code: str) -> None:
    """The wrong example has the error it stands for, the right one has none."""
    text = explain(code)
    assert text is not None
    lines = text.splitlines()
    assert lines[0].startswith(f"# {code}: ")
    blocks = BLOCK.findall(text)
    assert {kind for kind, _ in blocks} == ({"ok"} if code in LIMITS else {"ok", "wrong"})
    for kind, block in blocks:
        source = Source("help.attn", block)
        found = check_source(source).diagnostics
        shown = "\n\n".join(render_text(d) for d in found)
        assert (code in {d.code for d in found}) if kind == "wrong" else not found, shown
