"""From what a layer asks for to a variant: the text of a spec, compiled once.

Maps a `Form`, all that decides the text, to the `Variant` that computes it. Numbers are parameters
of the call, so a model has a handful of forms, one for each kind of its layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from torch import Tensor

from attnlang.integrations.transformers.symbolic_mask import Expression
from attnlang.invent.shape import ParamValue
from attnlang.ops.errors import CallError
from attnlang.ops.load import loads
from attnlang.ops.variant import Variant


@dataclass(frozen=True, slots=True)
class Form:
    """What an attention layer computes.

    `biases` are the axes of tensors added to the scores, each like `"b, h, q_row, kv_col"`.
    """

    mask: str
    params: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    soft_cap: bool = False
    sink: bool = False
    dropout: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a layer asks for beside its mask: transformers' arguments, None or 0 where it does not.

    `sinks` are [HQ]; `biases` pair axes with tensors, as `Form` has them.
    """

    soft_cap: float | None = None
    sinks: Tensor | None = None
    dropout: float = 0.0
    biases: tuple[tuple[str, Tensor], ...] = ()


_SIZES = {"b": "B", "h": "HQ", "q_row": "Q", "kv_col": "KV"}


def form_of(seen: Expression, asked: Asked, heads: int) -> tuple[Form, dict[str, ParamValue]]:
    """Return the form of a layer of so many query heads, and the parameters of its call."""
    values: dict[str, ParamValue] = dict(seen.values)
    for n, (_, bias) in enumerate(asked.biases):
        values[f"bias{n}"] = bias
    if asked.soft_cap is not None:
        values["cap"] = asked.soft_cap
    if asked.sinks is not None:
        if asked.sinks.numel() != heads:
            shape = str(tuple(asked.sinks.shape))
            raise CallError("s_aux", f"one sink a query head, {heads}", shape)
        values["sink"] = asked.sinks.reshape(-1)
    if asked.dropout:
        values["p"] = asked.dropout
    form = Form(
        seen.text,
        seen.params,
        tuple(axes for axes, _ in asked.biases),
        asked.soft_cap is not None,
        asked.sinks is not None,
        bool(asked.dropout),
    )
    return form, values


def spec(form: Form) -> str:
    """Write the spec of a form."""
    params, lines = list(form.params), []
    if form.soft_cap:
        params.append("cap: float")
        lines.append("score = soft_cap(score, cap)")
    for n, axes in enumerate(form.biases):
        params.append(f"bias{n}: float[{sizes(axes)}]")
        lines.append(f"score = score + bias{n}[{axes}]")
    if form.mask != "true":
        lines.append(f"mask = {form.mask}")
    if form.sink:
        params.append("sink: float[HQ]")
    if form.dropout:
        params.append("p: float")
    if form.sink or form.dropout:
        sink = ", sink=sink[h]" if form.sink else ""
        lines.append(f"weights = softmax(score{sink}){' * dropout(p)' if form.dropout else ''}")
    header = f"attention transformers_layer({', '.join(params)}):"
    return "\n".join((header, *(f"    {line}" for line in lines), ""))


def sizes(axes: str) -> str:
    """Return the declared shape of a tensor that is read at these axes."""
    return ", ".join(_SIZES[axis] for axis in axes.split(", "))


class _Loaded:
    """The variants of all forms so far, as attributes: a tracer reads one, where it is, by name."""


_LOADED = _Loaded()
_NAMES: dict[str, str] = {}
_LOCK = Lock()


def variant(form: Form) -> Variant:
    """Return the compiled form; this is traced too."""
    found: Variant = getattr(_LOADED, _load(spec(form)))
    return found


def _load(text: str) -> str:
    """Compile a spec once, and return its name; this runs as Python while a graph is traced."""
    with _LOCK:
        if text not in _NAMES:
            name = f"form_{len(_NAMES)}"
            setattr(_LOADED, name, loads(text))
            _NAMES[text] = name
        return _NAMES[text]


# As torch.compiler.assume_constant_result, which imports torch's whole tracer.
_load._dynamo_marked_constant = True  # type: ignore[attr-defined]
