"""What describes the requests of a packed call to a kernel, as C has it."""

from __future__ import annotations

import ctypes

from cpu_harness import CPerRequest, CTensor


class CPacked(ctypes.Structure):
    """`attnlang::Packed`."""

    _fields_ = [
        ("requests", ctypes.c_int64),
        *((n, CPerRequest) for n in ("q_indptr", "kv_indptr", "page_indptr", "page_indices")),
        ("page_index_count", ctypes.c_int64),
        ("page_size", ctypes.c_int64),
        ("part", ctypes.c_int64),
        ("k_scale", CTensor),
        ("v_scale", CTensor),
        ("tensors", ctypes.c_void_p),
        ("tensor_count", ctypes.c_int32),
        ("costs", ctypes.c_void_p),
        ("chunks", ctypes.c_void_p),
        ("chunk_count", ctypes.c_int64),
        ("split_tokens", ctypes.c_int64),
    ]


class CPackedAxis(ctypes.Structure):
    """`attnlang::PackedAxis`."""

    _fields_ = [
        ("rows", ctypes.c_int32),  # 3: in pages
        ("axis", ctypes.c_int32),
        ("page_stride", ctypes.c_int64),
    ]
