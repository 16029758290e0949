"""From a plan to the one translation unit of its kernel, of dense calls or of packed ones.

The unit holds the functor and one instantiation; loops, tiles and memory live in `codegen/kernels`.
No text of the spec reaches the unit but through the printers and `spec_lines`.
"""

from __future__ import annotations

import re

from attnlang.emit.dialect import CPU, CUDA
from attnlang.emit.entry_points import kernel_functions
from attnlang.emit.functor import Functor
from attnlang.emit.templates import render
from attnlang.jit.units import Sources, Target, Unit
from attnlang.plan.plan import Plan

# Products and sums may fuse; no errno and no traps, but NaN and inf keep their meaning; ints wrap.
# Without ivopts: GCC 12 may address a tile's scores from the frame of a large functor, take the
# stores for local, and drop the call that makes them (docs/decisions/0010-no-ivopts.md).
FLAGS = (
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fwrapv",
    "-fno-ivopts",
)


def kernel_sources(plan: Plan, name: str) -> Sources:
    """Emit the unit of a planned kernel; `name` opens the artifact's file name."""
    target = plan.key.target
    dialect = CPU if target is Target.CPU else CUDA
    template, unit = dialect.template, dialect.unit
    if plan.key.packed:
        template, unit = dialect.packed_template, dialect.packed_unit
        if plan.key.pages:
            unit = f"{plan.key.pages}_{unit}"
    text = number_lines(render(template, Functor(plan, dialect).context()), unit)
    flags = FLAGS if target is Target.CPU else ()
    entry_points = tuple(kernel_functions(plan.key).values())
    units = (Unit(unit, text, flags=flags),)
    return Sources(name, target, units, entry_points, emulated=plan.key.emulated)


def number_lines(text: str, unit: str) -> str:
    """Point the compiler back at the unit after each expression of the spec (`#line 0`)."""
    lines = re.sub(r"\n{3,}", "\n\n", text.lstrip()).splitlines()
    for i, line in enumerate(lines):
        if line == "#line 0":
            lines[i] = f'#line {i + 2} "{unit}"'
    return "\n".join(lines) + "\n"
