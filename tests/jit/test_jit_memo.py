"""What the compiler made is found again, and only what it made, of the same, in the same way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import environment

import attnlang
from attnlang.assets import asset
from attnlang.jit import cache, memo
from attnlang.jit.memo import remembered

SPEC = "attention a(w: int = 3): mask = q_idx - kv_idx < w"


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
    return sorted((root / cache.MEMO).iterdir())


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
    for name in ("compiler_digest", "_compiler"):
        monkeypatch.setattr(memo, name, "another" if name == "_compiler" else lambda: "another")
    assert remembered("x", (), lambda: Made(2)) == Made(2)
    assert remembered("x", (), never) == Made(2)


EDITED = """
import sys
from pathlib import Path
import attnlang
from attnlang.jit.memo import remembered
stage = Path(sys.argv[1]) / "attnlang" / "compiler.py"
if sys.argv[2] == "edit":
    stage.write_text(stage.read_text() + "# another\\n")
print(attnlang.__file__)
print(remembered("x", (), lambda: sys.argv[2]))
"""


def test_what_edited_files_made_is_not_kept(tmp_path: Path) -> None:
    """A process lives while its files are edited, then its stages are imported."""
    for part in ("attnlang", "grammar", "codegen"):
        source = Path(attnlang.__file__).parent.parent / part
        shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))

    def made(name: str) -> str:
        command = [sys.executable, "-c", EDITED, str(tmp_path), name]
        env = environment(ATTNLANG_CACHE_DIR=str(tmp_path / "cache"))
        done = subprocess.run(
            command, capture_output=True, text=True, env=env, check=True, cwd=tmp_path
        )
        where, result = done.stdout.split()
        assert Path(where).is_relative_to(tmp_path)
        return result

    assert made("before") == "before"
    assert made("again") == "before"
    assert made("edit") == "before"  # found: it is what the files that it began with make
    assert made("edit") == "edit"  # of the edited files, but edited once more since
    assert made("after") == "after"
    assert made("again") == "after"


TRAINED = "attention a(w: float):\n  score = score * w\n  mask = causal\n"
IMPORTED = f"""
import sys
import torch
import attnlang
q = torch.ones(1, 2, 8, 16, requires_grad=True)
attnlang.loads({TRAINED!r})(q, q, q, w=1.5).sum().backward()
LAZY = ("lark", "jinja2", "sympy", "attnlang.sema", "attnlang.emit.functor")
print(*(m for m in LAZY if m in sys.modules))
print(*(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "attnlang"), sep="\\n")
"""


def imported(root: Path) -> tuple[list[str], set[Path]]:
    """Train in a process of its own; return what a warm one needs not, and the package's files."""
    command = [sys.executable, "-c", IMPORTED]
    env = environment(ATTNLANG_CACHE_DIR=str(root))
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    lazy, *files = done.stdout.splitlines()
    return lazy.split(), {Path(line) for line in files}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], set[Path]]:
    """A cache that a process has filled, and what that process imported."""
    root = tmp_path_factory.mktemp("trained")
    return root, *imported(root)


def test_every_module_that_a_result_can_depend_on_identifies_the_compiler(
    trained: tuple[Path, list[str], set[Path]],
) -> None:
    _, _, used = trained
    package = Path(attnlang.__file__).parent
    expected = ("sources.py", "options.py", "assets.py", "sema/analyse.py", "invent/shape.py")
    assert used >= {package / name for name in expected}
    read = set(memo.compiler_files())
    assert read >= used
    assert read >= {asset("grammar", name) for name in ("attn.lark", "prelude.attn")}
    assert read >= set(asset("codegen", "module").rglob("*.j2"))
    assert len(read) == len(memo.compiler_files())


def test_another_version_of_a_library_is_another_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    before = memo.compiler_digest()
    assert before == memo.compiler_digest()
    monkeypatch.setattr(memo, "_version", lambda library: "0.0" if library == "sympy" else "1.0")
    changed = memo.compiler_digest()
    monkeypatch.setattr(memo, "_version", lambda library: "1.0")
    assert len({before, changed, memo.compiler_digest()}) == 3


def test_others_may_read_what_is_kept_and_nothing_else_is_left(root: Path) -> None:
    remembered("x", (), lambda: Made(1))
    (path,) = files(root)
    assert path.stat().st_mode & 0o777 == 0o644
    assert not list((root / "tmp").iterdir())


def test_options_of_the_build_do_not_matter_to_what_is_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNLANG_JOBS", "0")
    assert attnlang.loads(SPEC).ir.name == "a"
    assert files(root)


def test_where_there_is_no_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ATTNLANG_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert remembered("x", (), lambda: Made(1)) == Made(1)
    assert remembered("x", (), lambda: Made(2)) == Made(2)
    assert attnlang.loads(SPEC).ir.name == "a"


def test_what_nobody_reads_is_swept(root: Path) -> None:
    day = 24 * 3600
    for kind, age in (("new", 0), ("read", 29), ("unread", 31)):
        remembered(kind, (), lambda: Made(1))
        (path,) = (p for p in files(root) if p.name.startswith(f"{kind}-"))
        then = path.stat().st_mtime - age * day
        os.utime(path, (then, then))
    remembered("read", (), never)
    cache.Store(root).sweep()
    assert [p.name.split("-")[0] for p in files(root)] == ["new", "read"]
    read = files(root)[1]
    assert time.time() - read.stat().st_mtime < day


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
    assert not (root / cache.MEMO).exists() or not files(root)


def test_clear_forgets(root: Path) -> None:
    remembered("x", (), lambda: Made(1))
    cache.clear()
    assert remembered("x", (), lambda: Made(2)) == Made(2)


def test_a_warm_process_compiles_nothing(trained: tuple[Path, list[str], set[Path]]) -> None:
    root, cold, _ = trained
    assert "lark" in cold
    warm, _ = imported(root)
    assert warm == []


def test_an_import_is_read_each_time(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "a.attn").write_text('from "b.attn" import f\nattention a: mask = f(q_idx)\n')
    (folder / "b.attn").write_text("def f(x) = x < 3\n")
    before = attnlang.load(folder / "a.attn").ir
    (folder / "b.attn").write_text("def f(x) = x < 4\n")
    assert attnlang.load(folder / "a.attn").ir != before
