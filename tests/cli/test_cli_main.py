"""The command line as a whole: its list of commands, and whose fault is which exit code."""

import contextlib
import sys
from pathlib import Path

import pytest

from attnlang.cli import check, main

COMMANDS = [
    *("check", "fmt", "show", "explain", "run", "verify", "bench", "build", "help", "doctor"),
    "cache",
]


def test_help_lists_the_commands(cli):
    done = cli("--help")
    assert done.code == 0
    names = [
        line.split()[0]
        for line in done.out.splitlines()
        if line[:4].isspace() and line[4:5].strip()
    ]
    assert names == COMMANDS
    assert "\x1b" not in done.out


def test_no_command_shows_the_help(cli):
    done = cli()
    assert (done.code, done.out) == (1, "")
    assert "commands:" in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli, command):
    done = cli(command, "--help")
    assert done.code == 0
    assert command in done.out


def test_the_version(cli):
    assert cli("--version").out.startswith("attnlang 0.")


@pytest.mark.parametrize(
    "args", [["no-such"], ["check"], ["check", "--format", "xml", "x"], ["run", "--nope"]]
)
def test_a_wrong_command_line_is_wrong_input(cli, args):
    done = cli(*args)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert "usage: attnlang" in done.err


def break_it(monkeypatch, error):
    def fail(_paths):
        raise error

    monkeypatch.setattr(check, "spec_files", fail)


def test_a_fault_of_ours_is_short_and_asks_for_a_report(cli, monkeypatch):
    monkeypatch.delenv("ATTNLANG_VERBOSE", raising=False)
    break_it(monkeypatch, KeyError("lost"))
    done = cli("check", "x")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0] == "error: attnlang failed: KeyError: 'lost'"
    assert "please report it" in done.err
    assert "Traceback" not in done.err


def test_a_fault_of_ours_with_its_traceback(cli, monkeypatch):
    monkeypatch.setenv("ATTNLANG_VERBOSE", "1")
    break_it(monkeypatch, KeyError("lost"))
    done = cli("check", "x")
    assert done.code == 2
    assert "Traceback" in done.err


def test_an_interrupt(cli, monkeypatch):
    break_it(monkeypatch, KeyboardInterrupt())
    assert cli("check", "x").code == 130


def test_a_wrong_environment_is_wrong_input(cli, monkeypatch):
    monkeypatch.setenv("ATTNLANG_JOBS", "many")
    done = cli("cache")
    assert done.code in (0, 1)  # the cache may not read it; a fault of ours it never is
    from attnlang.options import OptionError

    break_it(monkeypatch, OptionError("ATTNLANG_JOBS", "a number from 1", "many"))
    done = cli("check", "x")
    assert done.code == 1
    assert done.err == "error: ATTNLANG_JOBS: expected a number from 1, found 'many'\n"


def test_a_call_that_the_spec_refuses_is_wrong_input(cli, monkeypatch):
    from attnlang.ops.errors import CallError

    break_it(monkeypatch, CallError("cap", "a float", "nothing"))
    done = cli("check", "x")
    assert done.code == 1
    assert done.err == "error: `cap`: expected a float, found nothing\n"


def test_a_toolchain_that_fails_is_not_the_input(cli, monkeypatch):
    from attnlang.jit.errors import BuildError

    break_it(monkeypatch, BuildError("no compiler"))
    done = cli("check", "x")
    assert done.code == 2
    assert "no compiler" in done.err
    assert "attnlang doctor" in done.err


def test_the_entry_point_exits(monkeypatch):
    monkeypatch.setattr("sys.argv", ["attnlang", "--version"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 0


class Interrupting:
    """A finder of modules, in whose hands the user presses Ctrl-C."""

    def find_spec(self, name, path=None, target=None):
        if name == "attnlang.cli.commands":
            raise KeyboardInterrupt
        return None


def test_an_interrupt_while_the_commands_are_imported(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "attnlang.cli.commands", raising=False)
    monkeypatch.setattr("sys.meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize(
    "args",
    [
        ("help", "A203"), ("show", "causal", "--stage", "source"), ("--help",), ("--version",),
        ("check", "--help"),
    ],
)  # fmt: skip
def test_a_full_disk_under_stdout_is_no_bug(cli, args, monkeypatch):
    examples = Path(__file__).resolve().parents[2] / "examples"
    args = [str(examples / f"{x}.attn") if x == "causal" else x for x in args]
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:  # closing it fails
        monkeypatch.setattr(sys, "stdout", full)
        done = cli(*args)
        monkeypatch.undo()
    assert (done.code, done.err) == (1, "error: cannot write to stdout: No space left on device\n")
