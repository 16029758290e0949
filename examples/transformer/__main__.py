"""The command line: `python -m transformer train|test|apply|variants`, from the folder above."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from transformer.batches import Batches
from transformer.checkpoint import CheckpointError, checkpoints, load, load_averaged, save
from transformer.fillers import CROSS, FILLERS, UNFIT, UnfitError
from transformer.model import Shape
from transformer.pairs import DEVELOPMENT, Pair
from transformer.progress import TrainingBar
from transformer.search import translate
from transformer.tasks import TASKS
from transformer.train import Plan, Run, new_run
from transformer.vocabulary import Vocabulary

_SAVE_EVERY = 40  # steps
_SHOWN = 10

results = Console(highlight=False)
messages = Console(stderr=True, highlight=False)


def train(args: argparse.Namespace) -> None:
    """Train a model, or go on with one, and test it."""
    if not args.resume and checkpoints(args.folder):
        raise CheckpointError(f"{args.folder} holds a run: go on with it by --resume, or remove it")
    run = load(args.folder) if args.resume else begin(args)
    messages.print(f"{run.plan.task}: step {run.step} of {run.plan.steps}, in {args.folder}")
    finish(run, args.folder)
    report(load_averaged(args.folder), args)


def begin(args: argparse.Namespace) -> Run:
    """Return a run of no steps."""
    given = vars(args)
    chosen = {f.name: given[f.name] for f in fields(Plan) if given[f.name] is not None}
    plan = replace(TASKS[args.task].plan, **chosen)
    texts = (text for pair in training_pairs(plan) for text in pair)
    vocabulary = Vocabulary.learn(texts, plan.pieces)
    shape = {f.name: given[f.name] for f in fields(Shape) if f.name in given}
    return new_run(plan, Shape(vocabulary=len(vocabulary), **shape), vocabulary)


def training_pairs(plan: Plan) -> tuple[Pair, ...]:
    """Return what a run learns from."""
    return TASKS[plan.task].pairs(plan.pairs, 0, plan.seed).train


def finish(run: Run, folder: Path) -> None:
    """Make the steps that are left, and a checkpoint now and then."""
    batches = Batches(training_pairs(run.plan), run.vocabulary, run.plan.batch, run.plan.seed)
    with TrainingBar(messages, run.plan.steps, run.step) as bar:
        while run.step < run.plan.steps:
            batch = batches[run.step]
            bar.advance(run.advance(batch), batch.tokens)
            if run.step % _SAVE_EVERY == 0 or run.step == run.plan.steps:
                save(run, folder)


def test(args: argparse.Namespace) -> None:
    """Test a trained model on what was held out."""
    report(load_averaged(args.folder), args)


def report(run: Run, args: argparse.Namespace) -> None:
    """Show the scores of a model, and what it makes of some texts that it never saw."""
    task = TASKS[run.plan.task]
    pairs = task.pairs(0, args.asked, run.plan.seed)
    asked = pairs.development if args.development else pairs.test
    found = translate(run.model, run.vocabulary, [pair.source for pair in asked])
    table = Table(title=f"{run.plan.task} after {run.step} steps", show_lines=True)
    for heading in ("held out", "found"):
        table.add_column(heading, overflow="fold")
    for pair, text in zip(asked[:_SHOWN], found, strict=False):
        table.add_row(pair.source, text if text == pair.target else f"{text}\n✗ {pair.target}")
    results.print(table)
    for name, value in task.score(found, [pair.target for pair in asked]).items():
        results.print(f"{name:15} {value:.2f}" if "BLEU" in name else f"{name:15} {value:.2%}")
    messages.print(f"CPU time: {sum(os.times()[:4]):.0f} s")


def apply(args: argparse.Namespace) -> None:
    """Write what a trained model makes of texts, a line each."""
    run = load_averaged(args.folder)
    for text in translate(run.model, run.vocabulary, args.texts):
        print(text)


def variants(args: argparse.Namespace) -> None:
    """List the variants that a model can attend with, and why others do not fit."""
    table = Table("variant", "--attention", "--cross", "why not")
    for name in sorted({*FILLERS, *UNFIT}):
        fits = ("yes" if name in choices else "" for choices in (FILLERS, CROSS))
        table.add_row(name, *fits, UNFIT.get(name, ""))
    results.print(table)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="transformer", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (train, test, apply, variants):
        said = (command.__doc__ or "").rstrip(".")
        sub = commands.add_parser(command.__name__, help=said, description=said)
        sub.set_defaults(command=command)
        if command is train:
            _add_plan(sub)
        if command in (train, test):
            sub.add_argument("--asked", type=int, default=600, help="how many pairs test it")
            sub.add_argument(
                "--development", action="store_true", help="test with the pairs to choose plans by"
            )
        if command is not variants:
            sub.add_argument("--folder", type=Path, default=Path("run"), help="the checkpoint's")
        if command is apply:
            sub.add_argument("texts", nargs="+", metavar="TEXT")
    args = parser.parse_args(argv)
    if getattr(args, "development", False) and args.asked > DEVELOPMENT:
        parser.error(
            f"--asked {args.asked}: there are {DEVELOPMENT} pairs to choose by (--development)"
        )
    return args


def _add_plan(parser: argparse.ArgumentParser) -> None:
    plan, shape = Plan(), Shape(vocabulary=0)
    parser.add_argument("task", choices=sorted(TASKS), help="what to learn")
    parser.add_argument("--resume", action="store_true", help="go on with the folder's run")
    for name, said in (
        ("pairs", "how many to learn from"), ("pieces", "of the vocabulary"),
        ("steps", "of training"), ("batch", "pairs a step"), ("warmup", "steps"),
        ("rate", "the paper's rates, times this"), ("smoothing", "of labels"), ("seed", ""),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=type(getattr(plan, name)), help=said)
    for name, said in (
        ("attention", "variant for a sequence to itself"),
        ("cross", "variant for the decoder to the encoder"),
        ("width", "of the model"), ("heads", ""), ("inner", "width of feed-forward"),
        ("layers", "of each side"), ("dropout", "share of what is dropped in training"),
    ):  # fmt: skip
        default = getattr(shape, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=said)


def main(argv: Sequence[str]) -> int:
    """Run a command; return 1 where its input is wrong."""
    args = arguments(argv)
    try:
        args.command(args)
    except (UnfitError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
