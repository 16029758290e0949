"""Training the example's Transformer: beside eager attention, across a stop, and to the end."""

from __future__ import annotations

import math
import os
import re
import resource
import subprocess
import sys

import pytest
import torch
from support import EXAMPLES
from transformer import __main__ as command_line
from transformer.checkpoint import (
    KEPT,
    CheckpointError,
    checkpoints,
    load,
    load_averaged,
    save,
)
from transformer.eager import eager
from transformer.gallery import compiled
from transformer.search import translate
from transformer.train import Plan, learning_rate
from transformer_runs import PAIRS, VOCABULARY, small_batches, small_run


def losses(run, steps):
    batches = small_batches()
    while run.step < steps:
        run.advance(batches[run.step])
    return torch.tensor(run.losses)


def test_the_loss_curve_is_that_of_eager_attention():
    # At rates of 0.3 and more the last steps make a thousand times more of a rounding.
    run = small_run(rate=0.1)
    ours, theirs = losses(run, 100), losses(small_run(rate=0.1, attention=eager), 100)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    assert ours[-10:].mean() < ours[:10].mean() - 1
    found = translate(run.model, VOCABULARY, [pair.source for pair in PAIRS[:20]])
    assert len(set(found)) > 5


@pytest.mark.parametrize(
    "attention", [eager, pytest.param(compiled, marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path, attention):
    whole = losses(small_run(attention=attention, dropout=0.1), 24)
    half = small_run(attention=attention, dropout=0.1)
    losses(half, 11)
    save(half, tmp_path)
    torch.manual_seed(99)
    assert torch.equal(losses(load(tmp_path, attention), 24), whole)


def test_a_folder_keeps_the_latest_checkpoints_and_their_average(tmp_path):
    run = small_run(attention=eager)
    weights = []
    for steps in range(1, KEPT + 3):
        losses(run, steps)
        save(run, tmp_path)
        weights.append(run.model.embedding.weight.detach().clone())
    assert [p.name for p in checkpoints(tmp_path)] == [f"step-{n:06}" for n in range(3, KEPT + 3)]
    assert torch.equal(load(tmp_path).model.embedding.weight, weights[-1])
    mean = torch.stack(weights[-KEPT:]).mean(0)
    assert torch.equal(load_averaged(tmp_path).model.embedding.weight, mean)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        load(tmp_path)


def test_the_rate_rises_and_falls_as_in_the_paper():
    plan = Plan(warmup=40, rate=1.0)
    rates = [learning_rate(plan, 512, step) for step in range(200)]
    assert max(rates) == rates[39] == pytest.approx(512**-0.5 * 40**-0.5)
    assert rates[9] == pytest.approx(rates[39] / 4)
    assert rates[159] == pytest.approx(rates[39] / math.sqrt(4))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train numbers --attention tree", "`tree` does not fit: it is for drafts"),
        ("train numbers --cross rope", "`rope` does not fit"),
        ("test", "holds no run"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(tmp_path, capsys, line, message):
    few = ["--pairs", "200", "--pieces", "90"] if line.startswith("train") else []
    assert command_line.main([*line.split(), *few, "--folder", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err


def test_the_commands_train_go_on_and_apply(tmp_path, capsys):
    """The whole way, in a model too small to learn much."""
    folder = ["--folder", str(tmp_path / "run")]
    sizes = "--pairs 200 --pieces 90 --steps 4 --width 32 --heads 2 --inner 64 --layers 1"
    first = ["train", "trees", *sizes.split(), "--dropout", "0", "--asked", "12", *folder]
    assert command_line.main(first) == 0
    assert "bracket F1" in capsys.readouterr().out
    assert command_line.main(first) == 1
    assert "--resume" in capsys.readouterr().err
    assert command_line.main(["train", "trees", "--resume", "--asked", "3", *folder]) == 0
    assert "step 4 of 4" in capsys.readouterr().err
    assert command_line.main(["apply", *folder, "a dog slept", "Anna laughed"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.slow
def test_number_names_are_learnt_in_six_minutes(tmp_path):
    """What `make transformer` does, in CPU time, with the kernels that it must build."""
    command = [sys.executable, "-m", "transformer", "train", "numbers", "--folder", tmp_path / "n"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=EXAMPLES, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 360
    (exact,) = re.findall(r"exact match +([\d.]+)%", done.stdout)
    assert float(exact) >= 99


def test_variants_are_listed(capsys):
    assert command_line.main(["variants"]) == 0
    out = capsys.readouterr().out
    assert "alibi" in out
    assert "for images" in out
