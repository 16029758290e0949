"""From a plan to one self-contained object: an op and its kernels, registered when it is loaded.

Maps a planned kernel to `Sources` of these units: the kernel, the one of packed calls, the op, the
binding that registers it, what hands it the kernels, and what their code asks of a CPU.
Nothing in it needs Python at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnlang.emit.entry_points import kernel_functions
from attnlang.emit.kernel_unit import kernel_sources
from attnlang.emit.op_unit import binding_unit, op_unit
from attnlang.emit.templates import render
from attnlang.ir.nodes import Variant
from attnlang.jit.cpu import MACROS
from attnlang.jit.units import Sources, Target, Unit
from attnlang.plan.kernel_key import PAGES, KernelKey
from attnlang.plan.plan import Plan, make_plan

_FEATURES = "attnlang_features"


@dataclass(frozen=True, slots=True)
class KernelText:
    """A kernel of the object: its key and its functions, empty what it has none of."""

    name: str
    dtypes_name: str
    dtype: str
    head_dim: int
    value_dim: int
    target: int
    packed: int
    tensor_count: int
    param_dtypes: tuple[str, ...]  # with a spare one where there is none
    run: str
    count_tiles: str = ""
    workspace: str = ""


@dataclass(frozen=True, slots=True)
class BuiltInContext:
    """What `built_in.cpp.j2` reads; every string is C++ text."""

    kernels: tuple[KernelText, ...]
    features: str


def aot_sources(plan: Plan, op_name: str) -> Sources:
    """Emit the object that registers `torch.ops.attnlang.<op_name>` with its kernels."""
    kinds = ("",) if plan.key.target is Target.CPU else ("", *PAGES)
    packed = [make_plan(plan.lowered, replace(plan.key, packed=True, pages=p)) for p in kinds]
    plans = [plan, *packed]
    kernels = [kernel_sources(p, op_name) for p in plans]
    units = (
        *(unit for kernel in kernels for unit in kernel.units),
        *aot_op_units(plan.lowered.variant, op_name, [p.key for p in plans]),
    )
    return Sources(f"{op_name}_aot", plan.key.target, units, ())


def aot_op_units(variant: Variant, op_name: str, keys: list[KernelKey]) -> tuple[Unit, ...]:
    """Emit the units that make an object register its op when it is loaded.

    `keys` are the kernels beside it, all of one call's dtypes and head dims.
    """
    return _features(), op_unit(variant, op_name), binding_unit(), _built_in(keys)


def _built_in(keys: list[KernelKey]) -> Unit:
    kernels = [
        KernelText(
            name := "packed" + (key.pages and f"_{key.pages}") if key.packed else "dense",
            f"{name}_dtypes",
            dtype=_dtype(key.dtype),
            head_dim=key.head_dim,
            value_dim=key.value_dim,
            target=key.target.code,
            packed=key.packing,
            tensor_count=len(key.param_dtypes),
            param_dtypes=tuple(_dtype(d) for d in (*key.param_dtypes, "none")),
            **kernel_functions(key),
        )
        for key in keys
    ]
    context = BuiltInContext(tuple(kernels), _FEATURES)
    return Unit("built_in.cpp", render("built_in.cpp.j2", context), torch=True, flags=("-O1",))


def _dtype(name: str) -> str:
    return "kAbsent" if name == "none" else f"int32_t(DType::{name})"


def _features() -> Unit:
    """Emit the names of the CPU features for which this unit, and so the kernels, are compiled."""
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
