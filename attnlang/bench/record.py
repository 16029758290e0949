"""Results as JSON: one file names the machine and holds its cases, and grows as pieces are run.

Invariant: a file never mixes machines, and what it says of a case comes from one run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnlang.bench.case import Result
from attnlang.bench.machine import Machine


class OtherMachineError(ValueError):
    """The file holds results of another machine, or of other settings."""


def read_record(path: Path, machine: Machine) -> dict[str, Any]:
    """Return the cases of a file, none where there is no file. Raises OtherMachineError."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["machine"] != _plain(machine):
        raise OtherMachineError(f"{path} holds results of another machine or of other settings")
    cases: dict[str, Any] = found["cases"]
    return cases


def record_text(machine: Machine, cases: Mapping[str, Any]) -> str:
    """Write the file."""
    content = {"machine": _plain(machine), "cases": dict(sorted(cases.items()))}
    return json.dumps(content, indent=1) + "\n"


def as_json(result: Result) -> dict[str, Any]:
    """Return a result as JSON has it, with what follows from the times."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "variant": result.variant,
        "dtype": result.dtype,
        "shape": dict(result.shape),
        "clock": str(result.clock),
        "visited": result.visited,
        "unmasked": result.unmasked,
        "others": result.others,
        "contenders": {
            name: {
                "rate": result.rate(name),
                "ratio": result.ratio(name),
                "note": entry.note,
                **asdict(entry.timing),
            }
            for name, entry in result.entries.items()
        },
        "absent": dict(result.absent),
        "flex": None if result.flex is None else asdict(result.flex),
        "targets": [
            {"than": t.than, "at_least": t.at_least, "found": result.ratio(t.than)}
            for t in result.targets
        ],
        "met": result.met,
    }


def _plain(machine: Machine) -> Any:  # noqa: ANN401
    """Return a machine as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(asdict(machine)))
