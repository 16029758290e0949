"""What the compiler made is found again, and only what it made, of the same, in the same way."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import environment

from attnlang.jit import cache, memo
from attnlang.jit.memo import remembered

SPEC = "attention a(w: int = 3): mask = q_idx - kv_idx < w"
WARM = f"""
import sys
import torch
import attnlang
q = torch.ones(1, 2, 8, 16)
out = attnlang.loads({SPEC!r})(q, q, q, w=5)
assert torch.allclose(out, q)
print(*(m for m in ("lark", "jinja2", "sympy", "attnlang.sema", "attnlang.emit.functor")
        if m in sys.modules))
"""


@dataclass(frozen=True)
class Made:
    number: int


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path))
    return tmp_path


def never() -> Made:
    raise AssertionError("it was made again")


def files(root: Path) -> list[Path]:
    return sorted((root / memo.FOLDER).iterdir())


def test_a_result_is_made_once(root: Path) -> None:
    assert remembered("x", ("a", 1), lambda: Made(1)) == Made(1)
    assert remembered("x", ("a", 1), never) == Made(1)


def test_another_kind_or_material_is_another_result(root: Path) -> None:
    remembered("x", ("a", 1), lambda: Made(1))
    assert remembered("y", ("a", 1), lambda: Made(2)) == Made(2)
    assert remembered("x", ("a", 2), lambda: Made(3)) == Made(3)
    assert len(files(root)) == 3


def test_another_compiler_is_another_result(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered("x", (), lambda: Made(1))
    monkeypatch.setattr(memo, "_compiler", lambda: "another")
    assert remembered("x", (), lambda: Made(2)) == Made(2)


def test_an_error_is_not_kept(root: Path) -> None:
    def fail() -> Made:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        remembered("x", (), fail)
    assert remembered("x", (), lambda: Made(1)) == Made(1)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[::-1]])
def test_a_damaged_file_is_made_again(root: Path, damage) -> None:
    remembered("x", (), lambda: Made(1))
    (path,) = files(root)
    path.write_bytes(damage(path.read_bytes()))
    assert remembered("x", (), lambda: Made(2)) == Made(2)
    assert remembered("x", (), never) == Made(2)


def test_a_folder_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    assert remembered("x", (), lambda: Made(1)) == Made(1)
    assert remembered("x", (), lambda: Made(2)) == Made(2)


def test_what_is_too_deep_is_made_each_time(root: Path) -> None:
    deep: tuple[object, ...] = ()
    for _ in range(100_000):
        deep = (deep,)
    assert remembered("x", (), lambda: deep) is deep
    assert remembered("x", (), lambda: deep) is deep
    assert not (root / memo.FOLDER).exists() or not files(root)


def test_clear_forgets(root: Path) -> None:
    remembered("x", (), lambda: Made(1))
    cache.clear()
    assert remembered("x", (), lambda: Made(2)) == Made(2)


def test_a_warm_load_compiles_nothing(root: Path) -> None:
    def imported() -> list[str]:
        command = [sys.executable, "-c", WARM]
        env = environment(ATTNLANG_CACHE_DIR=str(root))
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        return done.stdout.split()

    assert "lark" in imported()
    assert imported() == []


def test_an_import_is_read_each_time(root: Path, tmp_path: Path) -> None:
    import attnlang

    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "a.attn").write_text('from "b.attn" import f\nattention a: mask = f(q_idx)\n')
    (folder / "b.attn").write_text("def f(x) = x < 3\n")
    before = attnlang.load(folder / "a.attn").ir
    (folder / "b.attn").write_text("def f(x) = x < 4\n")
    assert attnlang.load(folder / "a.attn").ir != before
