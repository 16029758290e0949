"""The `attnlang` command: from the process's arguments to its exit code.

The commands are imported inside, for whoever presses Ctrl-C while Python still reads them shall see
what he sees afterwards: one word, and no traceback.
"""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Be the `attnlang` command."""
    # Modules and trees stay; looking for garbage while they are made is a tenth of a `check`.
    gc.set_threshold(100_000)
    try:
        from attnlang.cli.commands import run_command

        code = run_command(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130  # as `run_command` has it: 128 and the number of the signal
    sys.exit(code)
