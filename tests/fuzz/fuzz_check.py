"""`check` under fire: no crash, no input that takes 2 s or the process beyond 1 GiB.

As a command: `python tests/fuzz/fuzz_check.py --count 100000`, about an hour of one core.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_inputs import draw

from attnlang.compiler import check_source
from attnlang.diagnostics.render import render_github, render_json, render_text
from attnlang.sources import Source
from attnlang.syntax.formatter import format_source

SECONDS = 2.0
BYTES = 1 << 30


class Hang(Exception):
    """An input that takes too much processor time."""


@dataclass
class Outcome:
    """What became of a number of inputs."""

    slowest: float = 0.0
    slowest_seed: int = -1
    codes: Counter[str] = field(default_factory=Counter)
    sound: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)


def check_one(text: str, folder: Path) -> list[str]:
    """Check a text, show what was found in every form, and format it; return the codes."""
    source = Source("fuzz.attn", text)
    found = check_source(source, folder=folder).diagnostics
    for diagnostic in found:
        shown = render_text(diagnostic)
        assert all(c == "\n" or c.isprintable() for c in shown), repr(shown)
        assert "\n" not in render_github(diagnostic)
    render_json(found)
    format_source(source)
    return [d.code for d in found]


def check_many(seeds: range, folder: Path) -> Outcome:
    """Check the inputs of some seeds."""
    outcome = Outcome()
    for done, seed in enumerate(seeds):
        if done and done % 5_000 == 0:
            print(f"{done:,} done, {len(outcome.failures)} failures", file=sys.stderr, flush=True)
        kind, text = draw(seed)
        begun = time.process_time()
        try:
            with _limit(SECONDS):
                codes = check_one(text, folder)
        except Exception as error:
            outcome.failures.append((seed, f"{kind}: {type(error).__name__}: {error}"))
            continue
        taken = time.process_time() - begun
        if taken > outcome.slowest:
            outcome.slowest, outcome.slowest_seed = taken, seed
        outcome.codes.update(codes)
        outcome.sound += not codes
        if peak_bytes() > BYTES:
            outcome.failures.append((seed, f"{kind}: {peak_bytes():,} bytes in memory"))
            break
    return outcome


@contextmanager
def _limit(seconds: float):
    """Raise `Hang` inside once the process has computed for so long."""

    def stop(_signal, _frame):
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def peak_bytes() -> int:
    """The most memory that this program has held: `ru_maxrss` counts what it was started from."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def make_folder(folder: Path) -> Path:
    """Fill the folder that imports may read: a file, one that imports itself, a link out of it."""
    inner = folder / "specs"
    (inner / "a").mkdir(parents=True)
    common = "def half(x) = x / 2\n"
    (inner / "common.attn").write_text(common)
    (inner / "a" / "x.attn").write_text(common)
    (inner / "self.attn").write_text('from "self.attn" import half\n')
    (folder / "x.attn").write_text(common)
    (inner / "link").symlink_to(folder, target_is_directory=True)
    return inner


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        outcome = check_many(range(args.first, args.first + args.count), make_folder(Path(folder)))
    for seed, what in outcome.failures:
        print(f"seed {seed}: {what}")
    print(
        f"{args.count:,} inputs in {time.process_time() - begun:,.0f} s: "
        f"{len(outcome.failures)} failures, {outcome.sound:,} sound, "
        f"{len(outcome.codes)} codes; the slowest took {outcome.slowest:.2f} s "
        f"(seed {outcome.slowest_seed}), {peak_bytes() / 2**20:,.0f} MiB in memory at most"
    )
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
