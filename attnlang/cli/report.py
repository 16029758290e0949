"""What `attnlang run` prints: a trial as a dozen short lines, a fact each."""

from __future__ import annotations

from pathlib import Path

from attnlang.cli.measure import duration
from attnlang.cli.peers import Peer
from attnlang.cli.places import Place
from attnlang.cli.trial import Build, Trial
from attnlang.invent.inputs import Call
from attnlang.ir.nodes import Variant
from attnlang.ops.tiles import Tiles


def report(file: Path, variant: Variant, call: Call, trial: Trial, place: Place) -> str:
    """Write a trial."""
    lines = [
        ("variant", f"{variant.name} ({file})"),
        ("shape", _shape(call)),
        *_params(call),
        *(() if place.is_cpu else (("on", str(place)),)),
        ("build", _build(trial.build)),
        ("tiles", tiles_text(trial.tiles)),
        ("error", _error(trial)),
        ("time", _time(call, trial)),
        *(("against", _peer(peer, trial.timing.seconds)) for peer in trial.peers),
    ]
    return "\n".join(f"{label:<8} {text}" for label, text in lines)


def _shape(call: Call) -> str:
    sizes = "  ".join(f"{n} {size}" for n, size in call.shape.sizes().items())
    return f"{sizes}  {str(call.q.dtype).removeprefix('torch.')}"


def _params(call: Call) -> list[tuple[str, str]]:
    def text(value: object) -> str:
        if value is None:
            return "none"
        if isinstance(value, bool | int | float):
            return str(value).lower() if isinstance(value, bool) else f"{value:g}"
        shape = getattr(value, "shape", ())
        return f"{str(getattr(value, 'dtype', '')).removeprefix('torch.')}{[*shape]}"

    if not call.params:
        return []
    return [("with", ", ".join(f"{n} = {text(v)}" for n, v in call.params.items()))]


def _build(build: Build) -> str:
    if build.cold is None:
        return f"from the cache, in {duration(build.warm)}"
    return f"{duration(build.cold)} cold; {duration(build.warm)} to find it again"


def tiles_text(tiles: Tiles) -> str:
    """Write how many tiles are visited."""
    share = 100 * tiles.visited / tiles.total if tiles.total else 0
    return (
        f"{tiles.visited:,} of {tiles.total:,} visited ({share:.3g}%): {tiles.full:,} full, "
        f"{tiles.partial:,} partial; {tiles.query_tile} x {tiles.key_tile} each"
    )


def _error(trial: Trial) -> str:
    accuracy = trial.accuracy
    if not accuracy.rows:
        return accuracy.why
    verdict = "" if accuracy.fine else "  TOO LARGE"
    return (
        f"{accuracy.error:.1e} of {accuracy.bound:.1e} allowed ({accuracy.why}), "
        f"{accuracy.rows} rows against float64{verdict}"
    )


def _time(call: Call, trial: Trial) -> str:
    s, tiles = call.shape, trial.tiles
    timing = trial.timing
    visited = tiles.visited / max(tiles.total, 1)
    if s.q * s.hq // max(s.hkv, 1) <= tiles.query_tile:  # bound by reading the keys and values
        read = visited * (call.k.nbytes + call.v.nbytes)
        rate = f"{read / timing.seconds / 1e9:.1f} GB/s of keys and values in visited tiles"
    else:
        flops = 2 * (s.d + s.dv) * visited * s.b * s.hq * s.q * s.kv
        rate = f"{flops / timing.seconds / 1e9:.1f} GFLOP/s over the visited tiles"
    return f"{duration(timing.seconds)}, {_runs(timing.runs)}; {rate}"


def _runs(runs: int) -> str:
    return "one run" if runs == 1 else f"the median of {runs} runs"


def _peer(peer: Peer, ours: float) -> str:
    if peer.seconds is None:
        return f"{peer.name}: {peer.note}"
    factor = peer.seconds / ours
    return f"{peer.name}: {duration(peer.seconds)}, {factor:.2f} times ours ({peer.note})"
