import subprocess
import sys

from attnlang.jit import ninja
from attnlang.jit.doctor import report


def find(checks, name):
    return next(check for check in checks if check.name == name)


def test_a_sound_machine_is_well():
    # In a process of its own: other tests load libraries that bring an OpenMP runtime along.
    code = (
        "from attnlang.jit.doctor import report; checks = report(); print(checks); "
        "assert checks.ok and all(not check.mend for check in checks); "
        "assert str(checks).count(chr(10)) == len(checks) - 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_missing_compiler_is_told_with_its_cure(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    checks = report()
    assert not checks.ok
    assert not find(checks, "C++ compiler").ok
    assert "apt install g++" in find(checks, "C++ compiler").mend
    assert "help: " in str(checks)


def test_an_unwritable_cache_is_told(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(file / "below"))
    check = find(report(), "cache folder")
    assert not check.ok
    assert "ATTNLANG_CACHE_DIR" in check.mend


def test_a_wrong_option_is_told(monkeypatch):
    monkeypatch.setenv("ATTNLANG_CPU", "z80")
    check = find(report(), "options")
    assert not check.ok
    assert "z80" in check.detail


def test_a_missing_ninja_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(ninja, "binary", lambda: tmp_path / "ninja")
    assert not find(report(), "ninja").ok
