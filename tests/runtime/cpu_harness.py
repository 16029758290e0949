"""Builds C++ snippets over the runtime headers, and calls kernels through ctypes.

`ATTNLANG_TEST_MARCH` chooses the instruction set (default: this machine's), so the same tests run
the portable path (x86-64), AVX2 (x86-64-v3) and AVX-512.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
MARCH = os.environ.get("ATTNLANG_TEST_MARCH", "native")
FLAGS = [
    "-std=c++20", "-O3", f"-march={MARCH}", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp",
    "-Wall", "-Wextra", "-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized",
    "-shared", "-fPIC",
]  # fmt: skip
INCLUDES = [ROOT / "runtime" / "include", ROOT / "codegen", HERE]

DTYPES = {
    torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3, torch.int8: 4,
    torch.int16: 5, torch.int32: 6, torch.int64: 7, torch.uint8: 8, torch.bool: 9,
}  # fmt: skip


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"attnlang-runtime-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def build(text: str, *flags: str) -> ctypes.CDLL:
    """Compile C++ text into a library; unchanged text with unchanged headers is not rebuilt.

    `flags` come after the usual ones.
    """
    key = hashlib.sha256("\0".join([text, *FLAGS, *flags]).encode())
    for include in INCLUDES:
        for header in sorted(include.rglob("*.h")):
            key.update(header.read_bytes())
    target = _folder() / f"{key.hexdigest()[:24]}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
            source, built = Path(scratch, "unit.cpp"), Path(scratch, "unit.so")
            source.write_text(text)
            command = [
                "g++",
                *FLAGS,
                *flags,
                *(f"-I{i}" for i in INCLUDES),
                str(source),
                "-o",
                str(built),
            ]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr[-6000:]
            assert "warning" not in result.stderr, result.stderr[-6000:]
            built.rename(target)
    return ctypes.CDLL(str(target))


class CTensor(ctypes.Structure):
    """`attnlang::Tensor`."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("size", ctypes.c_int64 * 8),
        ("stride", ctypes.c_int64 * 8),
    ]


class CNumber(ctypes.Union):
    """`attnlang::Number`."""

    _fields_ = [("real", ctypes.c_double), ("integer", ctypes.c_int64)]


class CPerRequest(ctypes.Structure):
    """`attnlang::PerRequest`."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("stride", ctypes.c_int64),
        ("value", ctypes.c_int64),
    ]


class CDeviceScalar(ctypes.Structure):
    """`attnlang::DeviceScalar`."""

    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int32)]


class CCall(ctypes.Structure):
    """`attnlang::Call`."""

    _fields_ = [
        ("version", ctypes.c_int32),
        ("default_q_offset", ctypes.c_int32),
        ("q", CTensor),
        ("k", CTensor),
        ("v", CTensor),
        ("out", CTensor),
        ("lse", CTensor),
        ("max", CTensor),
        ("scale", ctypes.c_double),
        ("q_offset", CPerRequest),
        ("kv_offset", CPerRequest),
        ("kv_lens", CPerRequest),
        ("seed", ctypes.c_uint64),
        ("kv_indices", CTensor),
        ("kv_block", ctypes.c_int64),
        ("scalars", ctypes.POINTER(CNumber)),
        ("tensors", ctypes.POINTER(CTensor)),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("packed", ctypes.c_void_p),
        ("device_scalars", ctypes.POINTER(CDeviceScalar)),
        ("device_scale", CDeviceScalar),
        ("device_seed", CDeviceScalar),
        ("stream", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("lines", ctypes.c_void_p),
    ]


class CTileCounts(ctypes.Structure):
    """`attnlang::TileCounts`."""

    _fields_ = [
        (name, ctypes.c_int64) for name in ("full", "partial", "empty", "query_tile", "key_tile")
    ]


def tensor(t: torch.Tensor | None) -> CTensor:
    """Describe a torch tensor."""
    c = CTensor()
    if t is None:
        return c
    c.data, c.dtype, c.rank = t.data_ptr(), DTYPES[t.dtype], t.dim()
    for i in range(t.dim()):
        c.size[i], c.stride[i] = t.shape[i], t.stride(i)
    return c


def per_request(value: int | torch.Tensor) -> CPerRequest:
    """Describe one integer a request."""
    if isinstance(value, int):
        return CPerRequest(None, 0, 0, value)
    return CPerRequest(value.data_ptr(), DTYPES[value.dtype], value.stride(0), 0)


class Call:
    """A call with the tensors that it points to kept alive."""

    def __init__(
        self, q, k, v, *, out=None, lse=True, scale=None, q_offset=None, kv_offset=0, kv_lens=None,
        scalars=(), tensors=(),
    ):  # fmt: skip
        self.q, self.k, self.v = q, k, v
        shape = (*q.shape[:3], v.shape[3])
        self.out = torch.full(shape, float("nan"), dtype=q.dtype) if out is None else out
        self.lse = torch.full(q.shape[:3], float("nan")) if lse else None
        self.tensors, self.lens = tensors, (q_offset, kv_offset, kv_lens)
        c = self.c = CCall()
        c.version, c.default_q_offset = 7, int(q_offset is None)
        c.q, c.k, c.v, c.out = tensor(q), tensor(k), tensor(v), tensor(self.out)
        c.lse = tensor(self.lse)
        c.scale = q.shape[3] ** -0.5 if scale is None else scale
        c.q_offset = per_request(0 if q_offset is None else q_offset)
        c.kv_offset = per_request(kv_offset)
        c.kv_lens = per_request(k.shape[2] if kv_lens is None else kv_lens)
        self._scalars = (CNumber * max(1, len(scalars)))()
        for number, value in zip(self._scalars, scalars, strict=False):
            if isinstance(value, float):
                number.real = value
            else:
                number.integer = value
        self._tensors = (CTensor * max(1, len(tensors)))(*(tensor(t) for t in tensors))
        self._sizes = (ctypes.c_int64 * 1)()
        c.scalars, c.tensors, c.sizes = self._scalars, self._tensors, self._sizes

    def run(self, function) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a kernel; return out and lse."""
        error = ctypes.create_string_buffer(512)
        assert function(ctypes.byref(self.c), error) == 0, error.value.decode()
        return self.out, self.lse

    def error(self, function) -> str:
        """Run a kernel that must refuse; return its message."""
        error = ctypes.create_string_buffer(512)
        assert function(ctypes.byref(self.c), error) == -1
        return error.value.decode()

    def count(self, function) -> CTileCounts:
        """Count tiles."""
        error = ctypes.create_string_buffer(512)
        counts = CTileCounts()
        assert function(ctypes.byref(self.c), ctypes.byref(counts), error) == 0, error.value
        return counts
