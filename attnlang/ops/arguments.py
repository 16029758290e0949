"""Checking a call: from what Python passed to what the op takes, or a `CallError`.

Runs on real tensors in eager calls and on fake ones while a compiled graph is traced; it reads
shapes, dtypes and devices, and host numbers, never the values of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from attnlang.diagnostics.suggest import nearest
from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir.nodes import (
    BoundSize,
    CallScale,
    Expr,
    Given,
    Kind,
    Param,
    Scalar,
    ScalarParam,
    Size,
    TensorParam,
    Variant,
)
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import walk
from attnlang.ops.errors import CallError
from attnlang.plan.kernel_key import MAX_HEAD_DIM
from attnlang.symbolic.evaluate import Leaf, evaluate

POSITION_LIMIT = 2**30

DTYPE_NAMES: Mapping[torch.dtype, str] = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
    torch.bool: "boolean",
}
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KIND_DTYPES: Mapping[Kind, tuple[torch.dtype, ...]] = {
    Kind.FLOAT: (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    Kind.INT: (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8),
    Kind.BOOL: (torch.bool,),
}


def name_params(
    params: tuple[Param, ...],
    positional: tuple[ParamValue, ...],
    named: Mapping[str, ParamValue],
    keywords: tuple[str, ...] = (),
) -> dict[str, ParamValue]:
    """Give each parameter its value: passed by position, by name, or its default.

    `keywords` are the call's own: what comes under no name may be one, misspelt.
    """
    names = [p.name for p in params]
    if len(positional) > len(names):
        count = len(positional)
        raise CallError(
            "parameters", f"at most {len(names)} beside q, k, v", f"{count} by position"
        )
    values: dict[str, ParamValue] = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            close = nearest(name, [*names, *keywords])
            raise CallError(
                name,
                f"one of {', '.join(names)}" if names else "no parameter",
                "a name that the spec does not have",
                help=f"a similar name exists: `{close}`" if close else None,
            )
        if name in values:
            raise CallError(name, "one value", "two, by position and by name")
        values[name] = value
    for param in params:
        if param.name in values:
            continue
        optional = isinstance(param, TensorParam) and param.optional
        default = param.default if isinstance(param, ScalarParam) else None
        if default is None and not optional:
            raise CallError(
                param.name, describe_param(param), "nothing", help=_by_position(param.name)
            )
        values[param.name] = default
    return values


def _by_position(name: str) -> str | None:
    """Say how the reference is given a parameter that has the name of a keyword of its own."""
    if name not in ("rounding", "rows", "dtype"):
        return None
    return f"`{name}=` is a keyword of `reference` itself: pass the parameter by position"


def describe_param(param: Param) -> str:
    """Say what a parameter takes, as the spec declares it."""
    match param:
        case ScalarParam(kind=kind, const=const):
            article = "an" if kind is Kind.INT else "a"
            return f"{'a constant' if const else article} {kind.value}"
        case TensorParam(kind=kind, dims=dims):
            return f"a {kind.value} tensor of shape [{', '.join(print_expr(d) for d in dims)}]"


def check_qkv(q: Tensor, k: Tensor, v: Tensor | None) -> Shape:
    """Check q [B, HQ, Q, D], k [B, HKV, KV, D], v [B, HKV, KV, DV] and return their sizes.

    Without v, `dv` is D: what v is made of is the caller's to know.
    """
    v = k if v is None else v
    check_vectors({"q": q, "k": k, "v": v}, "[B, H, length, D]", 4)
    shape = shape_of(q, k, v)
    check_sizes(shape)
    return shape


def shape_of(q: Tensor, k: Tensor, v: Tensor) -> Shape:
    """Return the sizes of vectors of 4 dimensions that fit together."""
    b, hq, q_len, d = q.shape
    if k.shape[0] != b or v.shape[0] != b:
        name = "k" if k.shape[0] != b else "v"
        raise CallError(name, f"q's batch B = {b}", shape_text(k if name == "k" else v))
    hkv, kv_len = k.shape[1], k.shape[2]
    if k.shape[3] != d:
        raise CallError("k", f"q's head dim D = {d}", shape_text(k))
    if v.shape[1] != hkv or v.shape[2] != kv_len:
        raise CallError("v", f"k's heads and length [{b}, {hkv}, {kv_len}, DV]", shape_text(v))
    return Shape(b, hq, hkv, q_len, kv_len, d, v.shape[3])


def check_vectors(vectors: Mapping[str, Tensor], layout: str, dims: int) -> None:
    """Check that q, k, v are tensors of one dtype that kernels take, laid out as `layout` says."""
    q = vectors["q"]
    for name, x in vectors.items():
        if not isinstance(x, Tensor):
            raise CallError(name, "a tensor", type(x).__name__)
        check_dense({name: x})
        if x.dim() != dims:
            raise CallError(name, f"{dims} dimensions {layout}", shape_text(x))
        if x.dtype not in KERNEL_DTYPES:
            raise CallError(
                name,
                "float32, bfloat16 or float16",
                dtype_text(x),
                help="`reference` takes any dtype up to float64",
            )
        if x.dtype != q.dtype:
            raise CallError(name, f"the dtype of q, {dtype_text(q)}", dtype_text(x))


def check_sizes(shape: Shape) -> None:
    """Check that heads fit together, and that head dims and lengths are within their bounds."""
    check_heads(shape.hq, shape.hkv)
    for name, size in (("q", shape.d), ("v", shape.dv)):
        if not 1 <= size <= MAX_HEAD_DIM:
            raise CallError(name, f"a head dim of 1 to {MAX_HEAD_DIM}", str(size))
    for name, size in (("q", shape.q), ("k", shape.kv)):
        if size >= POSITION_LIMIT:
            raise CallError(name, "a length below 2 ** 30", str(size))


def check_heads(hq: int, hkv: int) -> None:
    """Check that the heads of q are a multiple of those of k."""
    if (hkv == 0 and hq != 0) or (hkv != 0 and hq % hkv):
        raise CallError("q", f"a multiple of k's {hkv} heads", f"{hq} heads")


def check_places(q: Tensor, others: Mapping[str, object]) -> None:
    """Check that every tensor is a dense one where q is, on the CPU or a GPU.

    A number may also be a 0-d tensor on the CPU beside tensors on a GPU.

    A kernel reads memory: one tensor on `meta` among real ones would make torch answer with memory
    that nobody wrote.
    """
    check_dense(others)
    for name, x in {"q": q, **others}.items():
        if not isinstance(x, Tensor):
            continue
        if x.device.type not in ("cpu", "cuda", "meta"):
            raise CallError(name, "a CPU or CUDA tensor", f"one on {x.device}")
        number = q.device.type == "cuda" and x.dim() == 0 and x.device.type == "cpu"
        if x.device != q.device and not number:
            raise CallError(name, f"a tensor on q's device, {q.device}", f"one on {x.device}")


def check_dense(named: Mapping[str, object]) -> None:
    """Check the layout of what is a tensor: others may have no sizes."""
    for name, x in named.items():
        if isinstance(x, Tensor) and not is_dense(x):
            layout = str(x.layout).removeprefix("torch.")
            found = "a nested one" if x.is_nested else f"layout {layout}"
            raise CallError(name, "a dense tensor, of any strides", found)


def is_dense(x: object) -> TypeGuard[Tensor]:
    """Whether something is a tensor that is memory with strides."""
    return isinstance(x, Tensor) and x.layout is torch.strided and not x.is_nested


def beside(q: Tensor, *offsets: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Bring offsets and lengths that lie in the host's memory to the GPU that q is on."""
    if not isinstance(q, Tensor) or not q.is_cuda:
        return offsets
    on_host = (isinstance(x, Tensor) and x.device.type == "cpu" for x in offsets)
    return tuple(x.to(q.device) if h else x for x, h in zip(offsets, on_host, strict=True))


def check_lse(variant: Variant, return_lse: bool) -> None:
    """Check that there is an lse where it is asked for."""
    if return_lse and variant.weights.softmax is None:
        raise CallError("return_lse", "False: without a softmax there is no lse", "True")


def check_seed(seed: int | None) -> None:
    """Check `seed=`: a number of 64 bits."""
    if seed is None:
        return
    if not _is_number(seed, Kind.INT):
        raise CallError("seed", "an int", f"{type(seed).__name__} {seed!r}")
    if isinstance(seed, int) and not -(2**63) <= seed < 2**63:
        raise CallError("seed", "an int of 64 bits", str(seed))


def check_scalar(param: ScalarParam, value: ParamValue) -> None:
    """Check a 0-d parameter: a number, or a 0-d tensor of its kind unless it is const."""
    expected = describe_param(param)
    if isinstance(value, Tensor):
        if param.const:
            raise CallError(param.name, f"{expected} (a number)", "a tensor")
        if value.dim() != 0:
            raise CallError(param.name, f"{expected}, or a 0-d tensor", shape_text(value))
        if value.dtype not in KIND_DTYPES[param.kind]:
            raise CallError(param.name, f"a 0-d {param.kind.value} tensor", dtype_text(value))
        return
    if value is None or not _is_number(value, param.kind):
        raise CallError(param.name, expected, f"{type(value).__name__} {value!r}")
    if param.kind == Kind.INT and isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise CallError(param.name, "an int of 64 bits", str(value))


def _is_number(value: ParamValue, kind: Kind) -> bool:
    match kind:
        case Kind.BOOL:
            return isinstance(value, bool)
        case Kind.INT:
            return isinstance(value, int | torch.SymInt) and not isinstance(value, bool)
        case Kind.FLOAT:
            return isinstance(value, int | float | torch.SymFloat) and not isinstance(value, bool)


def check_tensors(
    variant: Variant, values: Mapping[str, ParamValue], sizes: dict[str, int]
) -> None:
    """Check tensor parameters against their declared shapes; add what they bind to `sizes`."""
    params = {p.name: p for p in variant.params if isinstance(p, TensorParam)}
    for param in params.values():
        check_tensor(param, values[param.name])
    for bound in variant.sizes:
        solve_size(bound, bound.axis, params[bound.tensor], values, sizes)
    for param in params.values():
        tensor = values[param.name]
        if isinstance(tensor, Tensor):
            check_dims(param, tensor, sizes, values)


def solve_size(
    bound: BoundSize,
    axis: int,
    param: TensorParam,
    values: Mapping[str, ParamValue],
    sizes: dict[str, int],
) -> None:
    """Add a size that a tensor binds, in its dimension `axis`, to `sizes`."""
    tensor = values[bound.tensor]
    if not isinstance(tensor, Tensor):
        sizes.setdefault(bound.name, 0)
        return
    rest = tensor.shape[axis] - size_value(bound.offset, sizes, values)
    if rest < 0 or rest % bound.factor:
        dim = print_expr(param.dims[bound.axis])
        raise CallError(
            bound.tensor,
            f"a size of {dim} in dimension {axis} for some {bound.name} >= 0",
            shape_text(tensor),
        )
    sizes[bound.name] = rest // bound.factor
    if sizes[bound.name] >= POSITION_LIMIT:
        raise CallError(bound.tensor, f"a size {bound.name} below 2 ** 30", shape_text(tensor))


def check_tensor(param: TensorParam, value: ParamValue, *, dropped: int = 0) -> None:
    """Check the kind and the number of dimensions, without `dropped` ones, of a parameter."""
    if value is None and param.optional:
        return
    if not isinstance(value, Tensor):
        raise CallError(param.name, describe_param(param), f"{type(value).__name__} {value!r}")
    if value.dtype not in KIND_DTYPES[param.kind]:
        raise CallError(param.name, describe_param(param), f"dtype {dtype_text(value)}")
    if value.dim() != len(param.dims) - dropped:
        raise CallError(param.name, describe_param(param), shape_text(value))


def check_dims(
    param: TensorParam, tensor: Tensor, sizes: Mapping[str, int], values: Mapping[str, ParamValue]
) -> None:
    """Check the shape of a tensor parameter."""
    wanted = [size_value(d, sizes, values) for d in param.dims]
    if list(tensor.shape) != wanted:
        text = ", ".join(f"{print_expr(d)} = {w}" for d, w in zip(param.dims, wanted, strict=True))
        raise CallError(param.name, f"shape [{text}]", shape_text(tensor))


def size_value(expr: Expr, sizes: Mapping[str, int], values: Mapping[str, ParamValue]) -> int:
    """Return the value of an int expression over sizes and const parameters."""
    if isinstance(expr, Size):
        return sizes[expr.name]
    scalars = {n: v for n, v in values.items() if isinstance(v, int | float)}
    return int(_host_value(expr, sizes, scalars, frozenset()))


def _host_value(
    expr: Expr,
    sizes: Mapping[str, int],
    scalars: Mapping[str, float | int | bool],
    given: frozenset[str],
) -> float | int | bool:
    def leaf(node: Leaf) -> float | int | bool:
        match node:
            case Size(name=name):
                return sizes[name]
            case Scalar(name=name):
                return scalars[name]
            case Given(name=name):
                return name in given
            case _:
                raise AssertionError(f"{type(node).__name__} in a condition on a call")

    def read(tensor: str, indices: object) -> float:
        raise AssertionError(f"a read of {tensor} in a condition on a call")

    value: float | int | bool = evaluate(expr, leaf, read).item()
    return value


def check_requires(
    variant: Variant, values: Mapping[str, ParamValue], sizes: Mapping[str, int]
) -> None:
    """Check every `require` whose scalars are host numbers."""
    scalars = {n: v for n, v in values.items() if isinstance(v, int | float)}
    given = frozenset(n for n, v in values.items() if isinstance(v, Tensor))
    for require in variant.requires:
        condition = require.condition
        read = dict.fromkeys(e.name for e in walk(condition) if isinstance(e, Scalar))
        if not all(n in scalars for n in read):
            continue  # a 0-d tensor: reading it would synchronise
        if not _host_value(condition, sizes, scalars, given):
            names = dict.fromkeys(e.name for e in walk(condition) if isinstance(e, Size))
            found = [f"{n} = {scalars[n]!r}" for n in read]
            found += [f"{n} = {sizes[n]}" for n in names]
            raise CallError(
                next(iter(read), "shape"),
                f"`{print_expr(condition)}`",
                ", ".join(found) or "that it is false",
                help=require.message,
            )


def check_keywords(
    variant: Variant,
    shape: Shape,
    scale: float | Tensor | None,
    q_offset: int | Tensor | None,
    kv_offset: int | Tensor,
    kv_lens: Tensor | None,
    kv_indices: Tensor | None,
    kv_block: int,
) -> None:
    """Check the keywords that kernels and the reference have in common."""
    check_scale(variant, scale)
    check_per_request("q_offset", q_offset, shape.b)
    check_per_request("kv_offset", kv_offset, shape.b)
    check_per_request("kv_lens", kv_lens, shape.b, number=False)
    check_selection(kv_indices, kv_block, shape)


def check_scale(variant: Variant, scale: float | Tensor | None) -> None:
    """Check `scale=`: a number or a 0-d float tensor, where the spec reads it."""
    if scale is None:
        return
    if not any(isinstance(e, CallScale) for e in walk(variant.scale)):
        raise CallError("scale", "nothing: the spec sets the scale by itself", f"{scale!r}")
    if isinstance(scale, Tensor):
        if scale.dim() != 0 or not scale.is_floating_point():
            raise CallError("scale", "a number or a 0-d float tensor", shape_text(scale))
    elif not _is_number(scale, Kind.FLOAT) or (isinstance(scale, float) and math.isnan(scale)):
        raise CallError("scale", "a number or a 0-d float tensor", f"{scale!r}")


def check_per_request(
    name: str, value: int | Tensor | None, b: int, *, number: bool = True
) -> None:
    """Check an offset (a number or int[B]) or lengths (int[B])."""
    expected = f"an int or an int tensor [B = {b}]" if number else f"an int tensor [B = {b}]"
    if value is None:
        return
    if isinstance(value, Tensor):
        if value.dtype not in (torch.int32, torch.int64):
            raise CallError(name, f"{expected}, int32 or int64", f"dtype {dtype_text(value)}")
        if value.dim() != 1 or value.shape[0] != b:
            raise CallError(name, expected, shape_text(value))
        return
    if not number or not _is_number(value, Kind.INT):
        raise CallError(name, expected, f"{type(value).__name__} {value!r}")
    if abs(value) >= POSITION_LIMIT:
        raise CallError(name, "an offset below 2 ** 30 in magnitude", str(value))


def check_selection(indices: Tensor | None, block: int, shape: Shape) -> None:
    """Check `kv_indices=` and `kv_block=`; what the indices are, the kernel checks."""
    if not _is_number(block, Kind.INT):
        raise CallError("kv_block", "an int", f"{type(block).__name__} {block!r}")
    if block < 1 or block >= 2**63:
        raise CallError("kv_block", "a block of 1 column or more", str(block))
    if indices is None:
        return
    expected = f"an int tensor [B = {shape.b}, HKV = {shape.hkv}, Q = {shape.q}, K]"
    if not isinstance(indices, Tensor):
        raise CallError("kv_indices", expected, type(indices).__name__)
    if indices.dtype not in (torch.int32, torch.int64):
        raise CallError("kv_indices", f"{expected}, int32 or int64", f"dtype {dtype_text(indices)}")
    if indices.dim() != 4 or tuple(indices.shape[:3]) != (shape.b, shape.hkv, shape.q):
        raise CallError("kv_indices", expected, shape_text(indices))


def shape_text(x: Tensor) -> str:
    """Return a tensor's shape as messages have it."""
    return f"shape {list(x.shape)}"


def dtype_text(x: Tensor) -> str:
    """Return a tensor's dtype as messages have it."""
    return str(x.dtype).removeprefix("torch.")
