"""Imports: what they read, what they refuse, and what is told about it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from attnlang.sema import Analysis, ImportResolver, analyse
from attnlang.sources import Source
from attnlang.syntax.parser import parse


def run(root: Path | None, text: str, *include: Path) -> Analysis:
    path = "main.attn" if root is None else str(root / "main.attn")
    result = parse(Source(path, text))
    assert not result.diagnostics
    return analyse(result.file, resolve=ImportResolver(root, include))


def codes(root: Path | None, text: str, *include: Path) -> list[str]:
    return [d.code for d in run(root, text, *include).diagnostics]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


USE = 'from "{}" import near\nattention t:\n    mask = near(4)\n'
NEAR = "def near(w) = q_idx - kv_idx < w\n"


def test_a_file_beside_and_one_below(tmp_path: Path) -> None:
    write(tmp_path / "a.attn", NEAR)
    write(tmp_path / "lib/b.attn", NEAR)
    for path in ("a.attn", "./a.attn", "lib/b.attn", "lib/../a.attn"):
        analysis = run(tmp_path, USE.format(path))
        assert not analysis.diagnostics
        assert len(analysis.variants) == 1


def test_an_imported_file_imports_from_its_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "lib/a.attn", 'from "deep/b.attn" import far\ndef near(w) = far(w)\n')
    write(tmp_path / "lib/deep/b.attn", "def far(w) = q_idx - kv_idx < w\n")
    assert not codes(tmp_path, USE.format("lib/a.attn"))
    write(tmp_path / "top.attn", NEAR)
    write(tmp_path / "lib/a.attn", 'from "../top.attn" import near\n' + "def x = near(1)\n")
    assert codes(tmp_path, USE.format("lib/a.attn")) == ["A406"]


def test_include_folders(tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other / "a.attn", NEAR)
    (tmp_path / "spec").mkdir()
    assert codes(tmp_path / "spec", USE.format("a.attn")) == ["A405"]
    assert not codes(tmp_path / "spec", USE.format("a.attn"), other)
    assert not codes(None, USE.format("a.attn"), other)
    assert codes(None, USE.format("a.attn")) == ["A405"]


@pytest.mark.parametrize(
    "path",
    [
        "../a.attn",
        "lib/../../a.attn",
        "/a.attn",
        "~/a.attn",
        "a.txt",
        ".attn",
        "C:/a.attn",
        "a\\\\b.attn",
    ],
)
def test_paths_that_lead_out(tmp_path: Path, path: str) -> None:
    write(tmp_path / "a.attn", NEAR)
    write(tmp_path / "a.txt", NEAR)
    (tmp_path / "spec/lib").mkdir(parents=True)
    assert codes(tmp_path / "spec", USE.format(path)) == ["A406"]


def test_links_that_lead_out(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.attn", NEAR)
    spec = tmp_path / "spec"
    write(spec / "inside.attn", NEAR)
    (spec / "link.attn").symlink_to(secret)
    (spec / "folder").symlink_to(tmp_path)
    (spec / "fine.attn").symlink_to(spec / "inside.attn")
    (spec / "loop.attn").symlink_to(spec / "loop.attn")
    assert codes(spec, USE.format("link.attn")) == ["A406"]
    assert codes(spec, USE.format("folder/secret.attn")) == ["A406"]
    assert codes(spec, USE.format("loop.attn")) in (["A405"], ["A406"])
    assert not codes(spec, USE.format("fine.attn"))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.attn").mkdir()
    os.mkfifo(tmp_path / "pipe.attn")
    assert codes(tmp_path, USE.format("folder.attn")) == ["A406"]
    assert codes(tmp_path, USE.format("pipe.attn")) == ["A406"]


def test_unreadable_text(tmp_path: Path) -> None:
    (tmp_path / "a.attn").write_bytes(b"# \xff\n")
    assert codes(tmp_path, USE.format("a.attn")) == ["A409"]
    write(tmp_path / "a.attn", "#" * (2 << 20))
    assert codes(tmp_path, USE.format("a.attn")) == ["A130"]


def test_cycles(tmp_path: Path) -> None:
    write(tmp_path / "a.attn", 'from "b.attn" import far\n' + NEAR)
    write(tmp_path / "b.attn", 'from "a.attn" import near\ndef far(w) = near(w)\n')
    analysis = run(tmp_path, USE.format("a.attn"))
    assert [d.code for d in analysis.diagnostics] == ["A407"]
    assert analysis.diagnostics[0].span.source.path.endswith("b.attn")
    assert analysis.diagnostics[0].label == "`a.attn` -> `b.attn` -> `a.attn`"


def test_a_file_cannot_import_itself(tmp_path: Path) -> None:
    text = 'from "main.attn" import near\n' + "attention t:\n    mask = near(4)\n"
    write(tmp_path / "main.attn", text)
    assert codes(tmp_path, text) == ["A407"]


def test_errors_of_an_imported_file_are_told_once(tmp_path: Path) -> None:
    write(tmp_path / "a.attn", NEAR + "def bad = nowhere\ndef worse = kv_idx <\n")
    write(tmp_path / "b.attn", 'from "a.attn" import near, bad\ndef far = bad\ndef x = near(1)\n')
    text = (
        'from "a.attn" import near\nfrom "b.attn" import far, x\n'
        "attention t:\n    mask = near(4) and far and x\n"
    )
    analysis = run(tmp_path, text)
    assert [d.code for d in analysis.diagnostics] == ["A101", "A201"]
    assert not analysis.variants


def test_names_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path / "b.attn", NEAR)
    write(tmp_path / "a.attn", 'from "b.attn" import near\ndef far = near(2)\nattention full:\n')
    text = 'from "a.attn" import {}\nattention t:\n    mask = {}\n'
    labels = []
    for name in ("near", "full", "nothing", "causal"):
        (found,) = run(tmp_path, text.format(name, "far" if name == "x" else name)).diagnostics
        assert found.code == "A408"
        labels.append(found.label)
    assert len(set(labels)) == 4


def test_imported_names_share_the_namespace(tmp_path: Path) -> None:
    write(tmp_path / "a.attn", NEAR)
    assert codes(tmp_path, USE.format("a.attn") + "def near = 1\n") == ["A212"]
    local = USE.format("a.attn") + "    near = 3\n    v = v * near\n"
    assert codes(tmp_path, local) == ["A212"]


def test_unread_imports_are_warnings(tmp_path: Path) -> None:
    write(tmp_path / "a.attn", NEAR)
    assert codes(tmp_path, 'from "a.attn" import near\nattention t:\n') == ["W103"]
    assert not codes(tmp_path, 'from "a.attn" import near\ndef far = 1\n')


def test_too_many_files(tmp_path: Path) -> None:
    for i in range(100):
        write(tmp_path / f"f{i}.attn", f"def f{i} = {i}\n")
    lines = [f'from "f{i}.attn" import f{i}' for i in range(100)]
    total = " + ".join(f"f{i}" for i in range(50))
    more = " + ".join(f"f{i}" for i in range(50, 100))
    text = "\n".join(lines) + f"\nattention t:\n    x = {total}\n    score = score + x + ({more})\n"
    assert set(codes(tmp_path, text)) == {"A410"}


def lines(count: int) -> str:
    return "\n".join(f'from "m{i}.attn" import d{i}' for i in range(count))


@pytest.mark.parametrize("tail", ["\ndef y = " + " < ".join(["x"] * 8_000), "\n" + "x " * 20_001])
def test_imports_are_limited_together_by_words(tmp_path: Path, tail: str) -> None:
    """Also where a file by itself has too many to be read."""
    for i in range(12):
        write(tmp_path / f"m{i}.attn", f"def x = 1\ndef d{i} = 1{tail}")
    start = time.process_time()
    analysis = run(tmp_path, lines(12))
    assert time.process_time() - start < 8
    refused = [d for d in analysis.diagnostics if d.code == "A410"]
    assert 7 <= len(refused) <= 9
    assert refused[0].headline == "more than 60,000 words and signs are imported"


def test_imports_are_limited_together_by_characters(tmp_path: Path) -> None:
    for i in range(6):
        write(tmp_path / f"m{i}.attn", f"def d{i} = 1\n" + "#" * 700_000)
    analysis = run(tmp_path, lines(6))
    assert [d.headline for d in analysis.diagnostics if d.code == "A410"] == [
        "more than 1,048,576 characters are imported"
    ] * 4
