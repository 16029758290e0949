"""What every variant of the gallery costs on the CPU: to build, and to run beside plain attention.

    python benchmarks/gallery.py [NAME...] [--part build|run] [--until 75] [--json FILE] [--again]

`build`: CPU seconds of the compiler and of ours, in a cache that holds the binding of ops alone:
the op and the kernel of dense calls, then that of packed calls (float32; tensors as in the calls).
`run`: CPU time for a visited element, divided by that of plain attention of the same widths, which
takes turns with it; 2 heads, 4096 rows, as `attnlang.bench` counts. What the file already holds is
not measured again. Let nothing else run beside `run`.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attnlang.bench.clock import interleave, prepare_process

prepare_process()

import torch  # noqa: E402
from gallery_calls import HEADS, KEY_HEADS, PARAMS, QUERIES, WIDTHS  # noqa: E402
from torch import Tensor  # noqa: E402

import attnlang  # noqa: E402
from attnlang.bench.machine import Watch, this_machine  # noqa: E402
from attnlang.bench.record import read_record, record_text  # noqa: E402
from attnlang.compiler import binding_sources  # noqa: E402
from attnlang.ir.nodes import ScalarParam, TensorParam  # noqa: E402
from attnlang.jit.build import build  # noqa: E402
from attnlang.ops.arguments import DTYPE_NAMES  # noqa: E402
from attnlang.ops.specialised import const_values, given_tensors  # noqa: E402
from attnlang.plan.kernel_key import KernelKey  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gallery.json"
LENGTH = 4096
MOST_SECONDS, MOST_RATIO = 5.0, 1.15

Case = dict[str, Any]


def parameters(name: str) -> dict[str, object]:
    """Return what the call of a variant passes beside q, k and v."""
    maker = PARAMS.get(name, lambda n, g: {})
    return maker(LENGTH, torch.Generator().manual_seed(1))


def widths(name: str) -> tuple[int, int]:
    """Return D and DV."""
    return WIDTHS.get(name, (64, 64))


def measure_build(name: str) -> Case:
    """Return the CPU seconds of cold builds."""
    variant = attnlang.load(ROOT / "examples" / f"{name}.attn")
    defaults = {
        p.name: p.default if isinstance(p, ScalarParam) else None for p in variant.ir.params
    }
    values = {**defaults, **parameters(name)}
    dtypes = tuple(
        DTYPE_NAMES[x.dtype] if isinstance(x := values[p.name], Tensor) else "none"
        for p in variant.ir.params
        if isinstance(p, TensorParam)
    )
    specialised = variant.specialised(
        const_values(variant.ir, values), given_tensors(variant.ir, values)
    )
    keys = [KernelKey("f32", *widths(name), dtypes, packed=packed) for packed in (False, True)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATTNLANG_CACHE_DIR"] = folder
        build(binding_sources())
        start = _cpu_seconds()
        _ = specialised.op
        specialised.build_kernel(keys[0])
        dense = _cpu_seconds()
        specialised.build_kernel(keys[1])
        packed = _cpu_seconds()
    return {"dense": round(dense - start, 2), "packed": round(packed - dense, 2)}


def measure_run(name: str, seconds: float) -> Case:
    """Return the time of an element relative to plain attention's."""
    d, dv = widths(name)
    g = torch.Generator().manual_seed(0)
    rows, keys = QUERIES.get(name, LENGTH), KEY_HEADS.get(name, HEADS)
    params = parameters(name)
    calls: dict[str, Callable[[], object]] = {}
    elements = {}
    for at, own in ((name, params), ("full", {})):
        variant = attnlang.load(ROOT / "examples" / f"{at}.attn")
        shapes = [(HEADS, rows, d), (keys, LENGTH, d)]
        if variant.takes_v:
            shapes.append((keys, LENGTH, dv))
        vectors = [torch.randn(1, *shape, generator=g) for shape in shapes]
        count: Callable[..., Any] = variant.tiles
        counts = count(*vectors, **own)
        elements[at] = counts.full + counts.partial
        calls["plain" if at != name else name] = _call(variant, vectors, own)
    watch = Watch()
    timings = interleave(calls, torch.get_num_threads(), seconds)
    plain = timings["plain"].cpu.median if name != "full" else timings[name].cpu.median
    own_time = timings[name].cpu.median
    ratio = (own_time / elements[name]) / (plain / elements["full"])
    return {
        "milliseconds": round(1e3 * own_time, 3),
        "plain": round(1e3 * plain, 3),
        "visited": elements[name],
        "ratio": round(ratio, 3),
        "others": watch.others(),
    }


def _call(
    variant: Callable[..., object], vectors: list[Tensor], params: Mapping[str, object]
) -> Callable[[], object]:
    return lambda: variant(*vectors, **params)


def _cpu_seconds() -> float:
    usages = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usages)


def main() -> None:
    """Measure some variants and add them to the file."""
    start, args = time.monotonic(), _arguments()
    machine = this_machine()
    done = read_record(args.json, machine)
    names = args.names or sorted(p.stem for p in (ROOT / "examples").glob("*.attn"))
    left = [n for n in names if args.again or args.part not in done.get(n, {})]
    for at, name in enumerate(left):
        if time.monotonic() - start > args.until:
            print(f"{len(left) - at} variants are left: run it again")
            return
        found = measure_build(name) if args.part == "build" else measure_run(name, args.seconds)
        done[name] = done.get(name, {}) | {args.part: found}
        args.json.write_text(record_text(machine, done), encoding="utf-8")
        print(f"{name}: {found}{_verdict(found)}", flush=True)


def _verdict(found: Case) -> str:
    slow = found.get("ratio", 0) > MOST_RATIO
    long = max(found.get("dense", 0), found.get("packed", 0)) > MOST_SECONDS
    return " ABOVE" if slow or long else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--part", choices=("build", "run"), default="run")
    parser.add_argument("--seconds", type=float, default=0.6, help="of measuring, for each variant")
    parser.add_argument("--until", type=float, default=75.0, help="start none after SECONDS")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="measure what the file has, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
