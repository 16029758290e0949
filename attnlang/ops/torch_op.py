"""One registered torch op: its overloads, its fake implementation, and its kernels.

Maps a variant, the built object of its op and a way to build kernels to
`torch.ops.attnlang.<name>`. A kernel is built when first needed: by `ensure`, by the fake
implementation while a graph is traced, or by the binding itself in a bare call. Invariant: an op
name is registered once a process.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from attnlang.emit.entry_points import kernel_functions
from attnlang.emit.op_schema import (
    API_VERSION,
    CALL_VERSION,
    OpSchema,
    Role,
    make_schema,
    named,
)
from attnlang.ir.nodes import Variant
from attnlang.jit.loader import load
from attnlang.ops.binding import register as register_with_torch
from attnlang.ops.packed_op import PackedOp
from attnlang.ops.targets import Runs, binding_device, pages_of, runs_on
from attnlang.ops.transforms import refuse_vmap
from attnlang.plan.kernel_key import PAGES, KernelKey
from attnlang.plan.widths import Widths, measure, value_dim

NAMESPACE = "attnlang"

BuildKernel = Callable[[KernelKey], Path]
Check = Callable[[OpSchema, Mapping[str, object]], None]

_DTYPES = ("f32", "f64", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "boolean")  # as DType
_ABSENT = -1
_ERROR_SIZE = 512
_TORCH_DTYPES = {
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


class _KeyStruct(ctypes.Structure):
    _fields_ = (
        ("dtype", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("value_dim", ctypes.c_int32),
        ("target", ctypes.c_int32),
        ("packed", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("param_dtypes", ctypes.POINTER(ctypes.c_int32)),
    )


_KeyPointer = ctypes.POINTER(_KeyStruct)
_Table = ctypes.c_void_p
_AddFunction = ctypes.CFUNCTYPE(
    None, _Table, _KeyPointer, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)
_BuilderFunction = ctypes.CFUNCTYPE(ctypes.c_int, _KeyPointer, ctypes.c_int32, ctypes.c_void_p)
_SetBuilderFunction = ctypes.CFUNCTYPE(None, _Table, _BuilderFunction)
_SetTargetFunction = ctypes.CFUNCTYPE(None, _Table, ctypes.c_int32, ctypes.c_int32)


class _ApiStruct(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int32),
        ("call_version", ctypes.c_int32),
        ("table", _Table),
        ("add", _AddFunction),
        ("set_builder", _SetBuilderFunction),
        ("set_target", _SetTargetFunction),
    )


_registered: dict[str, TorchOp] = {}
_registering = threading.Lock()


class TorchOp:
    """A registered op. `register` makes it; calls go through `overload`."""

    schema: OpSchema
    overload: torch._ops.OpOverload
    tiles: torch._ops.OpOverload
    packed: PackedOp

    def __init__(
        self,
        variant: Variant,
        schema: OpSchema,
        build_kernel: BuildKernel,
        check: Check | None,
        check_packed: Check | None,
    ) -> None:
        self._variant = variant
        self.schema = schema
        self._build_kernel = build_kernel
        self._check, self._check_packed = check, check_packed
        self._ready: set[KernelKey] = set()
        self._targets: dict[int, int] = {-1: 0}  # by the binding's number of a device
        self._building = threading.RLock()
        ops = getattr(torch.ops, NAMESPACE)
        self.overload = getattr(ops, schema.name).default
        self.tiles = getattr(ops, f"{schema.name}_tiles").default
        self.packed = PackedOp(schema, self._trace_packed)
        address = getattr(ops, f"{schema.name}_api").default()
        self._api = _ApiStruct.from_address(address)
        if (self._api.version, self._api.call_version) != (API_VERSION, CALL_VERSION):
            raise RuntimeError(
                f"the op {schema.name} was registered by another version of attnlang"
            )
        self._builder = _BuilderFunction(self._build_for_binding)  # kept alive: C++ holds it

    @staticmethod
    def register(
        variant: Variant,
        op_name: str,
        op_library: Path,
        build_kernel: BuildKernel,
        *,
        check: Check | None = None,
        check_packed: Check | None = None,
    ) -> TorchOp:
        """Register the op of a variant, or return the one registered under the name before.

        `op_library` is what `op_sources` built; torch is told of it unless an ahead-of-time copy of
        the op is already there. `check` is called with the arguments by name when a graph is
        traced, `check_packed` with those of a packed call; what they raise ends the trace.
        """
        with _registering:
            if op_name not in _registered:
                if not is_registered(op_name):
                    register_with_torch(op_library)
                if not is_registered(op_name):
                    raise RuntimeError(f"torch refused to register {NAMESPACE}::{op_name}")
                op = TorchOp(
                    variant, make_schema(variant, op_name), build_kernel, check, check_packed
                )
                op._register_fakes()
                op._api.set_builder(op._api.table, op._builder)
                _registered[op_name] = op
            return _registered[op_name]

    def ensure(self, key: KernelKey, device: torch.device) -> None:
        """See to it that the kernel of a key is built and known to the op, and runs on a device.

        Raises BuildError.
        """
        number, code = binding_device(device), Runs(key.target, key.emulated).code
        if self._targets.get(number) != code:
            self._api.set_target(self._api.table, number, code)
            self._targets[number] = code
        if key in self._ready:
            return
        with self._building:
            if key not in self._ready:
                self.add(key, self._build_kernel(key))
                self._ready.add(key)

    def add(self, key: KernelKey, library: Path) -> None:
        """Load a built kernel and hand it to the op; the first one of a key stays."""
        handle = load(library)
        named = kernel_functions(key)
        functions = (named.get(name) for name in ("run", "count_tiles", "workspace"))
        addresses = (None if name is None else _address(handle, name) for name in functions)
        dtypes = (ctypes.c_int32 * len(key.param_dtypes))(*map(_code, key.param_dtypes))
        struct = _KeyStruct(
            _code(key.dtype),
            key.head_dim,
            key.value_dim,
            Runs(key.target, key.emulated).code,
            key.packing,
            len(key.param_dtypes),
            dtypes,
        )
        self._api.add(self._api.table, ctypes.byref(struct), *addresses)

    def key(self, arguments: Mapping[str, object], *, packed: bool = False) -> KernelKey:
        """Return the key of the kernel that a call runs."""
        q = arguments["q"]
        assert isinstance(q, Tensor)
        dtypes = tuple(
            _dtype_name(arguments.get(a.name))
            for a in self.schema.arguments
            if a.role in (Role.TENSOR, Role.OPTIONAL_TENSOR)
        )
        # int() of a symbolic size makes it a constant of the graph: kernels are built per head dim.
        runs = runs_on(q.device)
        width = self._widths(arguments).value
        head = int(q.shape[-1])
        name = _dtype_name(q)
        keys = arguments["k"]
        assert isinstance(keys, Tensor)
        pages = pages_of(keys, runs)
        return KernelKey(name, head, width, dtypes, runs.target, runs.emulated, packed, pages)

    def _widths(self, arguments: Mapping[str, object]) -> Widths:
        """Return the widths of a call's vectors."""
        q, v = arguments["q"], arguments.get("v")
        assert isinstance(q, Tensor)
        head = int(q.shape[-1])
        value = int(v.shape[-1]) if isinstance(v, Tensor) else value_dim(self._variant, head)
        return measure(self._variant, head, value)

    def _register_fakes(self) -> None:
        for name in (self.schema.name, f"{self.schema.name}_packed"):
            refuse_vmap(name)
        torch.library.register_fake(self.overload, self._fake_forward, allow_override=True)
        torch.library.register_fake(self.tiles, self._fake_tiles, allow_override=True)
        self.packed.register_fake()

    def _fake_forward(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor, Tensor]:
        # Costs a second to import, and whoever traces has it.
        from torch.fx.experimental.symbolic_shapes import guard_or_false

        arguments = self._trace(args, kwargs)
        q = arguments["q"]
        assert isinstance(q, Tensor)
        b, h, rows, _ = q.shape
        dv = self._widths(arguments).out
        dtype = torch.float32 if arguments.get(self.schema.companions["wide_out"]) else q.dtype
        if guard_or_false(q.stride(1) < q.stride(2)):  # as allocate_out in op_results.h
            out = q.new_empty((b, rows, h, dv), dtype=dtype).transpose(1, 2)
        else:
            out = q.new_empty((b, h, rows, dv), dtype=dtype)
        lse = q.new_empty(
            (b, h, rows) if arguments.get("return_lse") else (0,), dtype=torch.float32
        )
        top = q.new_empty((b, h) if arguments.get("return_max") else (0,), dtype=torch.float32)
        return out, lse, top

    def _fake_tiles(self, *args: object, **kwargs: object) -> Tensor:
        q = self._trace(args, kwargs)["q"]
        assert isinstance(q, Tensor)
        return q.new_empty((5,), dtype=torch.int64)

    def _trace(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Check a traced call and build its kernel: in a compiled graph it would be too late."""
        arguments = named(self.schema.arguments, args, kwargs)
        if self._check is not None:
            self._check(self.schema, arguments)
        self._prepare(arguments)
        return arguments

    def _trace_packed(self, arguments: Mapping[str, object]) -> Widths:
        """Check a traced packed call and build its kernel; return the widths of its vectors."""
        if self._check_packed is not None:
            self._check_packed(self.schema, arguments)
        return self._prepare(arguments, packed=True)

    def _prepare(self, arguments: Mapping[str, object], *, packed: bool = False) -> Widths:
        """Build the kernel of a call; return the widths of its vectors."""
        q = arguments["q"]
        assert isinstance(q, Tensor)
        self.ensure(self.key(arguments, packed=packed), q.device)
        return self._widths(arguments)

    def _build_for_binding(self, key: ctypes._Pointer[_KeyStruct], device: int, error: int) -> int:
        """Build for a bare call of the op; no exception may pass through C++."""
        try:
            found = key.contents
            dtypes = tuple(_name(found.param_dtypes[i]) for i in range(found.count))
            place = torch.device("cpu") if device < 0 else torch.device("cuda", device)
            runs = runs_on(place)
            wanted = KernelKey(
                _name(found.dtype),
                found.head_dim,
                found.value_dim,
                dtypes,
                runs.target,
                runs.emulated,
                bool(found.packed),
                PAGES[found.packed - 2] if found.packed > 1 else "",
            )
            self.ensure(wanted, place)
        except BaseException as failure:
            text = f"{type(failure).__name__}: {failure}".encode()[: _ERROR_SIZE - 1]
            ctypes.memmove(error, text + b"\0", len(text) + 1)
            return -1
        return 0


def is_registered(op_name: str) -> bool:
    """Whether torch knows the op: from this process's own build or an ahead-of-time one."""
    return bool(torch._C._dispatch_has_kernel(f"{NAMESPACE}::{op_name}"))


def _address(handle: ctypes.CDLL, symbol: str) -> int | None:
    return ctypes.cast(getattr(handle, symbol), ctypes.c_void_p).value


def _dtype_name(value: object) -> str:
    return _TORCH_DTYPES[value.dtype] if isinstance(value, Tensor) else "none"


def _code(name: str) -> int:
    return _ABSENT if name == "none" else _DTYPES.index(name)


def _name(code: int) -> str:
    return "none" if code == _ABSENT else _DTYPES[code]
