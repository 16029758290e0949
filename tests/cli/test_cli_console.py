"""Messages, tables, progress: nothing moves where nobody watches."""

import io
import sys
import threading
import time

import pytest

from attnlang.cli import console


class Terminal(io.StringIO):
    """A stderr that a person watches."""

    def isatty(self) -> bool:
        return True


def watch(monkeypatch):
    """Put a terminal in the place of stderr; within the test, for pytest changes it before."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return shown


def test_results_and_messages_go_apart(capsys):
    console.result("asked for")
    console.message("by the way\n")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("asked for\n", "by the way\n")


def test_labels_have_no_color_in_a_pipe(capsys):
    console.labelled("error", "no")
    assert capsys.readouterr().err == "error: no\n"


def test_labels_have_color_on_a_terminal(monkeypatch):
    terminal = watch(monkeypatch)
    console.labelled("error", "no")
    assert terminal.getvalue() == "\x1b[1;31merror:\x1b[0m no\n"


def test_no_color_is_honoured(monkeypatch):
    terminal = watch(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    console.labelled("error", "no")
    assert terminal.getvalue() == "error: no\n"


def test_a_table_is_aligned():
    rows = [("name", "n", "note"), ("a", "10", ""), ("longer", "9", "x")]
    assert (
        console.table(rows, right=frozenset({1})) == "name     n  note\na       10\nlonger   9  x"
    )


def test_short_work_shows_nothing(monkeypatch):
    terminal = watch(monkeypatch)
    with console.activity("quick") as activity:
        activity.now("still quick")
    assert terminal.getvalue() == ""


def test_long_work_is_shown_and_taken_away(monkeypatch):
    terminal = watch(monkeypatch)
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    with console.activity("first", total=2) as activity:
        deadline = time.monotonic() + 5
        while "first" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        activity.step()
        activity.now("second")
    assert "first" in terminal.getvalue()


def test_a_pipe_sees_no_progress(capsys, monkeypatch):
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.0)
    with console.activity("work"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def fail_slowly():
    with console.activity("work"):
        time.sleep(0.05)
        raise KeyError


def test_an_error_ends_the_progress(monkeypatch):
    watch(monkeypatch)
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.01)
    before = threading.active_count()
    with pytest.raises(KeyError):
        fail_slowly()
    deadline = time.monotonic() + 5  # rich does not wait for its thread
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
