"""The names that built objects export, for the emitter that writes them and the op that asks."""

from __future__ import annotations

from attnlang.jit.units import Target
from attnlang.plan.kernel_key import KernelKey

OP = "attnlang_op"  # the `Op`, or `BackwardOp`, that an op's object exports
REGISTER, REGISTER_BACKWARD = "attnlang_register", "attnlang_register_backward"

_RUN, _COUNT_TILES, _WORKSPACE = "attnlang_run", "attnlang_count_tiles", "attnlang_workspace"
_RUN_PACKED, _PACKED_WORKSPACE = "attnlang_run_packed", "attnlang_packed_workspace"


def kernel_functions(key: KernelKey) -> dict[str, str]:
    """Return the functions that a kernel exports, by what they do: run, count_tiles, workspace."""
    functions = {"run": _RUN, "count_tiles": _COUNT_TILES, "workspace": _WORKSPACE}
    if key.packed:
        of_pages = key.pages and f"_{key.pages}"
        functions = {
            "run": f"{_RUN_PACKED}{of_pages}",
            "workspace": f"{_PACKED_WORKSPACE}{of_pages}",
        }
    if key.target is Target.CPU:
        del functions["workspace"]
    return functions
