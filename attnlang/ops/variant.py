"""`Variant`: a compiled spec, called like the function that its header declares.

An eager call checks its arguments, sees to it that the kernel is built, and calls the torch op. A
traced call (`torch.compile`) only arranges them: the op's fake implementation checks and builds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from attnlang.emit.op_schema import make_schema, takes_v
from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import ScalarParam, TensorParam
from attnlang.ir.nodes import Variant as VariantIr
from attnlang.ops import arguments as check
from attnlang.ops.autocast import autocast, casts
from attnlang.ops.errors import CallError
from attnlang.ops.handles import new_handle, resolve
from attnlang.ops.recorded import record, refuse_lse
from attnlang.ops.reference_arguments import check_reference
from attnlang.ops.requirements import Requirements
from attnlang.ops.routes import Facts, Routes, make_route
from attnlang.ops.serving import Serving
from attnlang.ops.signature import KEYWORDS, left_out, signature
from attnlang.ops.specialised import Specialised, const_values, consts_key, given_tensors
from attnlang.ops.targets import check_dtype, pages_of
from attnlang.ops.tiles import Tiles
from attnlang.ops.training import Training, wants_gradient
from attnlang.ops.transforms import refuse_tangents
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.widths import WidthError, short_freqs
from attnlang.reference import reference

if TYPE_CHECKING:
    from attnlang.explain.explanation import Explanation

Offset = int | Tensor | None
_KEYWORDS = ("scale", "q_offset", "kv_offset", "kv_lens", "kv_indices", "seed")
_CALL_KEYWORDS = tuple(KEYWORDS)
_TILES_KEYWORDS = ("q_offset", "kv_offset", "kv_lens")
_SEED_END = 2**63 - 1
_ZERO, _ONE = 0, 1  # what a keyword is by default: the very object, so no True and no other kind


class Variant(Serving):
    """One attention variant.

    Call it with q [B, HQ, Q, D], k [B, HKV, KV, D], v [B, HKV, KV, DV] of one dtype (float32,
    bfloat16 or float16), any strides, and the parameters of its header, by position or by name.
    """

    def __init__(self, ir: VariantIr) -> None:
        self.ir = ir
        self._handle = new_handle(self)
        self.__doc__ = ir.doc
        self.__name__ = ir.name
        self.signature = signature(ir)
        self.__signature__ = self.signature
        self._specialised: dict[tuple[tuple[object, ...], frozenset[str]], Specialised] = {}
        self.training = Training(ir)
        self._params = ir.params
        self.routes = Routes(ir)
        self._drops = ir.weights.dropout is not None
        self._requirements = Requirements(ir)
        self.lengths_are_free = self._requirements.lengths_are_free
        self.takes_v = takes_v(ir)
        schema = make_schema(ir, ir.name)
        self.companions, self.names = schema.companions, schema.names
        optional = {a.name for a in schema.arguments if a.default is not None}
        self._runtime = tuple(
            (
                p.name,
                isinstance(p, ScalarParam),
                left_out(p) if self.names[p.name] in optional else None,
            )
            for p in ir.params
            if not (isinstance(p, ScalarParam) and p.const)
        )

    def __reduce__(self) -> tuple[type[Variant], tuple[VariantIr]]:
        """Pickle what it means: the kernels are found again, or built, where it is unpickled."""
        return (Variant, (self.ir,))

    def __deepcopy__(self, memo: object) -> Variant:
        """Return itself, for it never changes: models that hold one can be copied."""
        return self

    def __repr__(self) -> str:
        return f"<attnlang variant {self.ir.name}{self.signature}>"

    @property
    def op(self) -> torch._ops.OpOverload:
        """The torch op for the default constants, `torch.ops.attnlang.<name>_<hash>`.

        It is made for the tensors that must be given; a call that passes an optional one uses
        another op.
        """
        values = {p.name: p.default if isinstance(p, ScalarParam) else None for p in self.ir.params}
        missing = [
            p.name
            for p in self.ir.params
            if isinstance(p, ScalarParam) and p.const and p.default is None
        ]
        if missing:
            raise CallError(missing[0], "a default in the spec, for an op without a call", "none")
        required = frozenset(
            p.name for p in self.ir.params if isinstance(p, TensorParam) and not p.optional
        )
        return self.specialised(const_values(self.ir, values), required).op.overload

    def specialised(
        self, consts: tuple[tuple[str, bool | int | float], ...], given: frozenset[str]
    ) -> Specialised:
        """Return the op of one set of const values and given tensors."""
        key = (consts_key(consts), given)
        found = self._specialised.get(key)
        if found is None:
            found = self._specialised.setdefault(key, Specialised(self.ir, dict(consts), given))
        return found

    @overload
    def __call__(
        self, /, q: Tensor, k: Tensor, v: Tensor | None = None, *args: ParamValue,
        scale: float | Tensor | None = None, q_offset: Offset = None, kv_offset: int | Tensor = 0,
        kv_lens: Tensor | None = None, seed: int | None = None,
        kv_indices: Tensor | None = None, kv_block: int = 1,
        return_lse: Literal[False] = False, return_max: Literal[False] = False,
        **params: ParamValue,
    ) -> Tensor: ...  # fmt: skip
    @overload
    def __call__(
        self, /, q: Tensor, k: Tensor, v: Tensor | None = None, *args: ParamValue,
        scale: float | Tensor | None = None, q_offset: Offset = None, kv_offset: int | Tensor = 0,
        kv_lens: Tensor | None = None, seed: int | None = None,
        kv_indices: Tensor | None = None, kv_block: int = 1,
        return_lse: bool = False, return_max: bool = False, **params: ParamValue,
    ) -> Tensor | tuple[Tensor, ...]: ...  # fmt: skip
    def __call__(
        self,
        /,
        q: Tensor,
        k: Tensor,
        v: Tensor | None = None,
        *args: ParamValue,
        scale: float | Tensor | None = None,
        q_offset: Offset = None,
        kv_offset: int | Tensor = 0,
        kv_lens: Tensor | None = None,
        seed: int | None = None,
        kv_indices: Tensor | None = None,
        kv_block: int = 1,
        return_lse: bool = False,
        return_max: bool = False,
        **params: ParamValue,
    ) -> Tensor | tuple[Tensor, ...]:
        """Attend. Returns out [B, HQ, Q, DV] in q's dtype, and in this order what was asked for.

        A spec that makes v of k takes no v: what would stand there is its first parameter.

        `scale` defaults to 1 / sqrt(D). `q_offset`, `kv_offset` (an int or int[B]) are the
        positions of row 0 and column 0; `q_offset` defaults to `kv_offset + KV - Q`. Columns from
        `kv_lens[b]` (int[B]) on do not exist. `seed` is dropout's, by default one draw from
        torch's generator: `torch.manual_seed` makes a call repeatable.

        `kv_indices` (int32 or int64 [B, HKV, Q, K]) restricts each query row to blocks of columns:
        index i selects those of [i * kv_block, (i + 1) * kv_block) that exist, -1 selects nothing.
        It is a set, in any order; the mask applies besides. The cost follows what is selected. The
        kernel raises RuntimeError at an index without a block.

        `lse` [B, HQ, Q] is the natural log-sum-exp of the scores, float32, -inf for a row that sees
        no column. The max [B, HQ] is the largest score, float32: softmax's argument, or `score`
        where there is no softmax, over the elements that are not masked; -inf where there is none.
        Raises CallError for a wrong argument.
        """
        if v is not None and not self.takes_v:
            v, args = self._passed(k, v, args)
        if isinstance(q, Tensor) and casts(q):
            q, k, v = autocast(q, k, v)
        facts: Facts | None = None
        if not torch.compiler.is_compiling():
            bare = (
                scale is None and q_offset is None and kv_offset is _ZERO and kv_lens is None
                and kv_indices is None and kv_block is _ONE and return_lse is False
                and return_max is False and seed is None and not args and not params
            )  # fmt: skip
            if bare:
                facts = self.routes.bare_facts(q, k, v)
                route = None if facts is None else self.routes.find(facts)
                if route is not None and not self._drops:
                    vectors = (q, k) if v is None else (q, k, v)
                    attended: Tensor = route.op(*vectors, **route.fixed)[0]
                    return attended
            else:
                facts = self.routes.facts(
                    (q, k, v), args, params, (q_offset, kv_offset),
                    (scale, kv_lens, kv_indices, kv_block, return_lse, return_max), seed,
                )  # fmt: skip
                route = None if facts is None else self.routes.find(facts)
            if route is not None:
                keywords = (scale, q_offset, kv_offset, kv_lens, kv_indices, seed)
                call = route.arguments(args, params, keywords)
                return self._attend(route.op, (q, k, v), call, seed, return_lse, return_max)
        passed = (q_offset, kv_offset, kv_lens)
        q_offset, kv_offset, kv_lens = check.beside(q, *passed)
        if any(x is not y for x, y in zip(passed, (q_offset, kv_offset, kv_lens), strict=True)):
            facts = None  # each call like it has to bring them there
        values = check.name_params(self._params, args, params, _CALL_KEYWORDS)
        if wants_gradient({"q": q, "k": k, "v": v, "scale": scale, **values}):
            recorded: dict[str, Any] = {
                "q": q, "k": k, "v": v, "scale": scale, "q_offset": q_offset,
                "kv_offset": kv_offset, "kv_lens": kv_lens, "kv_indices": kv_indices,
                "kv_block": kv_block, "seed": seed, "return_lse": return_lse,
                "return_max": return_max,
            }  # fmt: skip
            if torch.compiler.is_dynamo_compiling():
                from attnlang.ops.traced_record import traced_record

                refuse_lse(self._handle, return_lse)
                return traced_record(self._handle, values, recorded)
            return record(self, values, **recorded)
        if not torch.compiler.is_compiling():
            check.check_seed(seed)
            check.check_lse(self.ir, return_lse)
            self.check_call(
                q, k, v, values, scale, q_offset, kv_offset, kv_lens, kv_indices, kv_block
            )
        op = self.registered_op(values)
        call = self.op_arguments(values, scale, q_offset, kv_offset, kv_lens)
        if kv_indices is not None:
            call["kv_indices"], call["kv_block"] = kv_indices, kv_block
        if return_lse:
            call["return_lse"] = True
        if return_max:
            call["return_max"] = True
        if seed is not None:
            call["seed"] = seed
        if facts is not None:
            keywords = (scale, q_offset, kv_offset, kv_lens, kv_indices, seed)
            named = dict(zip(_KEYWORDS, keywords, strict=True))
            self.routes.remember(
                facts, make_route(self, op, call, values, len(args), params, named)
            )
        return self._attend(op, (q, k, v), call, seed, return_lse, return_max)

    def _attend(
        self,
        op: torch._ops.OpOverload,
        vectors: tuple[Tensor, Tensor, Tensor | None],
        call: dict[str, object],
        seed: int | None,
        return_lse: bool,
        return_max: bool,
    ) -> Tensor | tuple[Tensor, ...]:
        q, k, v = vectors
        if seed is None and self._drops:
            call |= self.seed_argument(None, q)
        out, lse, largest = op(q, k, v, **call) if self.takes_v else op(q, k, **call)
        if not (return_lse or return_max):
            only: Tensor = out
            return only
        return (out, *((lse,) if return_lse else ()), *((largest,) if return_max else ()))

    def registered_op(self, values: dict[str, ParamValue], kind: str = "") -> torch._ops.OpOverload:
        """Return the op of a call, or the one beside it of that kind; this is traced too."""
        consts = const_values(self.ir, values)
        given = tuple(sorted(given_tensors(self.ir, values)))
        name = resolve(self._handle, consts, given)
        found: torch._ops.OpOverload = getattr(
            torch.ops.attnlang, f"{name}_{kind}" if kind else name
        ).default
        return found

    def tiles(
        self,
        /,
        q: Tensor,
        k: Tensor,
        v: Tensor | None = None,
        *args: ParamValue,
        q_offset: Offset = None,
        kv_offset: int | Tensor = 0,
        kv_lens: Tensor | None = None,
        **params: ParamValue,
    ) -> Tiles:
        """Count the tiles that such a call visits, in full, in part and not at all.

        A call with `kv_indices` visits the columns that it selects, and no tiles.
        """
        if "kv_indices" in params:
            raise CallError("kv_indices", "nothing: a selection has no tiles", "a tensor")
        v, args = self._passed(k, v, args)
        values = check.name_params(self._params, args, params, _TILES_KEYWORDS)
        q_offset, kv_offset, kv_lens = check.beside(q, q_offset, kv_offset, kv_lens)
        self.check_call(q, k, v, values, None, q_offset, kv_offset, kv_lens)
        specialised = self.specialised(
            const_values(self.ir, values), given_tensors(self.ir, values)
        )
        call = self.op_arguments(values, None, q_offset, kv_offset, kv_lens)
        vectors = (q, k, v) if self.takes_v else (q, k)
        counts = specialised.op.tiles(*vectors, **call)
        return Tiles(*counts.tolist())

    def explain(
        self, /, q_len: int | None = None, kv_len: int | None = None, **params: ParamValue
    ) -> Explanation:
        """Explain what the variant means, which tiles such a call visits and what that costs.

        Lengths are 4096 unless the spec takes no such call. Parameters are those of the call; what
        is not given is its default or invented. The sizes of given tensors hold, the others are
        those of a usual call. The machine's speed is measured once, in less than a second. Raises
        CallError for a wrong argument.
        """
        from attnlang.ops.explained import explain_call

        return explain_call(self.ir, q_len, kv_len, params)

    def reference(
        self,
        /,
        q: Tensor,
        k: Tensor,
        v: Tensor | None = None,
        *args: ParamValue,
        scale: float | Tensor | None = None,
        q_offset: Offset = None,
        kv_offset: int | Tensor = 0,
        kv_lens: Tensor | None = None,
        seed: int | None = None,
        return_lse: bool = False,
        return_max: bool = False,
        kv_indices: Tensor | None = None,
        kv_block: int = 1,
        rounding: Literal["exact", "fused"] = "exact",
        rows: Tensor | None = None,
        dtype: torch.dtype | None = None,
        **params: ParamValue,
    ) -> Tensor | tuple[Tensor, ...]:
        """Interpret the spec eagerly: the oracle, any dtype up to float64, differentiable.

        Takes what the call takes. `rounding="fused"` rounds where kernels do. `rows` restricts the
        result to some query rows; `dtype` computes (and returns) in another dtype than q's.
        """
        v, args = self._passed(k, v, args)
        values = check.name_params(self._params, args, params, _CALL_KEYWORDS)
        if v is None and self.takes_v:
            raise CallError("v", "a tensor [B, HKV, KV, DV]", "nothing")
        check.check_lse(self.ir, return_lse)
        check.check_seed(seed)
        offsets = {"q_offset": q_offset, "kv_offset": kv_offset, "kv_lens": kv_lens}
        check.check_dense({"scale": scale, **offsets, "kv_indices": kv_indices, "rows": rows})
        shape = check_reference(self.ir, q, k, v, values, rounding, rows, dtype)
        check.check_keywords(
            self.ir, shape, scale, q_offset, kv_offset, kv_lens, kv_indices, kv_block
        )
        return reference(
            self.ir, q, k, v,
            params=values, scale=scale, q_offset=q_offset, kv_offset=kv_offset, kv_lens=kv_lens,
            seed=seed, return_lse=return_lse, return_max=return_max, kv_indices=kv_indices,
            kv_block=kv_block, rounding=rounding, rows=rows, dtype=dtype,
        )  # fmt: skip

    def check_call(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        values: dict[str, ParamValue],
        scale: float | Tensor | None,
        q_offset: Offset,
        kv_offset: int | Tensor,
        kv_lens: Tensor | None,
        kv_indices: Tensor | None = None,
        kv_block: int = 1,
    ) -> None:
        """Check a call's arguments and build its kernel where that is missing."""
        if v is None and self.takes_v:
            raise CallError("v", "a tensor [B, HKV, KV, DV]", "nothing")
        shape = check.check_qkv(q, k, v)
        own = {"scale": scale, "q_offset": q_offset, "kv_offset": kv_offset, "kv_lens": kv_lens}
        own["kv_indices"] = kv_indices
        check.check_places(q, {"k": k, "v": v, **values, **own})
        refuse_tangents({"q": q, "k": k, "v": v, **values, **own})
        for param in self.ir.params:
            if isinstance(param, ScalarParam):
                check.check_scalar(param, values[param.name])
        specialised = self.specialised(
            const_values(self.ir, values), given_tensors(self.ir, values)
        )
        dv = self.value_dim(specialised, shape.d, v, values)
        sizes = shape.sizes() | {"DV": dv}
        check.check_tensors(self.ir, values, sizes)
        self.check_requires(values, sizes)
        check.check_keywords(
            self.ir, shape, scale, q_offset, kv_offset, kv_lens, kv_indices, kv_block
        )
        if not wants_gradient({"q": q, "k": k, "v": v, "scale": scale, **values}):
            specialised.op.ensure(self.kernel_key(q, dv, values), q.device)

    def seed_argument(self, seed: int | None, q: Tensor) -> dict[str, object]:
        """Return the seed of a call as the op takes it: passed, drawn, or none."""
        if seed is not None:
            return {"seed": seed}
        if not self._drops:
            return {}
        return {self.companions["seed"]: torch.randint(_SEED_END, (), device=q.device)}

    def _passed(
        self, k: Tensor, v: Tensor | None, args: tuple[ParamValue, ...]
    ) -> tuple[Tensor | None, tuple[ParamValue, ...]]:
        """Tell v from the first parameter, which stands in its place where v is made of k."""
        if self.takes_v or v is None:
            return v, args
        if check.is_dense(v) and check.is_dense(k) and v.dim() == 4 and v.shape[:3] == k.shape[:3]:
            raise CallError("v", "nothing: the spec makes v of k", f"shape {list(v.shape)}")
        return None, (v, *args)

    def value_dim(
        self, specialised: Specialised, head: int, v: Tensor | None, values: dict[str, ParamValue]
    ) -> int:
        """Return DV, once every vector of the spec is known to fit."""
        try:
            # int() of a symbolic size makes it a constant of the graph: kernels are built for it.
            widths = specialised.widths(int(head), None if v is None else int(v.shape[-1]))
        except WidthError as error:
            raise CallError(error.argument, error.expected, error.found) from None
        extents = {n: t.shape[0] for n, t in values.items() if isinstance(t, Tensor) and t.dim()}
        name, pairs = short_freqs(specialised.lowered.variant, widths, extents)
        if name:
            raise CallError(name, f"{pairs} frequencies, one for each pair", f"{extents[name]}")
        return widths.value

    def check_requires(self, values: dict[str, ParamValue], sizes: dict[str, int]) -> None:
        """Check every `require`, once for each set of sizes and numbers."""
        self._requirements.check(values, sizes)

    def kernel_key(
        self,
        q: Tensor,
        dv: int,
        values: dict[str, ParamValue],
        *,
        packed: bool = False,
        keys: Tensor | None = None,
    ) -> KernelKey:
        """Return the key of the kernel that such a call runs; `dv` is DV, `keys` may be pages."""
        dtypes = []
        for param in self.ir.params:
            if isinstance(param, TensorParam):
                value = values[param.name]
                if isinstance(value, Tensor):
                    dtypes.append(check.DTYPE_NAMES[value.dtype])
                else:
                    dtypes.append("none")
        runs = check_dtype(q)
        name = check.DTYPE_NAMES[q.dtype]
        pages = pages_of(keys, runs)
        return KernelKey(
            name, q.shape[-1], dv, tuple(dtypes), runs.target, runs.emulated, packed, pages
        )

    def op_arguments(
        self,
        values: dict[str, ParamValue],
        scale: float | Tensor | None,
        q_offset: Offset,
        kv_offset: int | Tensor,
        kv_lens: Tensor | None,
    ) -> dict[str, object]:
        """Arrange values as the op's schema has them: numbers and 0-d tensors apart.

        What has its default is left out: torch is quicker to fill it in than to parse it.
        """
        call: dict[str, object] = {}
        for name, scalar, default in self._runtime:
            value = values[name]
            if not scalar:
                if value is not None:
                    call[self.names[name]] = value
            elif isinstance(value, Tensor):
                call[self.companions[name]] = value
                if default is None:
                    call[self.names[name]] = 0  # required by the schema, not read
            elif value != default:
                call[self.names[name]] = value
        for name, value, usual in (
            ("scale", scale, None),
            ("q_offset", q_offset, None),
            ("kv_offset", kv_offset, 0),
        ):
            if isinstance(value, Tensor):
                call[self.companions[name]] = value
            elif value != usual:
                call[name] = value
        if kv_lens is not None:
            call["kv_lens"] = kv_lens
        return call
