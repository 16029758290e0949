"""One kernel of a variant, as a command line names it: constants, tensors given, dtypes, head dims.

Shared by the commands that look at or build a kernel without a call. Invariant: what cannot be the
key of a kernel is refused here, with the option's name.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from attnlang.cli.errors import InputError
from attnlang.cli.options import DType, add_set
from attnlang.ir.nodes import Kind, ScalarParam, TensorParam, Variant
from attnlang.jit.units import Target
from attnlang.plan.kernel_key import MAX_HEAD_DIM

if TYPE_CHECKING:
    from attnlang.passes.lowered import Lowered
    from attnlang.plan.plan import Plan

_HEAD_DIM = 128
_LONGEST = 40  # characters of it that are read
_PARAM_DTYPES = {
    Kind.FLOAT: ("f32", "f64", "f16", "bf16"),  # the first is the default
    Kind.INT: ("i64", "i32", "i16", "i8", "u8"),
    Kind.BOOL: ("bool",),
}


def add_arguments(parser: ArgumentParser, use: str) -> None:
    """Declare what names a kernel; `use` says for what, where a command does not always need it."""
    parser.add_argument(
        "--dtype",
        choices=[c.value for c in DType],
        help=f"of q, k and v{use} (default: f32; of a GPU's kernel bf16)",
    )
    parser.add_argument(
        "--head-dim",
        default=str(_HEAD_DIM),
        metavar="D[,DV]",
        help=f"of q and k, and of v where it differs{use} (default: {_HEAD_DIM})",
    )
    parser.add_argument(
        "--param-dtype",
        action="append",
        default=[],
        metavar="NAME=DTYPE",
        help=f"of a tensor parameter{use} (default: f32, i64 or bool)",
    )
    add_set(parser)
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="NAME",
        help="an optional tensor that the call passes",
    )


def _head_dim(text: str) -> int:
    """Return a head dim, 0 for what is none; the first digits of one longer than Python reads."""
    return int(text[:_LONGEST]) if text.isdecimal() else 0


@dataclass(frozen=True)
class KernelChoice:
    """The kernel that a command line names."""

    variant: Variant
    args: Namespace

    def check_names(self) -> None:
        """Refuse a name that the variant lacks. Raises InputError: a typo is a typo."""
        from attnlang.cli.settings import parse_settings

        parse_settings(self.variant, self.args.set)
        self._param_dtypes(self.given)

    @cached_property
    def consts(self) -> dict[str, bool | int | float]:
        """The value of each const parameter."""
        from attnlang.cli.settings import parse_settings

        settings = parse_settings(self.variant, self.args.set)
        consts = [p for p in self.variant.params if isinstance(p, ScalarParam) and p.const]
        values = {p.name: settings.scalars.get(p.name, p.default) for p in consts}
        return {
            p.name: float(value) if p.kind == Kind.FLOAT else value
            for p in consts
            if (value := values[p.name]) is not None
        }

    @property
    def unread(self) -> tuple[str, ...]:
        """What `--set` sets and no kernel holds: the values that each call passes."""
        names = (text.partition("=")[0].strip() for text in self.args.set)
        return tuple(name for name in names if name not in self.consts)

    @cached_property
    def given(self) -> frozenset[str]:
        """The tensors that the call passes."""
        tensors = [p for p in self.variant.params if isinstance(p, TensorParam)]
        optional = {p.name for p in tensors if p.optional}
        for name in self.args.given:
            if name not in optional:
                raise InputError(f"--given: {self.variant.name} has no optional tensor {name}")
        return frozenset({p.name for p in tensors} - optional | set(self.args.given))

    @cached_property
    def lowered(self) -> Lowered:
        """What the kernel evaluates."""
        from attnlang.compiler import lower

        try:
            return lower(self.variant, self.consts, self.given)
        except ValueError as error:  # a const parameter without a value
            raise InputError(f"{error} (--set)") from None

    @cached_property
    def plan(self) -> Plan:
        """How the kernel runs."""
        from attnlang.compiler import plan
        from attnlang.emit.op_schema import takes_v
        from attnlang.plan.kernel_key import KernelKey
        from attnlang.plan.widths import WidthError, value_dim

        head, value = self._head_dims()
        if not takes_v(self.variant):
            value = value_dim(self.lowered.variant, head)
        target = Target(self.args.target)
        key = KernelKey(self._dtype(target), head, value, self._param_dtypes(self.given), target)
        try:
            return plan(self.lowered, key)
        except WidthError as error:
            raise InputError(f"--head-dim: {error}") from None

    def _dtype(self, target: Target) -> DType:
        if self.args.dtype is None:
            return DType.F32 if target is Target.CPU else DType.BF16
        if target is not Target.CPU and self.args.dtype == DType.F32:
            raise InputError(f"--dtype: kernels for {target} take bf16 and f16, not f32")
        return DType(self.args.dtype)

    def _head_dims(self) -> tuple[int, int]:
        text: str = self.args.head_dim
        dims = [_head_dim(part) for part in text.split(",")]
        found = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        if len(dims) > 2 or 0 in dims:
            raise InputError(f"--head-dim: expected D or D,DV, found {found}")
        if max(dims) > MAX_HEAD_DIM:
            raise InputError(f"--head-dim: expected 1 to {MAX_HEAD_DIM}, found {found}")
        return dims[0], dims[-1]

    def _param_dtypes(self, given: frozenset[str]) -> tuple[str, ...]:
        tensors = {p.name: p for p in self.variant.params if isinstance(p, TensorParam)}
        chosen = {name: _PARAM_DTYPES[p.kind][0] for name, p in tensors.items()}
        for text in self.args.param_dtype:
            name, _, dtype = (part.strip() for part in text.partition("="))
            if name not in tensors:
                known = ", ".join(tensors) or "none"
                raise InputError(
                    f"--param-dtype: {self.variant.name} has no tensor {name}; it has: {known}"
                )
            allowed = _PARAM_DTYPES[tensors[name].kind]
            if dtype not in allowed:
                expected = ", ".join(allowed)
                raise InputError(f"--param-dtype: {name} takes {expected}; found {dtype or text}")
            chosen[name] = dtype
        return tuple(
            "none" if name not in given else "boolean" if dtype == "bool" else dtype
            for name, dtype in chosen.items()
        )
