"""Solves the sizes that tensors bind, and checks every tensor against its declared shape.

`BoundSize` says `extent(tensor, axis) == factor * name + offset`; a size may be bound by several
tensors, which must agree. Adds the sizes to `Inputs.sizes` in place: an offset reads those before.
"""

from __future__ import annotations

import torch

from attnlang.ir.nodes import BoundSize, TensorParam
from attnlang.reference.domain import POINT
from attnlang.reference.evaluate import new_scope
from attnlang.reference.inputs import Inputs
from attnlang.reference.scope import Provided, Scope


def static_scope(inputs: Inputs) -> Scope:
    """Return the scope in which sizes and constants alone have a value."""
    rows = torch.empty(0, dtype=torch.int64, device=inputs.device)
    return new_scope(inputs, Provided(POINT, rows, {}), POINT, width=0)


def bind_sizes(inputs: Inputs) -> None:
    """Solve the bound sizes, then check the shapes of all tensors that were passed."""
    for bound in inputs.variant.sizes:
        _bind(bound, inputs)
    for param in inputs.variant.params:
        if isinstance(param, TensorParam):
            _check(param, inputs)


def _bind(bound: BoundSize, inputs: Inputs) -> None:
    tensor = inputs.tensors.get(bound.tensor)
    if tensor is None:
        return
    extent = tensor.shape[bound.axis]
    rest = extent - static_scope(inputs).size(bound.offset)
    value, remainder = divmod(rest, bound.factor)
    where = f"axis {bound.axis} of `{bound.tensor}` has extent {extent}"
    if remainder or value < 0:
        raise ValueError(f"{where}: no size `{bound.name}` gives that")
    if inputs.sizes.setdefault(bound.name, value) != value:
        found = inputs.sizes[bound.name]
        raise ValueError(f"{where}: `{bound.name}` would be {value}, but it is {found} elsewhere")


def _check(param: TensorParam, inputs: Inputs) -> None:
    tensor = inputs.tensors[param.name]
    if tensor is None:
        return
    expected = [static_scope(inputs).size(dim) for dim in param.dims]
    if param.name in inputs.alone:
        expected[inputs.alone[param.name]] = 1
    if list(tensor.shape) != expected:
        raise ValueError(f"`{param.name}` must be {expected}, found shape {list(tensor.shape)}")
