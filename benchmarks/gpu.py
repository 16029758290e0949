"""How fast the CUDA kernels are, beside SDPA's flash and cuDNN backends and FlexAttention.

    python benchmarks/gpu.py [full causal backward gallery decode serving host] [--case 'full/*']
    python benchmarks/gpu.py --list | --show

Each target has a file of its own, `results/gpu-TARGET.json`; what it already holds of this GPU and
commit is not measured again, and no case starts after `--until` seconds: call it until it says that
nothing is left. Contenders take turns; each run starts with a cold L2 cache and random inputs, and
the time is the median between CUDA events. A contender whose results differ from ours is reported,
not timed. Decoding is beside the rate at which the GPU reads memory in the same run. What a call
costs the host is measured apart, while the GPU is kept waiting.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from gpu_backward_cases import backward
from gpu_cases import OURS, Case, Run, targets
from gpu_host import host_calls, measure_host, print_host
from gpu_peers import read_peers
from gpu_serving_cases import serving
from torch import Tensor

RESULTS = Path(__file__).resolve().parent / "results"
_FLUSH_BYTES = 256 << 20  # more than any L2 cache
_FLUSH_SECONDS = 50e-6  # it takes no less
_ROUNDS = (10, 200)  # at least, at most
_HOST_CALLS, _HOST_ROUNDS = 20, 7
_SLEEP = 20_000_000  # cycles, some 10 ms: longer than the host takes for those calls
HOST = "host"
_TOLERANCE = 0.02  # of two kernels that round weights to bfloat16, relative to the largest value


def main() -> None:
    """Measure what is missing of some targets, and print their tables."""
    args = _arguments()
    peers = read_peers(args.peers)
    known = targets(peers)
    known |= {"backward": dict(backward(peers)), "serving": dict(serving())}
    for name in args.target or (*known, HOST):
        if name == HOST:
            _host(RESULTS / f"gpu-{HOST}.json", args)
            continue
        if name not in known:
            sys.exit(f"no target `{name}`: there are {', '.join(known)}, {HOST}")
        cases = {n: c for n, c in known[name].items() if fnmatch(n, args.case)}
        path = RESULTS / f"gpu-{name}.json"
        if args.list:
            print(*cases, sep="\n")
            continue
        if not args.show:
            _measure(cases, path, args)
        _print(name, path)


def _host(path: Path, args: argparse.Namespace) -> None:
    """Measure what calls cost the host, all in one go, or print it."""
    if args.list:
        print("one case of all calls")
        return
    if not args.show:
        machine = _machine()
        record = {"machine": machine, "cases": measure_host(host_calls())}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if path.exists():
        print_host(json.loads(path.read_text(encoding="utf-8")))
    else:
        print(f"{HOST}: nothing measured yet")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="*", help="one of the above; all by default")
    parser.add_argument("--case", default="*", metavar="PATTERN")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, for each case")
    parser.add_argument("--until", type=float, default=420.0, help="start no case after SECONDS")
    parser.add_argument("--peers", type=Path, metavar="FILE", help="of contenders from outside")
    parser.add_argument(
        "--without", nargs="+", default=(), metavar="NAME", help="contenders to leave out"
    )
    parser.add_argument("--again", action="store_true", help="measure what the file has, too")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--show", action="store_true", help="print the files")
    args = parser.parse_args()
    args.start = time.monotonic()
    return args


def _measure(cases: Mapping[str, Callable[[], Case]], path: Path, args: argparse.Namespace) -> None:
    machine = _machine()
    record: dict[str, Any] = {"machine": machine, "cases": {}}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["machine"] == machine and not args.again:
            record = found
    for name, make in cases.items():
        if name in record["cases"]:
            continue
        if time.monotonic() - args.start > args.until:
            print(f"{name} and what follows is left for another call", file=sys.stderr)
            break
        print(name, file=sys.stderr, flush=True)
        torch.manual_seed(0)
        case = make()
        for peer in args.without:
            case.contenders.pop(peer, None)
        record["cases"][name] = _case(case, args.seconds)
        torch.cuda.empty_cache()
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _machine() -> dict[str, str]:
    if not torch.cuda.is_available():
        sys.exit("this needs a CUDA device; `--show` prints what was measured on one")
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=10"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _case(case: Case, seconds: float) -> dict[str, Any]:
    """Make every contender, compare their results, and let the right ones take turns."""
    runs: dict[str, Run] = {}
    absent: dict[str, str] = {}
    want: Tensor | None = None
    for name, make in case.contenders.items():
        try:
            run = make()
            got = run()
            torch.cuda.synchronize()
        except Exception as error:  # whatever a peer raises is why it is absent
            if name == OURS:
                raise
            absent[name] = str(error).strip().partition("\n")[0][:200]
            continue
        if want is None:
            want = _flat(got)
        difference = ((_flat(got) - want).abs().max() / want.abs().max()).item()
        if not difference <= _TOLERANCE:
            absent[name] = f"differs by {difference:.3g} of the largest value"
            continue
        runs[name] = run
    del want
    if case.unit == "GB/s":
        runs["read"] = _read_work()
    times = _interleave(runs, seconds)
    host = {name: _host_seconds(run) for name, run in runs.items()}
    amounts = dict.fromkeys(times, case.amount)
    if "read" in amounts:
        amounts["read"] = float(_FLUSH_BYTES * 4)
    scale = 1e9 if case.unit == "GB/s" else 1e12
    return {
        "unit": case.unit,
        "contenders": {
            name: {
                "microseconds": statistics.median(t) * 1e6,
                "quartiles": [q * 1e6 for q in statistics.quantiles(t, n=4)[::2]],
                "runs": len(t),
                "host_microseconds": host[name] * 1e6,
                "rate": amounts[name] / statistics.median(t) / scale,
            }
            for name, t in times.items()
        },
        "absent": absent,
    }


def _flat(results: Tensor | tuple[Tensor, ...]) -> Tensor:
    each = (results,) if isinstance(results, Tensor) else results
    return torch.cat([x.float().flatten() for x in each])


def _read_work() -> Run:
    """Return a read of 1 GiB, each element once: what memory gives."""
    data = torch.randn(_FLUSH_BYTES, device="cuda")
    return data.sum


def _interleave(runs: Mapping[str, Run], seconds: float) -> dict[str, list[float]]:
    """Return the seconds of each run with a cold L2 cache.

    A run is enqueued behind large writes, for as long as the host took to launch it the turn
    before and more, so that this is hidden.
    """
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in runs}
    writes = dict.fromkeys(runs, 4)
    least, most = _ROUNDS
    start = time.monotonic()
    for turn in range(most):
        if turn >= least and time.monotonic() - start > seconds:
            break
        for name, run in runs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(writes[name]):
                flush.fill_(turn)
            begin.record()
            called = time.perf_counter()
            run()
            writes[name] = 4 + int((time.perf_counter() - called) / _FLUSH_SECONDS)
            end.record()
            end.synchronize()
            if turn > 1:  # clocks and caches of the host settle
                times[name].append(begin.elapsed_time(end) * 1e-3)
    return times


def _host_seconds(run: Run) -> float:
    """Return what the host takes to enqueue a call: the GPU sleeps, so no queue fills up."""
    times = []
    for _ in range(_HOST_ROUNDS):
        torch.cuda.synchronize()
        torch.cuda._sleep(_SLEEP)
        start = time.perf_counter()
        for _ in range(_HOST_CALLS):
            run()
        times.append((time.perf_counter() - start) / _HOST_CALLS)
    torch.cuda.synchronize()
    return statistics.median(times)


def _print(name: str, path: Path) -> None:
    if not path.exists():
        print(f"{name}: nothing measured yet")
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    print(f"\n{name} on {record['machine']['gpu']}, commit {record['machine']['commit']}")
    names = list(dict.fromkeys(n for c in record["cases"].values() for n in c["contenders"]))
    print(
        f"{'case':28}" + "".join(f"{n:>12}" for n in names) + "   ours / best peer, unit, host us"
    )
    for title, case in record["cases"].items():
        rates = {n: e["rate"] for n, e in case["contenders"].items()}
        best = max((r for n, r in rates.items() if n != OURS), default=None)
        row = "".join(f"{rates[n]:12.1f}" if n in rates else f"{'-':>12}" for n in names)
        ratio = "" if best is None else f"{rates[OURS] / best:8.2f}"
        host = case["contenders"][OURS].get("host_microseconds", float("nan"))
        print(f"{title:28}{row}   {ratio}  {case['unit']}  {host:.1f}")


if __name__ == "__main__":
    main()
