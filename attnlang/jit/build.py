"""From `Sources` to a shared object in the cache.

A found entry costs a hash; a missing one is compiled once, however many processes ask. Invariant:
the path returned names a complete object whose checksum was compared in this process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from attnlang.jit import ninja
from attnlang.jit.cache import Damaged, Entry, Manifest, Store
from attnlang.jit.cpu import this_cpu
from attnlang.jit.errors import BuildError
from attnlang.jit.recipe import Recipe, make_recipe
from attnlang.jit.units import Sources
from attnlang.options import CpuTarget, options

Progress = Callable[[str], None]

_log = logging.getLogger("attnlang.jit")
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
_ERROR = re.compile(
    r"^(?P<where>[^\s:][^:\n]*:\d+(?::\d+)?): (?:fatal )?error: (?P<what>.*)$", re.M
)
_UNDEFINED = re.compile(r"undefined (?:reference to|symbol:?) .*$", re.M)
_LINKER_ERROR = re.compile(r"^.*/ld(?:\.\w+)?: ?.*$", re.M)
_DRIVER_ERROR = re.compile(r"^.*error: .*$", re.M)
_KEPT = (".cpp", ".cu", ".so", ".map", ".ninja", ".h")

_built: dict[tuple[Path, str], Path] = {}
_unwritable: set[Path] = set()  # cache folders that were said to be so


def build(
    sources: Sources, *, cpu: CpuTarget | None = None, progress: Progress | None = None
) -> Path:
    """Return the path of the object built from the sources, from the cache where it has it.

    `cpu` is what it shall run on, by default what `ATTNLANG_CPU` says. `progress` hears one line a
    step. Raises BuildError when the toolchain fails or the disk is
    full.
    """
    recipe = make_recipe(sources, cpu)
    root = options().cache_dir
    known = _built.get((root, recipe.key))
    if known is None or not known.exists():
        say = progress or (_say if options().verbose else _be_silent)
        known = _find_or_build(recipe, root, say).library
        _built[root, recipe.key] = known
    return known


def _find_or_build(recipe: Recipe, root: Path, say: Progress) -> Entry:
    found = Store(root).find(recipe.key)
    if isinstance(found, Entry):
        return found
    store = _writable_store(root)
    try:
        with store.lock(recipe.key, lambda: say(f"waiting for the build of {recipe.library}")):
            found = store.find(recipe.key)  # perhaps another process was faster
            if isinstance(found, Entry):
                return found
            if isinstance(found, Damaged):
                _log.warning("building %s again: %s", recipe.key, found.reason)
                store.remove(recipe.key)
            store.sweep()
            return _compile(recipe, store, say)
    except OSError as error:
        raise _disk_error(error, store) from error


def _compile(recipe: Recipe, store: Store, say: Progress) -> Entry:
    started = time.monotonic()
    with store.stage(recipe.key) as folder:
        for name, text in recipe.files().items():
            (folder / name).write_text(text, encoding="utf-8")
        outcome = ninja.run(folder, options().jobs, say)
        if not outcome.ok:
            raise _build_error(recipe, outcome.output, store)
        for path in folder.iterdir():
            if path.suffix not in _KEPT:
                path.unlink()
        manifest = _manifest(recipe, folder, time.monotonic() - started)
        return store.publish(folder, recipe.key, manifest)


def _manifest(recipe: Recipe, folder: Path, seconds: float) -> Manifest:
    content = (folder / recipe.library).read_bytes()
    return Manifest(
        library=recipe.library,
        sha256=hashlib.sha256(content).hexdigest(),
        entry_points=recipe.sources.entry_points,
        torch=any(unit.torch for unit in recipe.sources.units),
        machine=this_cpu().machine,
        cpu_features=recipe.needed_features,
        compiler=str(recipe.compiler),
        seconds=round(seconds, 3),
    )


def _writable_store(root: Path) -> Store:
    """Return the store at the root, or one in a temporary folder where that cannot be written."""
    store = Store(root)
    try:
        store.prepare()
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise _disk_error(error, store) from error
        fallback = Store(_fallback_root())
        if root not in _unwritable:  # an op and each of its kernels come here
            _unwritable.add(root)
            _log.warning(
                "the cache folder %s cannot be written (%s): "
                "building in %s; ATTNLANG_CACHE_DIR moves it",
                root,
                error.strerror,
                fallback.root,
            )
        try:
            fallback.prepare()
        except OSError as second:
            raise _disk_error(second, fallback) from second
        return fallback
    return store


def _fallback_root() -> Path:
    """Return a folder below the temporary one that this user alone can write, kept if possible."""
    root = Path(tempfile.gettempdir()) / f"attnlang-{os.getuid()}"
    with contextlib.suppress(OSError):
        root.mkdir(mode=0o700, exist_ok=True)
        stat = root.lstat()
        private = stat.st_uid == os.getuid() and not stat.st_mode & 0o022
        if private and root.is_dir() and not root.is_symlink():
            return root
    return Path(tempfile.mkdtemp(prefix="attnlang-"))


def _disk_error(error: OSError, store: Store) -> BuildError:
    if error.errno in _FULL:
        return _full_disk(store)
    return BuildError(
        f"the cache folder {store.root} fails: {error}",
        help="set ATTNLANG_CACHE_DIR to a folder that can be written",
    )


def _full_disk(store: Store) -> BuildError:
    return BuildError(
        f"no space left on the disk of the cache folder {store.root}",
        help="free some space (`attnlang cache clear` empties the cache), "
        "or set ATTNLANG_CACHE_DIR to a folder on another disk",
    )


def _build_error(recipe: Recipe, output: str, store: Store) -> BuildError:
    if any(text in output for text in _FULL_TEXTS):
        return _full_disk(store)
    log = store.write_log(recipe.key, output)
    summary = f"{recipe.sources.name} does not build: {first_error(output)}"
    help = ""
    if "Killed" in output or "terminated program" in output:
        help = "the compiler was killed, perhaps for want of memory: set ATTNLANG_JOBS to 1"
    return BuildError(summary, command=_failed_command(output), log=log, help=help)


def first_error(output: str) -> str:
    """Return the first real error that a compiler or linker printed, in one line."""
    if found := _ERROR.search(output):
        return f"{found['where']}: {found['what']}"
    for pattern in (_UNDEFINED, _LINKER_ERROR, _DRIVER_ERROR):
        if found := pattern.search(output):
            return found[0].strip()
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "ninja failed and printed nothing"


def _failed_command(output: str) -> str | None:
    lines: Iterator[str] = iter(output.splitlines())
    for line in lines:
        if line.startswith("FAILED:"):
            return next(lines, None)
    return None


def _say(line: str) -> None:
    print(f"attnlang: {line}", file=sys.stderr, flush=True)


def _be_silent(line: str) -> None:
    del line
