"""The torch op of packed calls: `attnlang::<name>_packed`, beside the dense one.

Maps a registered op to the overload that takes rows of all requests one after another, and to its
fake implementation, which says the shapes that `op_results.h` allocates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from attnlang.emit.op_schema import OpSchema, named
from attnlang.plan.widths import Widths

Prepare = Callable[[Mapping[str, object]], Widths]


class PackedOp:
    """The op of packed calls; `prepare` builds the kernel of one and says how wide its rows are."""

    overload: torch._ops.OpOverload
    schedule: torch._ops.OpOverload  # makes what the other one may be given as `schedule`

    def __init__(self, schema: OpSchema, prepare: Prepare) -> None:
        self._schema = schema
        self._prepare = prepare
        self.overload = getattr(torch.ops.attnlang, f"{schema.name}_packed").default
        self.schedule = getattr(torch.ops.attnlang, f"{schema.name}_schedule").default

    def register_fake(self) -> None:
        """Tell torch what the op returns where it runs on no memory."""
        torch.library.register_fake(self.overload, self._fake, allow_override=True)
        torch.library.register_fake(self.schedule, self._fake_schedule, allow_override=True)

    def _fake(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor, Tensor]:
        arguments = named(self._schema.packed_arguments, args, kwargs)
        width = self._prepare(arguments).out
        q, indptr = arguments["q"], arguments[self._schema.companions["q_indptr"]]
        assert isinstance(q, Tensor)
        assert isinstance(indptr, Tensor)
        rows, heads, _ = q.shape
        dtype = torch.float32 if arguments.get(self._schema.companions["wide_out"]) else q.dtype
        out = q.new_empty((rows, heads, width), dtype=dtype)
        lse = (rows, heads) if arguments.get("return_lse") else (0,)
        top = (indptr.shape[0] - 1, heads) if arguments.get("return_max") else (0,)
        return out, q.new_empty(lse, dtype=torch.float32), q.new_empty(top, dtype=torch.float32)

    def _fake_schedule(self, *args: object, **kwargs: object) -> tuple[Tensor, int]:
        arguments = named(self._schema.schedule_arguments, args, kwargs)
        self._prepare(arguments)
        q = arguments["q"]
        assert isinstance(q, Tensor)
        return q.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int32), 0
