"""What of torch's function transforms a call refuses: `vmap`, forward mode, `torch.func`'s grad.

Without these an op would loop over the entries of a batch, or lose a tangent without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch.autograd import forward_ad

from attnlang.ops.errors import CallError

_BATCH = "make the mapped dimension a part of the batch: q[B, HQ, Q, D] has room for it"
_BACKWARD = "use `backward()` or `torch.autograd.grad`, or `reference`"
_FUNC = (TransformType.Grad, TransformType.Jvp)

_IMPLEMENTATIONS = torch.library.Library("attnlang", "IMPL")  # type: ignore[no-untyped-call]


def refuse_vmap(op_name: str) -> None:
    """Refuse an op under `torch.vmap`, whose own way is a loop over calls of one entry each."""
    _IMPLEMENTATIONS.impl(op_name, _no_vmap, "FuncTorchBatched")  # type: ignore[no-untyped-call]


def _no_vmap(*_: object, **__: object) -> None:
    raise CallError("q", "a tensor outside of `torch.vmap`", "a batched one", help=_BATCH)


def dual_level() -> int:
    """Return the level of forward-mode differentiation, -1 outside of it."""
    return forward_ad._current_level


def refuse_tangents(values: Mapping[str, object]) -> None:
    """Refuse a tensor that carries a tangent of forward-mode differentiation."""
    if dual_level() < 0:
        return
    for name, x in values.items():
        if not isinstance(x, Tensor):
            continue
        if forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
            raise CallError(name, "a tensor without a tangent", "a dual tensor", help=_BACKWARD)


def refuse_func() -> None:
    """Refuse to be recorded inside of `torch.func.grad` and its like."""
    interpreter = peek_interpreter_stack()
    if interpreter is not None and interpreter.key() in _FUNC:
        raise CallError("q", "a tensor outside of `torch.func`", "one of its own", help=_BACKWARD)
