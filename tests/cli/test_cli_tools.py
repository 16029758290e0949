"""`attnlang help`, `doctor` and `cache`."""

import pytest

from attnlang.diagnostics.explain import codes


@pytest.mark.parametrize("code", codes()[:3])
def test_help_prints_the_page(cli, code):
    done = cli("help", code.lower())
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"# {code}: ")


@pytest.mark.parametrize("code", ["A999", "nonsense", "../A101"])
def test_help_of_no_diagnostic(cli, code):
    done = cli("help", code)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: no diagnostic has the code {code}")


def test_the_doctor_names_the_compiler(cli):
    done = cli("doctor")
    assert done.code == 0
    assert "torch" in done.out


def test_the_cache_is_told_and_emptied(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path))
    entry = tmp_path / "units" / "some-key"
    entry.mkdir(parents=True)
    (entry / "object.so").write_bytes(b"x" * 3 * 2**20)
    (tmp_path / "memo").mkdir()
    (tmp_path / "memo" / "op-some-key").write_bytes(b"x" * 2**20)
    done = cli("cache")
    assert done.out == f"{tmp_path}\n1 built objects, 1 kept results, 4.0 MiB\n"
    assert cli("cache", "info").out == done.out
    gone = cli("cache", "clear").out
    assert gone == f"{tmp_path}\nremoved 1 built objects, 1 kept results, 4.0 MiB\n"
    assert not entry.exists()
    assert cli("cache").out == f"{tmp_path}\n0 built objects, 0 kept results, 0.0 MiB\n"


def test_the_cache_knows_two_actions(cli):
    assert cli("cache", "burn").code == 1
