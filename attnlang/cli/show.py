"""`attnlang show`: what a spec is at a stage of the compiler, printed. Nothing is built."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from enum import StrEnum
from typing import TYPE_CHECKING

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.files import Chosen, check_file, choose
from attnlang.cli.options import DType, add_choice, add_file_and_name, add_set

if TYPE_CHECKING:
    from attnlang.passes import Lowered
    from attnlang.plan.plan import Plan


class Stage(StrEnum):
    """Where to look, in the compiler's order."""

    AST = "ast"
    IR = "ir"
    SIMPLIFIED = "simplified"
    PLAN = "plan"
    SOURCE = "source"


class Target(StrEnum):
    """What the plan and the source are for."""

    CPU = "cpu"


# A kernel is for some dtype and head dimension; these are shown unless others are asked for.
_HEAD_DIM = 128
_PARAM_DTYPES = {"float": "f32", "int": "i64", "bool": "boolean"}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_file_and_name(parser)
    add_choice(parser, "--stage", Stage, Stage.IR, "where to look")
    add_choice(parser, "--target", Target, Target.CPU, "what plan and source are for")
    add_choice(parser, "--dtype", DType, DType.F32, "of q, k and v, for plan and source")
    parser.add_argument(
        "--head-dim",
        default=str(_HEAD_DIM),
        metavar="D[,DV]",
        help=f"for plan and source (default: {_HEAD_DIM})",
    )
    add_set(parser)
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="NAME",
        help="an optional tensor that the call passes",
    )


def show(args: Namespace) -> int:
    """Print what a spec is at a stage of the compiler."""
    stage = Stage(args.stage)
    if stage is Stage.AST and args.name is None:
        from attnlang.syntax.ast_printer import print_ast

        result = check_file(args.file, args.include)
        result.raise_errors()
        console.result(print_ast(result.file))
        return 0
    chosen = choose(args.file, args.name, args.include)
    console.result(_View(chosen, args).text(stage))
    return 0


class _View:
    """One variant, seen at any stage."""

    def __init__(self, chosen: Chosen, args: Namespace) -> None:
        self._chosen = chosen
        self._dtype = DType(args.dtype)
        self._head_dim: str = args.head_dim
        self._settings: list[str] = args.set
        self._given: list[str] = args.given

    def text(self, stage: Stage) -> str:
        match stage:
            case Stage.AST:
                from attnlang.syntax.ast import Attention
                from attnlang.syntax.ast_printer import print_ast

                variant = self._chosen.variant
                items = self._chosen.result.file.items
                (item,) = (i for i in items if isinstance(i, Attention) and i.name == variant.name)
                return print_ast(item)
            case Stage.IR:
                from attnlang.ir.printer import print_variant

                return print_variant(self._chosen.variant)
            case Stage.SIMPLIFIED:
                from attnlang.passes import describe

                return describe(self._lowered())
            case Stage.PLAN:
                from attnlang.plan.plan import describe as describe_plan

                return describe_plan(self._plan())
            case Stage.SOURCE:
                from attnlang.compiler import kernel_sources

                units = kernel_sources(self._plan(), self._chosen.variant.name).units
                return "\n".join(f"// {unit.name}\n{unit.text}" for unit in units)

    def _lowered(self) -> Lowered:
        from attnlang.cli.settings import parse_settings
        from attnlang.compiler import lower
        from attnlang.ir.nodes import ScalarParam, TensorParam

        variant = self._chosen.variant
        settings = parse_settings(variant, self._settings)
        consts = {p.name for p in variant.params if isinstance(p, ScalarParam) and p.const}
        values = {n: v for n, v in settings.scalars.items() if n in consts}
        optional = {p.name for p in variant.params if isinstance(p, TensorParam) and p.optional}
        for name in self._given:
            if name not in optional:
                raise InputError(f"--given: {variant.name} has no optional tensor {name}")
        required = {p.name for p in variant.params if isinstance(p, TensorParam)} - optional
        try:
            return lower(variant, values, frozenset(required | set(self._given)))
        except ValueError as error:  # a const parameter without a value
            raise InputError(f"{error} (--set)") from None

    def _plan(self) -> Plan:
        from attnlang.compiler import plan
        from attnlang.ir.nodes import TensorParam
        from attnlang.plan.plan import KernelKey

        dims = self._head_dim.split(",")
        if len(dims) > 2 or not all(d.isdecimal() and int(d) > 0 for d in dims):
            raise InputError(f"--head-dim: expected D or D,DV, found {self._head_dim}")
        tensors = [p for p in self._chosen.variant.params if isinstance(p, TensorParam)]
        dtypes = tuple(
            "none" if p.optional and p.name not in self._given else _PARAM_DTYPES[p.kind]
            for p in tensors
        )
        key = KernelKey(self._dtype.value, int(dims[0]), int(dims[-1]), dtypes)
        return plan(self._lowered(), key)
