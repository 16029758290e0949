"""What people type by mistake: every command says what is wrong, and leaves nothing half done."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from support import EXAMPLES

from attnlang.cli.errors import InputError
from attnlang.cli.outputs import check_writable, write_whole
from attnlang.cli.tensors import write_tensors

CAUSAL = EXAMPLES / "causal.attn"
SMALL = ("--shape", "1,2,1,33,33,64")


def test_every_file_is_checked_though_one_is_missing(cli, spec, tmp_path):
    wrong = spec("attention a: mask = cusal", "wrong.attn")
    done = cli("check", tmp_path / "missing.attn", wrong)
    assert done.code == 1
    assert "similar name exists: `causal`" in done.out
    assert "no such file" in done.err
    assert "1 file checked: 1 error" in done.err


def test_a_missing_file_is_likened_to_names_not_suffixes(cli, spec, tmp_path):
    spec("attention a:", "fox.attn")
    assert "there is" not in cli("check", tmp_path / "nope.attn").err
    assert "there is" in cli("check", tmp_path / "foxx.attn").err


@pytest.mark.parametrize("command", ["check", "fmt", "verify", "show"])
def test_a_variable_without_a_value_is_not_the_current_folder(cli, command):
    done = cli(command, "", *(("--stage", "ir") if command == "show" else ()))
    assert done.code == 1
    assert "expected a path, found nothing" in done.err


def test_a_device_is_not_read(cli):
    done = cli("check", "/dev/zero")
    assert (done.code, "not a file" in done.err) == (1, True)


@pytest.mark.parametrize("value", ["nan", "abc"])
def test_a_float_that_is_none(cli, spec, value):
    path = spec("attention a(cap: float = 1.0): score = score * cap")
    done = cli("run", path, *SMALL, "--set", f"cap={value}")
    assert done.code == 1
    assert f"cap is of kind float, found {value}" in done.err


def test_an_int_beyond_64_bits(cli, spec):
    path = spec("attention a(n: int = 1): score = score * n")
    done = cli("run", path, *SMALL, "--set", f"n={2**63}")
    assert (done.code, "of kind int" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (f"1,1,1,{2**30},1,64", "below 2 ** 30"),
        ("1000000,64,64,1000000,1000000,64", "no machine holds"),
    ],
)
def test_a_shape_that_cannot_be(cli, shape, message):
    done = cli("run", CAUSAL, "--shape", shape)
    assert done.code == 1
    assert message in done.err


def test_too_little_memory_is_no_bug(cli, monkeypatch):
    def fail(*_sizes, **_options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(torch, "randn", fail)
    done = cli("run", CAUSAL, *SMALL)
    assert done.code == 1
    assert "not enough memory" in done.err
    assert "bug" not in done.err


def test_the_size_of_an_optional_tensor_asks_for_the_tensor(cli, spec):
    path = spec(
        "attention a(t: float[HQ, R] = none):\n"
        " score = score + (t[h, clamp(kv_idx, 0, R - 1)] if t != none else 0.0)\n"
    )
    done = cli("run", path, *SMALL, "--set", "R=40")
    assert done.code == 0, done.err
    assert "t = float32[2, 40]" in done.out
    done = cli("run", path, *SMALL)
    assert done.code == 0, done.err
    assert "t = none" in done.out


def test_an_empty_call_is_compared_with_nothing(cli):
    done = cli("run", CAUSAL, "--shape", "1,2,1,0,33,64")
    assert done.code == 0
    assert "nothing to compare" in done.out
    assert "against" not in done.out


@pytest.fixture
def qkv(tmp_path):
    rng = torch.Generator().manual_seed(0)
    path = tmp_path / "in.safetensors"

    def write(**changes):
        shapes = {"q": (1, 2, 33, 64), "k": (1, 1, 33, 64), "v": (1, 1, 33, 64)}
        tensors = {n: torch.randn(*s, generator=rng) for n, s in shapes.items()}
        for name, value in changes.items():
            tensors[name][0, 0, 3, 5] = value
        save_file(tensors, path)
        return path

    return write


@pytest.mark.parametrize(("name", "value"), [("q", torch.nan), ("v", torch.inf), ("k", torch.nan)])
def test_nan_in_the_input_is_no_bug_of_ours(cli, qkv, name, value):
    done = cli("run", CAUSAL, "--input", qkv(**{name: value}))
    assert done.code in (0, 1)
    assert f"NaN or infinities in {name}" in done.err
    assert "bug" not in done.err
    assert "not compared where the reference is NaN" in done.out


def test_the_input_is_not_overwritten(cli, qkv):
    path = qkv()
    done = cli("run", CAUSAL, "--input", path, "--output", path)
    assert (done.code, "is the input" in done.err) == (1, True)
    assert set(load_file(path)) == {"q", "k", "v"}


def test_a_folder_is_no_input(cli, tmp_path):
    assert "is a folder" in cli("run", CAUSAL, "--input", tmp_path).err


@pytest.mark.parametrize("name", ["picture.txt", "picture"])
def test_a_picture_has_a_format(cli, tmp_path, name):
    done = cli("explain", CAUSAL, "--q-len", 64, "--plot", tmp_path / name)
    assert done.code == 1
    assert ".png, .svg, .pdf" in done.err
    assert not list(tmp_path.iterdir())


def test_a_picture_is_no_folder(cli, tmp_path):
    done = cli("explain", CAUSAL, "--q-len", 64, "--plot", tmp_path)
    assert (done.code, "is a folder" in done.err) == (1, True)


def test_a_device_is_not_replaced():
    with pytest.raises(InputError, match="--output: /dev/null is not a file"):
        check_writable("--output", Path("/dev/null"))


def test_a_full_disk_is_no_bug_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(_tensors, _path):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("attnlang.cli.tensors.save_file", fail)
    with pytest.raises(InputError, match="No space left"):
        write_tensors(tmp_path / "out", {"out": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_whole(tmp_path / "gone" / "out", lambda path: path.touch())


def test_an_interrupt_leaves_the_old_file(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")

    def interrupted(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, interrupted)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
