"""From a plan to one self-contained object: a kernel, and the op that finds it when it is loaded.

Maps a planned kernel to `Sources` of three units: the kernel, the op's binding with that kernel
built in, and what the kernel's code asks of a CPU. Nothing in it needs Python at run time.
"""

from __future__ import annotations

from attnlang.emit.kernel_unit import COUNT_TILES, RUN, WORKSPACE, kernel_sources
from attnlang.emit.op_unit import BuiltInText, op_unit
from attnlang.jit.cpu import MACROS
from attnlang.jit.units import Sources, Target, Unit
from attnlang.plan.plan import Plan

_FEATURES = "attnlang_features"


def aot_sources(plan: Plan, op_name: str) -> Sources:
    """Emit the object that registers `torch.ops.attnlang.<op_name>` with one kernel."""
    kernel = kernel_sources(plan, op_name)
    binding = op_unit(plan.lowered.variant, op_name, _built_in(plan))
    return Sources(f"{op_name}_aot", kernel.target, (*kernel.units, _features(), binding), ())


def _built_in(plan: Plan) -> BuiltInText:
    key = plan.key
    return BuiltInText(
        dtype=_dtype(key.dtype),
        head_dim=key.head_dim,
        value_dim=key.value_dim,
        param_dtypes=tuple(_dtype(d) for d in (*key.param_dtypes, "none")),
        run=RUN,
        count_tiles=COUNT_TILES,
        workspace="nullptr" if key.target is Target.CPU else WORKSPACE,
        target=key.target.code,
        features=_FEATURES,
    )


def _dtype(name: str) -> str:
    return "kAbsent" if name == "none" else f"int32_t(DType::{name})"


def _features() -> Unit:
    """Emit the names of the CPU features for which this unit, and so the kernel, is compiled."""
    lines = [
        "// What the code of this object asks of a CPU, under the names of /proc/cpuinfo.",
        'extern "C" {',
        f"extern const char {_FEATURES}[];",
        f'const char {_FEATURES}[] = ""',
    ]
    for macro, feature in MACROS.items():
        lines += [f"#ifdef {macro}", f'    "{feature} "', "#endif"]
    lines += ["    ;", "}"]
    return Unit("features.cpp", "\n".join(lines) + "\n")
