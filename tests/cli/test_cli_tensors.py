"""Tensors from files and into files."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from attnlang.cli.errors import InputError
from attnlang.cli.outputs import check_writable
from attnlang.cli.settings import parse_settings
from attnlang.cli.tensors import read_call, write_tensors

SPEC = (
    "attention a(cap: float = 2.0, n: int = 3, on: bool = true,"
    " m: float[HQ], t: float[B] = none):\n"
    " score = soft_cap(score, cap) + m[h] + (t[b] if t != none else 0.0)\n"
    " mask = kv_idx < n or on\n"
)


def vectors(**more):
    return {
        "q": torch.randn(1, 4, 5, 8),
        "k": torch.randn(1, 2, 7, 8),
        "v": torch.randn(1, 2, 7, 6),
        **more,
    }


@pytest.fixture
def read(variant, tmp_path):
    def read_tensors(tensors, settings=()):
        spec = variant(SPEC)
        path = tmp_path / "in.safetensors"
        save_file(tensors, path)
        return read_call(path, spec, parse_settings(spec, settings))

    return read_tensors


def test_vectors_parameters_and_defaults(read):
    tensors = vectors(m=torch.randn(4), cap=torch.tensor(3.5), on=torch.tensor([False]))
    call = read(tensors)
    assert torch.equal(call.q, tensors["q"])
    assert call.params["cap"] == 3.5
    assert call.params["on"] is False
    assert call.params["n"] == 3
    assert call.params["t"] is None
    assert torch.equal(call.params["m"], tensors["m"])
    shape = call.shape
    assert (shape.hq, shape.hkv, shape.q, shape.kv, shape.d, shape.dv) == (4, 2, 5, 7, 8, 6)


def test_what_is_set_wins(read):
    tensors = vectors(m=torch.randn(4), cap=torch.tensor(3.5))
    assert read(tensors, ["cap=7"]).params["cap"] == 7.0


def test_unknown_tensors_are_named_and_ignored(read, capsys):
    read(vectors(m=torch.randn(4), extra=torch.zeros(1)))
    assert "extra not used by a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"q": torch.zeros(1)}, "has no k; it has: q"),
        (vectors(), "has no m, which a needs"),
        (vectors(m=torch.zeros(4), n=torch.tensor(1.5)), "n must be one int"),
        (vectors(m=torch.zeros(4), n=torch.tensor(True)), "n must be one int"),
        (vectors(m=torch.zeros(4), cap=torch.zeros(2)), "cap must be one float"),
        (vectors(m=torch.zeros(4), q=torch.zeros(2, 3)), "q must be"),
    ],
)
def test_wrong_files_are_named(read, tensors, message):
    with pytest.raises(InputError, match=message):
        read(tensors)


def test_what_is_no_file(variant, tmp_path):
    spec = variant(SPEC)
    settings = parse_settings(spec, ())
    with pytest.raises(InputError, match="no such file"):
        read_call(tmp_path / "missing", spec, settings)
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(InputError, match="not a safetensors file"):
        read_call(tmp_path / "text", spec, settings)


def test_results_are_written_whole(tmp_path):
    path = tmp_path / "out.safetensors"
    path.write_text("old")
    out = torch.randn(2, 3).T
    write_tensors(path, {"out": out})
    assert torch.equal(load_file(path)["out"], out)
    assert [p.name for p in tmp_path.iterdir()] == ["out.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.safetensors"
    path.write_text("old")

    def fail(_tensors, temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attnlang.cli.tensors.save_file", fail)
    with pytest.raises(InputError, match="No space left"):
        write_tensors(path, {"out": torch.zeros(1)})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.safetensors"]


def test_a_folder_that_is_not_there_is_refused_early(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        check_writable("--output", tmp_path / "no" / "out.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        check_writable("--output", tmp_path)
