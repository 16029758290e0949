"""A mistake in a copy of the kernels: what the tests of the emulator plant."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from device_harness import ROOT


@dataclass(frozen=True)
class Mutant:
    """A mistake: in a file under codegen/kernels, `old` (once there) becomes `new`."""

    file: str
    old: str
    new: str = ""

    def plant(self, root: Path) -> None:
        """Make the mistake in the copy under `root`."""
        path = root / "codegen" / "kernels" / self.file
        path.write_text(self.text(path))

    def text(self, path: Path) -> str:
        """Return the file's text with the mistake."""
        text = path.read_text()
        assert text.count(self.old) == 1, f"{self.file} has {text.count(self.old)} of: {self.old}"
        return text.replace(self.old, self.new)


def copy_headers(root: Path) -> None:
    """Copy all that a kernel includes to a folder."""
    for folder in ("codegen/kernels", "runtime"):
        shutil.copytree(ROOT / folder, root / folder)
