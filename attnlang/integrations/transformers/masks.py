"""The mask that transformers asks for, described instead of drawn.

Maps the arguments of a mask function of transformers to a `SymbolicMask`: an expression in the
language and the values of its parameters. No tensor of [B, 1, Q, KV] is made, unless the mask
function is one that `terms` cannot follow: then that tensor is the parameter, and the mask is right
but has no tiles to skip. Under a tracer the tensor is all there is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import masking_utils

from attnlang.integrations.transformers.calls import CALLS
from attnlang.integrations.transformers.packed import unpack
from attnlang.integrations.transformers.symbolic_mask import Description, Expression, SymbolicMask
from attnlang.integrations.transformers.terms import (
    Coordinate,
    Number,
    Operation,
    Read,
    Term,
    Untraceable,
    operation,
    trace,
)

MaskFunction = Callable[..., object]


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: MaskFunction = masking_utils.causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    config: object = None,
    **kwargs: object,
) -> SymbolicMask | Tensor:
    """Describe a mask; the interface of transformers' `AttentionMaskInterface`.

    `mask_function(b, h, q, kv)` is over positions. `attention_mask` is bool [B, length],
    False where a position is padding.
    """

    def draw() -> Tensor:
        drawn: Tensor = masking_utils.sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
            allow_is_causal_skip=False, use_vmap=use_vmap, device=device,
        )  # fmt: skip
        return drawn

    # A static cache holds its length in a tensor; on a GPU, `generate` compiles what reads it.
    captured = isinstance(q_offset, Tensor) and q_offset.device.type != "cpu"
    if torch.compiler.is_compiling() or captured:
        return draw()
    model = getattr(config, "model_type", None)
    if model is not None:
        CALLS.mask_made(model)
    first_q, first_kv = int(q_offset), int(kv_offset)
    try:
        term = trace(mask_function, torch.device(device))
        padding = masking_utils.prepare_padding_mask(attention_mask, kv_length, first_kv)
        if padding is not None and not bool(padding.all()):
            keep = Read(padding.to(torch.bool), (Coordinate("b"), Coordinate("kv_idx")))
            term = operation("and", term, keep)
        ends = {"b": batch_size, "q_idx": first_q + q_length, "kv_idx": first_kv + kv_length}
        expression = render(unpack(term), ends)
    except Untraceable:
        values = {"drawn": draw()[:, 0]}
        expression = Expression("drawn[b, q_row, kv_col]", ("drawn: bool[B, Q, KV]",), values)
    description = Description(model, expression, first_q, first_kv, draw)
    return SymbolicMask((batch_size, 1, q_length, kv_length), torch.device(device), description)


def render(term: Term, ends: dict[str, int]) -> Expression:
    """Write a term in the language; `ends` says how far each coordinate goes.

    Numbers become parameters, so that another window is not another kernel. Raises Untraceable
    where a tensor is too short: kernels would read its last element instead.
    """
    params: dict[str, str] = {}
    values: dict[str, int | Tensor] = {}

    def number(value: int) -> str:
        for name, known in values.items():
            if isinstance(known, int) and known == value:
                return name
        name = f"n{len(params)}"
        params[name], values[name] = f"{name}: int", value
        return name

    def tensor(read: Read) -> str:
        for name, known in values.items():
            if known is read.tensor:
                return name
        name = f"t{len(params)}"
        dims = []
        for axis, (size, place) in enumerate(zip(read.tensor.shape, read.index, strict=True)):
            end = ends[place.name] if isinstance(place, Coordinate) else _value(place) + 1
            if size < end:
                raise Untraceable(f"a tensor of {size} elements along an axis of {end}")
            batch = isinstance(place, Coordinate) and place.name == "b" and size == end
            dims.append("B" if batch else f"{name.upper()}_{axis}")
        kind = "bool" if read.tensor.dtype == torch.bool else "int"
        params[name], values[name] = f"{name}: {kind}[{', '.join(dims)}]", read.tensor
        return name

    def text(x: Term) -> str:
        match x:
            case Coordinate(name=name):
                return name
            case Number(value=bool(value)):
                return "true" if value else "false"
            case Number(value=value):
                return "0" if value == 0 else number(value)
            case Read(index=index):
                return f"{tensor(x)}[{', '.join(_place(i) for i in index)}]"
            case Operation("not", (operand,)):
                return f"(not {text(operand)})"
            case Operation("neg", (operand,)):
                return f"(-{text(operand)})"
            case Operation("abs", (operand,)):
                return f"abs({text(operand)})"
            case Operation(name, (left, right)):
                return f"({text(left)} {name} {text(right)})"
        raise AssertionError(x)

    written = text(term)
    return Expression(written, tuple(params.values()), values)


def _place(index: Term) -> str:
    return index.name if isinstance(index, Coordinate) else str(_value(index))


def _value(index: Term) -> int:
    assert isinstance(index, Number)
    return int(index.value)


EVERYTHING = Expression("true", (), {})
CAUSAL = Expression("(kv_idx <= q_idx)", (), {})
