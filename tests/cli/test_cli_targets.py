"""`--target`: GPU kernels shown, refused without a GPU, and run in the emulator."""

from __future__ import annotations

import pytest
import torch

SPEC = """\
attention near(window_size: int = 20):
    mask = kv_idx <= q_idx and q_idx - kv_idx < window_size
"""
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def near(spec):
    return spec(SPEC, "near.attn")


@pytest.mark.parametrize("target", ["sm80", "sm90"])
def test_the_source_of_a_gpu_kernel(cli, near, target):
    done = cli("show", near, "--stage", "source", "--target", target)
    assert f'#include "kernels/{target}_attention.cuh"' in done.out
    assert f"{target}_run<Variant, Bf16, 128, 128, Tiles>" in done.out
    plan = cli("show", near, "--stage", "plan", "--target", target).out
    assert plan.startswith(f"kernel: {target}_attention")


def test_a_head_dim_that_no_gpu_kernel_takes(cli, near):
    done = cli("show", near, "--stage", "plan", "--target", "sm90", "--head-dim", "40")
    assert done.code == 1
    assert "16, 32, 48" in done.err


def test_a_dtype_that_no_gpu_kernel_takes(cli, near):
    done = cli("show", near, "--stage", "plan", "--target", "sm90", "--dtype", "f32")
    assert (done.code, "bf16 and f16" in done.err) == (1, True)


@NO_GPU
@pytest.mark.parametrize("command", ["run", "verify"])
def test_without_a_gpu_the_emulator_is_named(cli, near, command, monkeypatch):
    monkeypatch.delenv("ATTNLANG_EMULATE", raising=False)
    done = cli(command, near, "--target", "sm90")
    assert done.code == 1
    assert "ATTNLANG_EMULATE=1" in done.err


@NO_GPU
def test_the_emulator_runs_and_verifies(cli, near, monkeypatch):
    monkeypatch.setenv("ATTNLANG_EMULATE", "1")
    done = cli("run", near, "--target", "sm80", "--shape", "1,2,1,40,70,64")
    assert done.code == 0, done.err
    assert "sm80, emulated" in done.out
    done = cli("verify", near, "--target", "sm80", "--case", "1")
    assert done.code == 0, done.err
    assert "near (sm80, emulated)" in done.out
