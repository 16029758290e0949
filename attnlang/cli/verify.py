"""`attnlang verify`: kernels, forward and backward, against the reference on random calls."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.files import check_file, spec_files
from attnlang.cli.options import add_files, positive
from attnlang.jit.units import Target

if TYPE_CHECKING:
    from attnlang.cli.accuracy import Accuracy
    from attnlang.cli.places import Place
    from attnlang.invent.inputs import Call
    from attnlang.ir.nodes import Variant
    from attnlang.ops.variant import Variant as Compiled


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_files(parser)
    parser.add_argument(
        "--target",
        choices=[t.value for t in Target],
        help="whose kernels to run; a GPU's run there, or with ATTNLANG_EMULATE=1 in the emulator "
        "(default: all that this machine runs)",
    )
    parser.add_argument("--variant", metavar="NAME", help="only the variant of this name")
    parser.add_argument(
        "--cases", type=positive, default=12, metavar="N", help="calls a variant (default: 12)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed, other calls"
    )
    parser.add_argument("--case", type=int, metavar="N", help="only this one call")
    parser.add_argument(
        "-x", "--exitfirst", action="store_true", help="stop a variant at its first wrong call"
    )


def verify(args: Namespace) -> int:
    """Compare compiled kernels, forward and backward, with the reference on random calls."""
    subjects = [
        (path, found)
        for path in spec_files(args.files)
        for found in _variants(path, args.include)
        if args.variant in (None, found.name)
    ]
    if not subjects:
        wanted = "no attention" if args.variant is None else f"no variant {args.variant}"
        raise InputError(f"there is {wanted} in {', '.join(map(str, args.files))}")
    numbers = range(args.cases) if args.case is None else range(args.case, args.case + 1)
    outcomes: list[_Outcome] = []
    with console.activity("loading torch", total=len(subjects) * len(numbers)) as activity:
        from attnlang.cli.places import all_places, place_of
        from attnlang.ops.variant import Variant as Compiled

        places = all_places() if args.target is None else (place_of(args.target),)
        for path, subject in subjects:
            compiled = Compiled(subject)
            for place in places:
                outcome = _Outcome(path, subject.name, place)
                for number in numbers:
                    activity.now(f"{subject.name}, case {number}")
                    _run_case(compiled, args.seed, number, outcome)
                    activity.step()
                    if outcome.refused or (args.exitfirst and outcome.failed):
                        break
                outcomes.append(outcome)
    return _report(outcomes, args.seed)


def _variants(path: Path, include: Sequence[Path]) -> tuple[Variant, ...]:
    result = check_file(path, include)
    result.raise_errors()
    return result.variants


@dataclass(slots=True)
class _Outcome:
    """What became of one variant's cases."""

    path: Path
    name: str
    place: Place
    fine: int = 0
    worst: float = 0.0  # the largest error, as a share of what is allowed
    refused: str = ""  # why the spec takes no such call
    forward_only: str = ""  # why no backward was run
    failed: list[tuple[int, str]] | None = None

    @property
    def label(self) -> str:
        """The variant, and where it ran if not on the CPU."""
        return self.name if self.place.is_cpu else f"{self.name} ({self.place})"

    @property
    def command(self) -> str:
        """How the variant is verified in its place, as it is typed."""
        command = f"attnlang verify {self.path}"
        if self.place.is_cpu:
            return command
        emulate = "ATTNLANG_EMULATE=1 " if self.place.emulated else ""
        return f"{emulate}{command} --target {self.place.target}"

    def add(self, number: int, accuracy: Accuracy, call: Call) -> None:
        if accuracy.fine:
            self.fine += 1
            self.worst = max(self.worst, accuracy.error / accuracy.bound if accuracy.bound else 0)
            return
        from attnlang.cli.shapes import shape_text

        dtype = str(call.q.dtype).removeprefix("torch.")
        what = f"{shape_text(call.shape)} {dtype}: error {accuracy.error:.2e}"
        told = f"{what}, allowed {accuracy.bound:.2e} ({accuracy.why})"
        self.failed = [*(self.failed or ()), (number, told)]


def _run_case(subject: Compiled, seed: int, number: int, outcome: _Outcome) -> None:
    import torch

    from attnlang.cli.accuracy import compare
    from attnlang.cli.cases import make_case
    from attnlang.cli.gradients import compare_gradients
    from attnlang.cli.trial import run_kernel
    from attnlang.ops.errors import CallError

    place = outcome.place
    call = make_case(subject.ir, seed, number)
    if not place.is_cpu and call.q.dtype == torch.float32:
        q, k, v = (x.bfloat16() for x in (call.q, call.k, call.v))
        call = replace(call, q=q, k=k, v=v)
    try:
        with torch.no_grad(), place.chosen():
            results = run_kernel(subject, place.bring(call))
            results = {name: x.cpu() for name, x in results.items()}
    except CallError as error:  # of a spec for other head dims: `v = k[0:512]`
        outcome.refused = str(error).splitlines()[0]
        return
    accuracy = compare(subject.ir, call, results["out"], results.get("lse"), seed)
    if accuracy.fine and not outcome.forward_only:
        try:
            with place.chosen():
                backward = compare_gradients(subject, call, place, seed)
            accuracy = _worse(accuracy, backward)
        except CallError as error:  # of a target whose backward takes other head dims
            outcome.forward_only = str(error).splitlines()[0]
    outcome.add(number, accuracy, call)


def _worse(first: Accuracy, second: Accuracy) -> Accuracy:
    def share(accuracy: Accuracy) -> float:
        return accuracy.error / accuracy.bound if accuracy.bound else 0.0

    return second if not second.fine or share(second) > share(first) else first


def _report(outcomes: list[_Outcome], seed: int) -> int:
    rows = [("variant", "calls", "worst", "")]
    for outcome in outcomes:
        if outcome.refused:
            rows.append((outcome.label, "0", "", f"not run: {outcome.refused}"))
            continue
        failed = len(outcome.failed or ())
        worst = f"{100 * outcome.worst:.0f}%"
        note = f"{failed} WRONG" if failed else ""
        if outcome.forward_only:
            note = f"{note} forward only: {outcome.forward_only}".strip()
        rows.append((outcome.label, str(outcome.fine + failed), worst, note))
    console.result(console.table(rows, right=frozenset({1, 2})))
    console.message("worst: the largest error, as a share of what is allowed")
    wrong = [o for o in outcomes if o.failed]
    for outcome in wrong:
        for number, told in outcome.failed or ():
            console.labelled("error", f"{outcome.name}: {told}")
            console.message(
                f"  {outcome.command} --variant {outcome.name} --seed {seed} --case {number}"
            )
    return 2 if wrong else 0
