"""`attnlang fmt`: what it writes, what it leaves alone, what it says."""

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import environment

LOOSE = "attention a( cap:float=1.0 ):score=score/cap\n"
NEAT = "attention a(cap: float = 1.0):\n    score = score / cap\n"
BAD = "attention a: score = = 1\n"


def test_a_file_is_rewritten(cli, spec):
    path = spec(LOOSE)
    done = cli("fmt", path)
    assert (done.code, done.out, done.err) == (0, f"{path}\n", "1 file reformatted\n")
    assert path.read_text() == NEAT
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_in_the_layout_is_not_touched(cli, spec):
    path = spec(NEAT)
    os.utime(path, ns=(1, 1))
    before = path.stat()
    done = cli("fmt", path)
    assert (done.code, done.out, done.err) == (0, "", "1 file as it should be\n")
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_check_lists_what_would_change(cli, spec):
    loose, neat = spec(LOOSE, "a.attn"), spec(NEAT, "b.attn")
    done = cli("fmt", "--check", neat, loose)
    assert (done.code, done.out) == (1, f"{loose}\n")
    assert done.err == "1 file would be reformatted, 1 file as it should be\n"
    assert loose.read_text() == LOOSE
    assert cli("fmt", "--check", neat).code == 0


def test_a_folder(cli, spec, tmp_path):
    paths = [spec(LOOSE, f"f/{name}.attn") for name in ("a", "b", "deep/c")]
    other = spec(LOOSE, "f/notes.txt")
    assert cli("fmt", tmp_path / "f").code == 0
    assert [p.read_text() for p in paths] == [NEAT] * 3
    assert other.read_text() == LOOSE


def test_a_syntax_error_leaves_the_file_and_formats_the_others(cli, spec):
    bad, loose = spec(BAD, "bad.attn"), spec(LOOSE, "loose.attn")
    done = cli("fmt", bad, loose)
    assert (done.code, done.out) == (1, f"{loose}\n")
    assert f"error[A101]: expected an expression, found `=`\n  --> {bad}:1:22" in done.err
    assert done.err.endswith("1 file reformatted, 1 file left with errors\n")
    assert (bad.read_text(), loose.read_text()) == (BAD, NEAT)


def test_an_error_of_meaning_is_none_of_its_business(cli, spec):
    path = spec("attention a: score=nowhere")
    assert cli("fmt", path).code == 0
    assert path.read_text() == "attention a:\n    score = nowhere\n"


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755, 0o664])
def test_the_mode_stays(cli, spec, mode):
    path = spec(LOOSE)
    path.chmod(mode)
    assert cli("fmt", path).code == 0
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_a_link(cli, spec, tmp_path):
    path = spec(LOOSE, "real/a.attn")
    link = tmp_path / "link.attn"
    link.symlink_to(path)
    assert cli("fmt", link).code == 0
    assert link.is_symlink()
    assert path.read_text() == NEAT
    assert [p.name for p in path.parent.iterdir()] == ["a.attn"]


def test_line_ends_and_bytes_stay(cli, tmp_path):
    path = tmp_path / "crlf.attn"
    path.write_bytes(LOOSE.replace("\n", "\r\n").encode())
    assert cli("fmt", path).code == 0
    assert path.read_bytes() == NEAT.replace("\n", "\r\n").encode()
    path.write_bytes(b"# caf\xe9\n" + LOOSE.encode())
    done = cli("fmt", path)
    assert done.code == 1
    assert "is not UTF-8 text (byte 5)" in done.err


def test_a_write_that_fails_leaves_the_file(cli, spec, monkeypatch):
    path = spec(LOOSE)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attnlang.cli.fmt.os.fsync", full)
    done = cli("fmt", path)
    assert done.code == 1
    assert f"error: cannot write {path}: No space left on device\n" in done.err
    assert path.read_text() == LOOSE
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_read_only_file_is_left(cli, spec, monkeypatch):
    path = spec(LOOSE)
    monkeypatch.setattr("attnlang.cli.fmt.os.access", lambda *_: False)
    done = cli("fmt", path)
    assert done.code == 1
    assert "it is read-only" in done.err
    assert path.read_text() == LOOSE


def test_a_missing_file(cli, tmp_path):
    done = cli("fmt", tmp_path / "none.attn")
    assert done.code == 1
    assert "no such file" in done.err


def test_stdin(cli, spec, monkeypatch):
    def typed(text):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))

    typed(LOOSE)
    assert cli("fmt", "-", "--check").out == "<stdin>\n"
    typed(BAD)
    done = cli("fmt", "-")
    assert (done.code, done.out) == (1, "")
    assert "<stdin>:1:22" in done.err
    assert cli("fmt", "-", spec(NEAT)).code == 1


PROGRAM = """\
import json, sys
from attnlang.cli.commands import run_command
code = run_command(["fmt", *sys.argv[1:]])
sys.stderr.write(json.dumps([code, sorted(sys.modules)]))
"""


def test_stdin_to_stdout_without_torch_or_sympy():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "-"],
        input=LOOSE.encode(),
        cwd=root,
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == NEAT
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert not {"torch", "sympy", "numpy", "jinja2", "rich"} & set(modules)
