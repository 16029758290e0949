"""From a plan to the one translation unit of its kernel.

The unit holds the functor and one instantiation; loops, tiles and memory live in `codegen/kernels`.
No text of the spec reaches the unit but through the printers and `spec_lines`.
"""

from __future__ import annotations

from attnlang.emit.dialect import CPU
from attnlang.emit.functor import Functor
from attnlang.emit.templates import render
from attnlang.jit.units import Sources, Target, Unit
from attnlang.plan.plan import Plan

RUN, COUNT_TILES = "attnlang_run", "attnlang_count_tiles"

# Products and sums may fuse; no errno and no traps, but NaN and inf keep their meaning; ints wrap.
# Without ivopts: GCC 12 may address a tile's scores from the frame of a large functor, take the
# stores for local, and drop the call that makes them (docs/decisions/0010-no-ivopts.md).
_FLAGS = (
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fwrapv",
    "-fno-ivopts",
)


def kernel_sources(plan: Plan, name: str) -> Sources:
    """Emit the unit of a planned kernel; `name` opens the artifact's file name."""
    text = _number_lines(render(CPU.template, Functor(plan, CPU).context()), CPU.unit)
    unit = Unit(CPU.unit, text, flags=_FLAGS)
    return Sources(name, Target.CPU, (unit,), (RUN, COUNT_TILES))


def _number_lines(text: str, unit: str) -> str:
    """Point the compiler back at the unit after each expression of the spec (`#line 0`)."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line == "#line 0":
            lines[i] = f'#line {i + 2} "{unit}"'
    return "\n".join(lines) + "\n"
