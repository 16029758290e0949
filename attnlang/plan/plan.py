"""The plan of one kernel: a frozen value between the analysis and the emitter.

Maps a lowered variant, the dtypes and the head dims of a call to what the generated unit will hold.
Nothing here depends on lengths, batch, heads, strides or run-time values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnlang.ir.nodes import Call, Const, Expr, Load, TensorParam, Variant
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import walk
from attnlang.jit.units import Target
from attnlang.passes.adjoint import Adjoint
from attnlang.passes.lowered import Lowered
from attnlang.plan.cuda_backward_tiles import BackwardTiles, choose_backward_tiles
from attnlang.plan.cuda_tiles import PANEL, CudaTiles, choose_tiles
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.pairs import Pairs, plan_pairs
from attnlang.plan.ranges import Ranges
from attnlang.plan.reads import Read, plan_reads
from attnlang.plan.terms import Term, hoist, invariants
from attnlang.plan.transforms import Transforms, plan_transforms
from attnlang.plan.transforms import describe as describe_transforms
from attnlang.plan.widths import Widths, measure
from attnlang.symbolic.variability import Level, level


@dataclass(frozen=True, slots=True)
class Plan:
    """How one kernel of a variant runs."""

    lowered: Lowered
    key: KernelKey
    terms: tuple[Term, ...]
    widths: Widths
    transforms: Transforms
    pairs: Pairs  # of a tile of the CPU's forward kernel
    tiles: CudaTiles | None = None  # of a GPU's kernel
    adjoint: Adjoint | None = None  # what a backward kernel evaluates too
    backward: BackwardTiles | None = None  # of a GPU's backward kernel

    @property
    def roots(self) -> tuple[Expr, ...]:
        """The expressions that the kernel evaluates for an element, and its vector programs."""
        programs = (expr for _, expr, _ in self.transforms.programs)
        slopes = () if self.adjoint is None else self.adjoint.roots
        return (*(expr for _, expr in self.lowered.roots), *slopes, *programs)

    @property
    def reads(self) -> tuple[Read, ...]:
        """How the tensors are read that an element's expressions read; programs clamp theirs."""
        slopes = () if self.adjoint is None else self.adjoint.roots
        roots = (*(expr for _, expr in self.lowered.roots), *slopes)
        return plan_reads(roots, self.lowered.variant, Ranges(self.dtypes))

    @property
    def dtypes(self) -> Mapping[str, str]:
        """The dtype of each tensor parameter that was passed, "none" for the others."""
        return _dtypes(self.lowered.variant, self.key)


def tensor_params(variant: Variant) -> tuple[TensorParam, ...]:
    """Return the tensor parameters of a variant, in their order."""
    return tuple(p for p in variant.params if isinstance(p, TensorParam))


def make_plan(lowered: Lowered, key: KernelKey, adjoint: Adjoint | None = None) -> Plan:
    """Plan a kernel, a backward one where there is an adjoint.

    Raises WidthError where the spec's vectors do not fit the head dims, or no kernel of the target
    takes these.
    """
    slopes = () if adjoint is None else adjoint.roots
    roots = (*(expr for _, expr in lowered.roots), *slopes)
    widths = measure(lowered.variant, key.head_dim, key.value_dim)
    transforms = plan_transforms(lowered.variant, widths)
    programs = (program for _, program, _ in transforms.programs)
    roots = (*roots, *(e for program in programs for e in invariants(program)))
    tiles = backward = None
    if key.target is not Target.CPU and adjoint is not None:
        backward = choose_backward_tiles(
            key.target, widths, reads=_elements_read(roots), packed=key.packed
        )
    elif key.target is not Target.CPU:
        start = transforms.value_within_key
        shared = transforms.out is None and start is not None and start % PANEL == 0
        tiles = choose_tiles(
            key.target, widths, plain=_plain(lowered), shared=shared, packed=key.packed
        )
    pairs = Pairs()
    if key.target is Target.CPU and adjoint is None:
        always = (lowered.exponent, lowered.factor, lowered.weight, lowered.score)
        given = (e for e in always if e is not None)
        pairs = plan_pairs(given, lowered.mask, Ranges(_dtypes(lowered.variant, key)))
    return Plan(lowered, key, hoist(roots), widths, transforms, pairs, tiles, adjoint, backward)


def _dtypes(variant: Variant, key: KernelKey) -> Mapping[str, str]:
    names = (p.name for p in tensor_params(variant))
    return dict(zip(names, key.param_dtypes, strict=True))


def _plain(lowered: Lowered) -> bool:
    """Whether there is no mask, and no function in a softmax's score."""
    full = isinstance(lowered.mask, Const) and lowered.mask.value is True
    if not full or lowered.exponent is None or lowered.factor or lowered.dropout:
        return False
    return not any(isinstance(e, Call) for e in walk(lowered.exponent))


def _elements_read(roots: tuple[Expr, ...]) -> bool:
    """Whether each pair of a query and a key reads a tensor for itself."""
    return any(isinstance(e, Load) and level(e) is Level.ELEMENT for e in walk(*roots))


def describe(plan: Plan) -> str:
    """Print a plan for people: skeleton, dims, and what is computed in which loop."""
    key = plan.key
    skeleton = "cpu" if plan.tiles is None else plan.tiles.skeleton
    if plan.backward is not None:
        skeleton = plan.backward.skeleton
    lines = [
        f"kernel: {skeleton}_attention  q, k, v: {key.dtype}  D: {key.head_dim}  "
        f"DV: {key.value_dim}",
        *_describe_tiles(plan),
    ]
    lines += describe_transforms(plan.transforms)
    for name, dtype in plan.dtypes.items():
        lines.append(f"tensor {name}: {dtype}")
    for read in plan.reads:
        lines.append(f"read {read.text}")
    for term in plan.terms:
        lines.append(f"{term.level.value:>8}  {term.name} = {print_expr(term.expr)}")
    for term in plan.pairs.terms:
        lines.append(f"    tile  {term.name} = {print_expr(term.expr)}")
    for name, expr in plan.lowered.roots:
        lines.append(f" element  {name} = {print_expr(expr)}")
    for name, expr, _ in plan.transforms.programs:
        lines.append(f"  vector  {name} = {print_expr(expr)}")
    return "\n".join(lines) + "\n"


def _describe_tiles(plan: Plan) -> tuple[str, ...]:
    if plan.backward is not None:
        return (f"gradients: {plan.backward.text}",)
    tiles = plan.tiles
    if tiles is None:
        return ("skeletons: forward (lanes are queries), decode (lanes are keys)",)
    return (
        f"tiles: {tiles.query_tile} queries x {tiles.key_tile} keys, {tiles.stages} stages, "
        f"{tiles.warps} warps",
    )
