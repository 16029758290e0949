"""`attnlang explain`: the text on stdout, the page and the picture as files, whole or not."""

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CAUSAL = EXAMPLES / "causal.attn"


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """Probe nothing: tests share their machine."""
    from attnlang.explain.explanation import Machine

    machine = Machine(flops=1e11, functions=1e9, bandwidth=1e10, threads=1)
    monkeypatch.setattr("attnlang.explain.machine.this_machine", lambda: machine)


def test_the_text(cli):
    done = cli(
        "explain", EXAMPLES / "sliding_window.attn", "--q-len", 512, "--set", "window_size=64"
    )
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("sliding_window(window_size = 64)\n")
    assert "A query sees itself" in done.out
    assert "64 of 64 x 64 in Q 512 x KV 512, of one head" in done.out
    # A window of one tile: the diagonal and what is left of it, each in part.
    assert "partial  15 (" in done.out
    assert "empty    49 (" in done.out
    assert "full     0 (" in done.out


def test_page_and_picture(cli, tmp_path):
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    done = cli("explain", CAUSAL, "--q-len", 256, "--html", page, "--plot", picture)
    assert done.code == 0
    assert done.err == f"the page is {page}\ndrawn in {picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "<math" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.png"]


def test_a_mask_that_reads_scores_has_no_tiles(cli, spec, tmp_path):
    path = spec("attention a:\n mask = score > 0\n")
    done = cli("explain", path, "--q-len", 64, "--plot", tmp_path / "a.png")
    assert done.code == 0
    assert "not known before the scores are" in done.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--plot", "no/a.png"], "--plot: no such folder"),
        (["--html", "no/a.html"], "--html: no such folder"),
        (["--html", "."], "is a folder"),
        (["--plot", "a.nonsense"], "must end in .png, .svg, .pdf"),
        (["--html", "a.png", "--plot", "a.png"], "is the page"),
        (["--q-len", 1 << 30], "--q-len: a length is below 2 ** 30"),
        (["--q-len", 0], "--q-len"),
        (["--kv-len", "x"], "--kv-len"),
        (["--set", "cap=1"], "has no parameter cap"),
    ],
)
def test_wrong_input_writes_nothing(cli, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    done = cli("explain", CAUSAL, *args)
    assert done.code == 1
    assert message in done.err
    assert done.out == ""
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib_is_said(cli, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = cli("explain", CAUSAL, "--q-len", 64, "--plot", tmp_path / "a.png")
    assert done.code == 1
    assert "pip install 'attnlang[plot]'" in done.err
    assert not list(tmp_path.iterdir())


def test_a_require_that_fails(cli):
    done = cli("explain", EXAMPLES / "gemma2_local.attn", "--q-len", 64, "--set", "cap=-1")
    assert done.code == 1
    assert "cap must be positive" in done.err
