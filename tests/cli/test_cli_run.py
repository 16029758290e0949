"""`attnlang run`: the main job from end to end, on small shapes, with kernels that are built."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import attnlang
from attnlang.ops.variant import Variant

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = "1,4,2,130,150,32"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Three runs are enough to time."""
    monkeypatch.setattr("attnlang.cli.measure._ENOUGH_SECONDS", 0.0)


def facts(done):
    lines = [line.split(maxsplit=1) for line in done.out.splitlines()]
    return {label: text for label, text in reversed(lines)}


def test_the_report(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path))
    done = cli("run", EXAMPLES / "gemma2_local.attn", "--shape", SMALL, "--set", "window_size=40")
    assert (done.code, done.err) == (0, "")
    found = facts(done)
    assert list(dict.fromkeys(line.split()[0] for line in done.out.splitlines())) == [
        "variant",
        "shape",
        "with",
        "build",
        "tiles",
        "error",
        "time",
        "against",
    ]
    assert found["shape"] == "B 1  HQ 4  HKV 2  Q 130  KV 150  D 32  DV 32  float32"
    assert found["with"] == "cap = 50, window_size = 40"
    assert " cold; " in found["build"]
    error, bound = re.match(r"(\S+) of (\S+) allowed", found["error"]).groups()
    assert 0 < float(error) <= float(bound) < 1e-4
    assert "GFLOP/s" in found["time"]
    assert "torch SDPA: cannot express this variant" in done.out
    assert "eager torch: " in done.out


def test_the_second_time_comes_from_the_cache(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path))
    args = ("run", EXAMPLES / "causal.attn", "--shape", SMALL)
    assert " cold; " in facts(cli(*args))["build"]
    assert facts(cli(*args))["build"].startswith("from the cache")


def test_tiles_are_counted(cli):
    done = cli(
        "run",
        EXAMPLES / "sliding_window.attn",
        "--shape",
        "1,1,1,1024,1024,32",
        "--set",
        "window_size=1",
    )
    visited, total = re.match(r"([\d,]+) of ([\d,]+) visited", facts(done)["tiles"]).groups()
    assert 0 < int(visited.replace(",", "")) < int(total.replace(",", "")) / 4


def test_another_dtype(cli):
    done = cli("run", EXAMPLES / "sink.attn", "--shape", SMALL, "--dtype", "bf16")
    assert done.code == 0
    assert "the fused reference's" in facts(done)["error"]


def test_invented_tensors(cli):
    done = cli("run", EXAMPLES / "document.attn", "--shape", "2,2,2,70,70,16")
    assert done.code == 0
    assert facts(done)["with"] == "doc = int64[2, 70]"


def test_tensors_from_a_file_into_a_file(cli, tmp_path):
    torch.manual_seed(0)
    tensors = {
        "q": torch.randn(2, 4, 33, 16),
        "k": torch.randn(2, 2, 47, 16),
        "v": torch.randn(2, 2, 47, 16),
        "slopes": torch.rand(4),
    }
    save_file(tensors, tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    path = EXAMPLES / "alibi.attn"
    done = cli("run", path, "--input", tmp_path / "in.safetensors", "--output", out)
    assert done.code == 0
    assert done.err == f"out, lse written to {out}\n"
    written = load_file(out)
    exact, lse = attnlang.load(path).reference(**tensors, return_lse=True)
    torch.testing.assert_close(written["out"], exact, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(written["lse"], lse, atol=2e-5, rtol=1e-4)


def test_without_a_softmax_there_is_no_lse(cli, tmp_path):
    out = tmp_path / "out.safetensors"
    done = cli("run", EXAMPLES / "sigmoid.attn", "--shape", SMALL, "--output", out)
    assert done.code == 0
    assert list(load_file(out)) == ["out"]


def test_a_kernel_that_is_wrong_is_our_fault(cli, monkeypatch):
    original = Variant.__call__

    def wrong(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        (result[0] if isinstance(result, tuple) else result).add_(0.01)
        return result

    monkeypatch.setattr(Variant, "__call__", wrong)
    done = cli("run", EXAMPLES / "causal.attn", "--shape", SMALL)
    assert done.code == 2
    assert "TOO LARGE" in done.out
    assert "a bug" in done.err


def test_wrong_input(cli, tmp_path, spec):
    path = EXAMPLES / "gemma2_local.attn"
    assert cli("run", path, "--shape", "1,2").code == 1
    assert cli("run", path, "--set", "cap=-1", "--shape", SMALL).code == 1
    assert cli("run", path, "--input", tmp_path / "missing").code == 1
    assert cli("run", path, "--input", "x", "--shape", SMALL).code == 1
    assert cli("run", path, "--output", tmp_path / "no" / "out").code == 1
    assert cli("run", spec("attention a:\n score = nowhere")).code == 1
    assert cli("run", spec("# nothing\n")).code == 1


def test_tensors_that_do_not_fit_are_a_call_error(cli, tmp_path):
    tensors = {
        "q": torch.randn(1, 2, 3, 8),
        "k": torch.randn(1, 2, 5, 16),
        "v": torch.randn(1, 2, 5, 8),
    }
    save_file(tensors, tmp_path / "in.safetensors")
    done = cli("run", EXAMPLES / "full.attn", "--input", tmp_path / "in.safetensors")
    assert done.code == 1
    assert done.err.startswith("error: `k`: expected q's head dim D = 8")


def test_a_value_made_of_the_key_runs(cli, spec):
    text = "attention a:\n q = l2_norm(q)\n v = k[0:8]\n out = acc[0:4]\n"
    done = cli("run", spec(text), "--shape", SMALL)
    assert done.code == 0, done.err
