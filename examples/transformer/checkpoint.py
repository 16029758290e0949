"""A training run on disk, and back: the latest few checkpoints, a folder each.

A checkpoint is `run.json`, `run.safetensors` and `vocabulary.model`. Invariant: a run that is read
goes on as the one that was written would have: its weights, Adam's moments and torch's generator
are the same bits. A folder gets its name when it is whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from transformer.gallery import Attention, compiled
from transformer.model import Shape
from transformer.train import Plan, Run, new_run
from transformer.vocabulary import Vocabulary

KEPT = 5  # as many as the paper averages

_GENERATOR = "generator"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # Adam's, of each parameter


class CheckpointError(ValueError):
    """A folder that holds no run."""


def save(run: Run, folder: Path) -> None:
    """Add a checkpoint to a folder, and forget the oldest."""
    new = folder / "unfinished"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    facts = {"plan": asdict(run.plan), "shape": asdict(run.model.shape), "losses": run.losses}
    (new / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    (new / "vocabulary.model").write_bytes(run.vocabulary.model)
    save_file(_tensors(run), new / "run.safetensors")
    new.rename(folder / f"step-{run.step:06}")
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Return a folder's checkpoints, the latest last."""
    return sorted(folder.glob("step-*"))


def load(folder: Path, attention: Attention = compiled) -> Run:
    """Read the latest checkpoint of a folder. Sets torch's generator to where the run left it.

    Raises CheckpointError where there is none.
    """
    latest = _latest(folder)
    facts = json.loads((latest / "run.json").read_text(encoding="utf-8"))
    vocabulary = Vocabulary((latest / "vocabulary.model").read_bytes())
    run = new_run(Plan(**facts["plan"]), Shape(**facts["shape"]), vocabulary, attention)
    run.losses = facts["losses"]
    tensors = load_file(latest / "run.safetensors")
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            parameter.copy_(tensors[f"weights.{name}"])
            kept = {m: tensors[f"{m}.{name}"] for m in _MOMENTS if f"{m}.{name}" in tensors}
            if kept:
                run.optimizer.state[parameter] = kept
    torch.set_rng_state(tensors[_GENERATOR])
    return run


def load_averaged(folder: Path) -> Run:
    """Read a run to be used and not to go on: its weights are the checkpoints' average.

    As section 6.1 of the paper has it. Raises CheckpointError where there is none.
    """
    run = load(folder)
    found = [load_file(path / "run.safetensors") for path in checkpoints(folder)]
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            parameter.copy_(torch.stack([tensors[f"weights.{name}"] for tensors in found]).mean(0))
    return run


def _latest(folder: Path) -> Path:
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"{folder} holds no run; `train` writes one")
    return found[-1]


def _tensors(run: Run) -> dict[str, Tensor]:
    """Return all tensors of a run by name."""
    tensors = {_GENERATOR: torch.get_rng_state()}
    for name, parameter in run.model.named_parameters():
        tensors[f"weights.{name}"] = parameter.detach()
        kept = run.optimizer.state.get(parameter, {})
        tensors |= {f"{m}.{name}": kept[m] for m in _MOMENTS if m in kept}
    return tensors
