"""`attnlang show`: what a spec is at a stage of the compiler, printed. Nothing is built."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from enum import StrEnum

from attnlang.cli import console, kernel
from attnlang.cli.files import Chosen, check_file, choose
from attnlang.cli.kernel import KernelChoice
from attnlang.cli.options import add_choice, add_file_and_name
from attnlang.jit.units import Target


class Stage(StrEnum):
    """Where to look, in the compiler's order."""

    AST = "ast"
    IR = "ir"
    SIMPLIFIED = "simplified"
    PLAN = "plan"
    SOURCE = "source"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_file_and_name(parser)
    add_choice(parser, "--stage", Stage, Stage.IR, "where to look")
    add_choice(parser, "--target", Target, Target.CPU, "what plan and source are for")
    kernel.add_arguments(parser, ", for plan and source")


def show(args: Namespace) -> int:
    """Print what a spec is at a stage of the compiler."""
    stage = Stage(args.stage)
    if stage is Stage.AST and args.name is None:
        from attnlang.syntax.ast_printer import print_ast

        result = check_file(args.file, args.include)
        result.raise_errors()
        if args.set or args.given or args.param_dtype:
            chosen = choose(args.file, args.name, args.include)
            KernelChoice(chosen.variant, args).check_names()
        console.result(print_ast(result.file))
        return 0
    chosen = choose(args.file, args.name, args.include)
    KernelChoice(chosen.variant, args).check_names()  # also where the stage needs none
    console.result(_View(chosen, args).text(stage))
    return 0


class _View:
    """One variant, seen at any stage."""

    def __init__(self, chosen: Chosen, args: Namespace) -> None:
        self._chosen = chosen
        self._kernel = KernelChoice(chosen.variant, args)

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
                from attnlang.passes.describe import describe

                return describe(self._kernel.lowered)
            case Stage.PLAN:
                from attnlang.plan.plan import describe as describe_plan

                return describe_plan(self._kernel.plan)
            case Stage.SOURCE:
                from attnlang.compiler import kernel_sources

                units = kernel_sources(self._kernel.plan, self._chosen.variant.name).units
                return "\n".join(f"// {unit.name}\n{unit.text}" for unit in units)
