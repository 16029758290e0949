"""The pair of torch ops that autograd records: attention without transforms, and its backward.

Maps a core variant (q', k', v' as they are, the accumulated values as they come) and a kernel key
to `torch.ops.attnlang.<name>_training`, which runs the raw op and saves what the backward op needs;
with `_packed` behind it, of packed calls. Inference never passes through it. Invariant: an op name
is registered once a process.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlang.compiler import backward_sources, plan_backward
from attnlang.emit.op_schema import Argument, Role, make_schema
from attnlang.jit.build import build
from attnlang.jit.memo import remembered
from attnlang.jit.units import Target
from attnlang.ops.binding import progress, register_backward
from attnlang.ops.errors import CallError
from attnlang.ops.specialised import Specialised
from attnlang.ops.torch_op import NAMESPACE, is_registered
from attnlang.ops.transforms import refuse_vmap
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.widths import WidthError

_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_registered: dict[tuple[str, bool], TrainingOp] = {}
_registering = threading.Lock()

_NO_SECOND = "attnlang has no second derivatives: call backward without create_graph"


class TrainingOp:
    """One registered pair; `overload` is called with every argument of the raw op, by position."""

    def __init__(
        self, core: Specialised, name: str, library: Path, device: torch.device, *, packed: bool
    ) -> None:
        self._raw = core.op.packed.overload if packed else core.op.overload
        self._packed = packed
        schema = make_schema(core.lowered.variant, name)
        self.arguments = schema.passed(packed=packed)
        self.companions = schema.companions
        self._softmax = core.lowered.exponent is not None
        self._scalars = [self._companion(a) for a in schema.scalars]
        self._tensors = [self._place(a.name) for a in schema.tensors]
        kind = "_packed" if packed else ""
        backward, training = f"{name}_backward{kind}", f"{name}_training{kind}"
        if not is_registered(backward):
            register_backward(library)
        if not is_registered(backward):
            raise RuntimeError(f"torch refused to register {NAMESPACE}::{backward}")
        ops = getattr(torch.ops, NAMESPACE)
        self._backward = getattr(ops, backward).default
        torch.library.register_fake(self._backward, self._fake_backward)
        _LIBRARY.define(f"{training}{schema.training(packed=packed)}")  # type: ignore[no-untyped-call]
        _LIBRARY.impl(training, self._run, device.type.upper())  # type: ignore[no-untyped-call]
        self.overload = getattr(ops, training).default
        torch.library.register_fake(self.overload, self._run)
        refuse_vmap(training)
        torch.library.register_autograd(
            self.overload, self._differentiate, setup_context=self._save
        )

    @staticmethod
    def of(
        core: Specialised, key: KernelKey, device: torch.device, *, packed: bool = False
    ) -> TrainingOp:
        """Return the pair for one kernel key, building its backward kernel where that is missing.

        Raises BuildError where the toolchain fails, CallError for head dims that no backward kernel
        of the target takes, ValueError where there is no derivative.
        """
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:8]
        name = f"{core.name}_{digest}"
        # A GPU's kernels run dense calls or packed ones, the CPU's both.
        own = replace(key, packed=packed and key.target is not Target.CPU)
        with _registering:
            if (name, packed) not in _registered:
                try:
                    sources = remembered(
                        "backward",
                        (*core.material, own),
                        lambda: backward_sources(
                            plan_backward(core.lowered, own), f"{name}_backward"
                        ),
                    )
                except WidthError as error:
                    raise CallError(error.argument, error.expected, error.found) from None
                core.op.ensure(replace(key, packed=packed), device)
                library = build(sources, progress=progress.get())
                _registered[name, packed] = TrainingOp(core, name, library, device, packed=packed)
            else:
                core.op.ensure(replace(key, packed=packed), device)
            return _registered[name, packed]

    def _place(self, name: str) -> int:
        return next(i for i, a in enumerate(self.arguments) if a.name == name)

    def _companion(self, scalar: Argument) -> int | None:
        """Return the place of the 0-d tensor that may stand for a float; None for an int."""
        role = Role.REAL_TENSOR
        found = (
            i
            for i, a in enumerate(self.arguments)
            if scalar.role == Role.REAL and a.role == role and a.index == scalar.index
        )
        return next(found, None)

    def _run(self, *args: object) -> tuple[Tensor, Tensor]:
        named = {a.name: x for a, x in zip(self.arguments, args, strict=True)}
        named["return_lse"] = self._softmax
        named[self.companions["wide_out"]] = True
        out, lse, _ = self._raw(**named)
        return out, lse

    def _fake_backward(self, *args: object) -> tuple[Tensor, ...]:
        q, k, v = (x for x in args[:3] if isinstance(x, Tensor))
        wanted = args[-1]
        assert isinstance(wanted, int)
        sums = []
        for bit, place in enumerate((*self._scalars, *self._tensors)):
            given = None if place is None else args[place]
            asked = wanted >> bit & 1 and isinstance(given, Tensor)
            shape = given.shape if asked and isinstance(given, Tensor) else (0,)
            sums.append(q.new_empty(shape, dtype=torch.float32))
        vectors = [x.new_empty(x.shape) if self._packed else _dense_like(x) for x in (q, k, v)]
        return (*vectors, *sums)

    def _save(self, ctx: Any, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        ctx.save_for_backward(*tensors, *output)
        ctx.others = [None if isinstance(x, Tensor) else (x,) for x in inputs]
        ctx.set_materialize_grads(False)
        if not self._softmax:
            ctx.mark_non_differentiable(output[1])

    def _differentiate(
        self,
        ctx: Any,  # noqa: ANN401
        out_grad: Tensor | None,
        lse_grad: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """Map what reached out and lse to what reaches each argument."""
        *tensors, out, lse = ctx.saved_tensors
        # Not of `out_grad` alone: the loss may be a sum, whose gradient has none.
        read = (out_grad, lse_grad, *tensors)
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in read):
            raise RuntimeError(_NO_SECOND)
        rest = iter(tensors)
        inputs = [next(rest) if other is None else other[0] for other in ctx.others]
        targets = (*self._scalars, *self._tensors)
        wanted = sum(
            1 << bit
            for bit, place in enumerate(targets)
            if place is not None and ctx.needs_input_grad[place]
        )
        if out_grad is None:
            out_grad = torch.zeros_like(out)
        results = self._backward(*inputs, out, lse, out_grad, lse_grad, wanted)
        grads: list[Tensor | None] = [None] * len(inputs)
        grads[:3] = [
            g if needed else None
            for g, needed in zip(results[:3], ctx.needs_input_grad, strict=False)
        ]
        for bit, place in enumerate(targets):
            if wanted >> bit & 1:
                assert place is not None
                like = inputs[place]
                assert isinstance(like, Tensor)
                grads[place] = results[3 + bit].reshape(like.shape).to(like.dtype)
        return tuple(grads)


def _dense_like(x: Tensor) -> Tensor:
    """Return an empty tensor with the strides that the backward op gives its results."""
    b, h, n, d = x.shape
    # Costs a second to import, and whoever traces has it.
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    if guard_or_false(x.stride(1) < x.stride(2)):
        return x.new_empty((b, n, h, d)).transpose(1, 2)
    return x.new_empty((b, h, n, d))


Call = Callable[..., tuple[Tensor, Tensor]]


def positional(op: TrainingOp, vectors: Sequence[Tensor], call: dict[str, object]) -> list[object]:
    """Arrange the raw op's arguments by position, defaults filled in."""
    rest = op.arguments[len(vectors) :]
    named = (call[a.name] if a.name in call else _default(a) for a in rest)
    return [*vectors, *named]


def _default(argument: Argument) -> object:
    match argument.default:
        case None:
            raise AssertionError(f"{argument.name} is required")
        case "None":
            return None
        case "True" | "False" as flag:
            return flag == "True"
        case text:
            return float(text) if argument.type == "float" else int(text)
