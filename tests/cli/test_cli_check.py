"""`attnlang check`: what it says, in which form, with which exit code, and how fast it starts."""

import json
import subprocess
import sys
from pathlib import Path

from processes import environment

GOOD = "attention full:\n"
BAD = "attention first:\n    score = nowhere\n"
WARNS = "attention unread(cap: float = 1.0):\n"


def test_a_sound_spec(cli, spec):
    done = cli("check", spec(GOOD))
    assert (done.code, done.out) == (0, "")
    assert done.err == "1 file checked: all fine\n"


def test_an_error_is_a_result_and_fails(cli, spec):
    path = spec(BAD)
    done = cli("check", path)
    assert done.code == 1
    assert "error[A2" in done.out
    assert f"{path}:2:13" in done.out
    assert done.err == "1 file checked: 1 error\n"


def test_a_warning_does_not_fail(cli, spec):
    done = cli("check", spec(WARNS))
    assert done.code == 0
    assert "warning[W1" in done.out
    assert done.err == "1 file checked: 1 warning\n"


def test_several_files_and_folders(cli, spec, tmp_path):
    spec(GOOD, "folder/a.attn")
    spec(BAD, "folder/deeper/b.attn")
    spec("no spec", "folder/notes.txt")
    done = cli("check", tmp_path / "folder", spec(BAD, "c.attn"))
    assert done.code == 1
    assert done.out.count("error[") == 2
    assert done.err == "3 files checked: 2 errors\n"


def test_a_file_named_twice_is_checked_once(cli, spec):
    path = spec(BAD)
    assert cli("check", path, path).out.count("error[") == 1


def test_json_is_one_array_also_of_nothing(cli, spec):
    assert json.loads(cli("check", "--format", "json", spec(GOOD)).out) == []
    (found,) = json.loads(cli("check", "--format", "json", spec(BAD)).out)
    assert (found["severity"], found["line"], found["column"]) == ("error", 2, 13)


def test_github_annotations(cli, spec):
    path = spec(BAD)
    done = cli("check", "--format", "github", path)
    assert done.out.startswith(f"::error file={path},line=2,col=13::")


def test_a_missing_file_names_a_similar_one(cli, spec, tmp_path):
    path = spec(GOOD, "causal.attn")
    done = cli("check", tmp_path / "casual.attn")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: no such file: {tmp_path / 'casual.attn'} (there is {path})\n"


def test_what_is_not_a_text(cli, tmp_path):
    path = tmp_path / "x.attn"
    path.write_bytes(b"attention \xff:")
    done = cli("check", path)
    assert done.code == 1
    assert done.err == f"error: {path} is not UTF-8 text (byte 10)\n"


def test_an_empty_folder(cli, tmp_path):
    assert cli("check", tmp_path).code == 1


def test_include_lets_an_import_read_another_folder(cli, spec, tmp_path):
    spec("def half(x) = x / 2\n", "shared/common.attn")
    main = spec(
        'from "common.attn" import half\nattention a:\n    score = half(score)\n', "m/main.attn"
    )
    assert cli("check", main).code == 1
    assert cli("check", main, "--include", tmp_path / "shared").code == 0


def test_it_imports_neither_torch_nor_sympy(spec):
    """The promise, kept in a process of its own: what it imports, and that it answers at once."""
    program = (
        "import json, sys, time\n"
        "from attnlang.cli.commands import run_command\n"
        "code = run_command(['check', sys.argv[1]])\n"
        "print(json.dumps([code, sorted(sys.modules), time.process_time()]))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(spec(GOOD))],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules, seconds = json.loads(done.stdout)
    assert code == 0
    heavy = {"torch", "sympy", "numpy", "matplotlib", "jinja2", "rich", "safetensors"}
    assert not heavy & set(modules)
    # Half a second where nothing else runs; tests share the machine, also its turbo clock.
    assert seconds < 1.0
