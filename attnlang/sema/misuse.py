"""Mistakes with tensors, `none` and weights: values that are no numbers."""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass

from attnlang.diagnostics.base import Label
from attnlang.sema.report import SemaDiagnostic
from attnlang.sources import Span


@dataclass(frozen=True, slots=True)
class TensorNotRead(SemaDiagnostic):
    """A tensor where one of its elements is needed."""

    code = "A222"
    name: str
    rank: int

    @property
    def headline(self) -> str:
        return f"`{self.name}` is a tensor, and a number is needed here"

    @property
    def help(self) -> str | None:
        indices = "an index" if self.rank == 1 else f"{self.rank} indices"
        return f"read an element with {indices}, as in `{self.name}[...]`"


@dataclass(frozen=True, slots=True)
class NoneMisused(SemaDiagnostic):
    """`none` where a number is needed, or compared with something that is never `none`."""

    code = "A224"
    other: bool = False

    @property
    def headline(self) -> str:
        return "only a tensor can be `none`" if self.other else "`none` is not a value"

    @property
    def label(self) -> str:
        return "this is no tensor's name" if self.other else ""

    @property
    def notes(self) -> tuple[str, ...]:
        return ("an optional tensor is asked for with `t == none` or `t != none`",)


@dataclass(frozen=True, slots=True)
class MaybeAbsent(SemaDiagnostic):
    """An optional tensor, or a size that only it binds, is read where it may be absent."""

    code = "A223"
    name: str
    tensor: str

    @property
    def headline(self) -> str:
        if self.name == self.tensor:
            return f"`{self.name}` is read where it may be `none`"
        return f"the size `{self.name}` is read where `{self.tensor}` may be `none`"

    @property
    def label(self) -> str:
        return "" if self.name == self.tensor else f"only `{self.tensor}` binds it"

    @property
    def help(self) -> str | None:
        return f"read it under a guard: `... if {self.tensor} != none else ...`"


@dataclass(frozen=True, slots=True)
class WeightMisused(SemaDiagnostic):
    """A softmax or a dropout inside something else than a product."""

    code = "A303"

    @property
    def headline(self) -> str:
        return "`softmax` and `dropout` can only be multiplied, in `weights`"

    @property
    def label(self) -> str:
        return "this holds one of them"

    @property
    def notes(self) -> tuple[str, ...]:
        return (
            "weights are `softmax(e)` times factors, or an expression of the score without softmax",
        )


@dataclass(frozen=True, slots=True)
class WeightsElsewhere(SemaDiagnostic):
    """A softmax or dropout is called outside `weights`."""

    code = "A308"
    function: str
    place: str

    @property
    def headline(self) -> str:
        return f"`{self.function}` belongs in `weights`, not in {self.place}"

    @property
    def help(self) -> str | None:
        return "write `weights = ...`; without it the weights are `softmax(score)`"


@dataclass(frozen=True, slots=True)
class TwiceInWeights(SemaDiagnostic):
    """Two softmaxes, or two dropouts, in one weight."""

    code = "A304"
    function: str
    before: Span

    @property
    def headline(self) -> str:
        return f"the weights hold `{self.function}` twice"

    @property
    def label(self) -> str:
        return "the second"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.before, "the first"),)

    @property
    def notes(self) -> tuple[str, ...]:
        return ("an unassigned `weights` is `softmax(score)` already",)
