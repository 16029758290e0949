"""The cache of built objects: folders under a root, each complete or not there.

    <root>/units/<key>/   the object, its sources, and `manifest.json` with the object's checksum
    <root>/tmp/           folders of builds and writes under way; those of killed ones are swept
    <root>/logs/          the full logs of failed builds
    <root>/locks/         one file a key, so that many processes build a key once
    <root>/memo/          files: what the compiler made of specs before (`memo.py`); those that no
                          process read for a month are swept

Invariant: an entry appears by one rename of a folder whose files are on the disk, and a kept result
by one of a file, so a reader needs no lock, and whatever kills a build leaves only a folder in
`tmp`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from attnlang.options import options

_log = logging.getLogger("attnlang.jit")

MANIFEST = "manifest.json"
MEMO = "memo"
_DAY = 24 * 3600.0
_STALE_SECONDS = _DAY  # of a folder in `tmp` whose maker cannot be asked for
_UNREAD_SECONDS = 30 * _DAY  # of a kept result


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a built object; lies beside it as JSON."""

    library: str
    sha256: str
    entry_points: tuple[str, ...]
    torch: bool  # loads only where libtorch is loaded
    machine: str
    cpu_features: tuple[str, ...]  # that its code needs
    compiler: str
    seconds: float  # that the build took

    def to_json(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @staticmethod
    def read(path: Path) -> Manifest:
        """Read a manifest. Raises OSError, or ValueError for one that is damaged."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            fields["entry_points"] = tuple(fields["entry_points"])
            fields["cpu_features"] = tuple(fields["cpu_features"])
            return Manifest(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"fields are missing: {error}") from error


@dataclass(frozen=True, slots=True)
class Entry:
    """A complete entry."""

    library: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Damaged:
    """An entry that is there but is not what was built."""

    reason: str


@dataclass(frozen=True, slots=True)
class Info:
    """What the cache holds."""

    path: Path
    entries: int
    results: int  # kept ones of the compiler
    bytes: int

    def __str__(self) -> str:
        return f"{self.path}\n{self.held}"

    @property
    def held(self) -> str:
        """What there is, in words."""
        size = f"{self.bytes / 2**20:.1f} MiB"
        return f"{self.entries} built objects, {self.results} kept results, {size}"


class Store:
    """A cache folder."""

    root: Path

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Entry | Damaged | None:
        """Look an entry up and compare the object with its checksum."""
        folder = self.root / "units" / key
        if not folder.is_dir():
            return None
        try:
            manifest = Manifest.read(folder / MANIFEST)
            library = folder / manifest.library
            content = library.read_bytes()
        except (OSError, ValueError) as error:
            return Damaged(str(error))
        if hashlib.sha256(content).hexdigest() != manifest.sha256:
            return Damaged(f"{library.name} is not what was built: its checksum differs")
        return Entry(library, manifest)

    def prepare(self) -> None:
        """Make the store's folders and see that they can be written. Raises OSError."""
        for name in ("units", "tmp", "logs", "locks"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.root / "tmp"):
            pass

    @contextlib.contextmanager
    def lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the key's lock; it ends with the process, however that ends.

        `on_wait` is called once where another process holds it.
        Where the file system has no locks two processes may build one key, which is harmless.
        """
        import filelock  # here, for it costs 50 ms that finding an entry need not pay

        lock = filelock.FileLock(self.root / "locks" / f"{key}.lock")
        try:
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                on_wait()
                lock.acquire()
        except (OSError, NotImplementedError) as error:
            _log.info("no lock for %s: %s", key, error)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def stage(self, key: str) -> Iterator[Path]:
        """Lend a private folder in the store's file system; what is left of it is removed."""
        prefix = f"{_origin()}.{os.getpid()}.{key[-12:]}."
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self.root / "tmp"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, key: str, manifest: Manifest) -> Entry:
        """Make a staged folder the entry of its key, durably and at once. Raises OSError."""
        (staged / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        for path in (staged / manifest.library, staged / MANIFEST, staged):
            _sync(path)
        staged.chmod(0o755)
        final = self.root / "units" / key
        try:
            staged.rename(final)
        except OSError:
            if not isinstance(self.find(key), Entry):  # else another process was faster
                raise
        _sync(final.parent)
        return Entry(final / manifest.library, manifest)

    def remove(self, key: str) -> None:
        """Remove an entry; a process that has its object loaded keeps it."""
        with self.stage(key) as aside, contextlib.suppress(FileNotFoundError):
            (self.root / "units" / key).rename(aside / "removed")

    def write_log(self, key: str, text: str) -> Path | None:
        """Keep the log of a failed build; None where it cannot be written."""
        path = self.root / "logs" / f"{key}.log"
        try:
            path.write_text(text, encoding="utf-8")
        except OSError:
            return None
        return path

    def read_result(self, name: str) -> bytes:
        """Return a kept result, which counts as read today. Raises OSError."""
        path = self.root / MEMO / name
        content = path.read_bytes()
        with contextlib.suppress(OSError):  # another user's, or a disk that cannot be written
            if time.time() - path.stat().st_mtime > _DAY:
                os.utime(path)
        return content

    def keep_result(self, name: str, content: bytes) -> None:
        """Write a kept result at once: a reader sees all of it or none. Raises OSError."""
        for needed in (MEMO, "tmp"):
            (self.root / needed).mkdir(parents=True, exist_ok=True)
        with self.stage(name) as folder:
            path = folder / name
            path.write_bytes(content)
            path.chmod(0o644)
            path.replace(self.root / MEMO / name)

    def sweep(self) -> None:
        """Remove what killed builds left in `tmp`, and results that nobody reads."""
        for folder in (self.root / "tmp").iterdir():
            if _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
        for result in _entries(self.root / MEMO):
            with contextlib.suppress(OSError):
                if time.time() - result.stat().st_mtime > _UNREAD_SECONDS:
                    result.unlink()

    def info(self) -> Info:
        """Count the entries, the kept results and all bytes under the root."""
        entries, results = (len(_entries(self.root / name)) for name in ("units", MEMO))
        return Info(self.root, entries, results, _bytes_below(self.root))

    def clear(self) -> Info:
        """Remove everything, and return what there was."""
        before = self.info()
        for name in ("units", "tmp", "logs", "locks", MEMO):
            shutil.rmtree(self.root / name, ignore_errors=True)
        return before


def info() -> Info:
    """Return what the cache that the options name holds."""
    return Store(options().cache_dir).info()


def clear() -> Info:
    """Empty the cache that the options name, and return what it held."""
    return Store(options().cache_dir).clear()


@functools.cache
def _origin() -> str:
    """Name the space in which a process id means something: this boot's, and this container's."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        boot, space = socket.gethostname(), ""
    return hashlib.sha256((boot + space).encode()).hexdigest()[:12]


def _is_abandoned(folder: Path) -> bool:
    origin, _, rest = folder.name.partition(".")
    pid = rest.partition(".")[0]
    try:
        age = time.time() - folder.stat().st_mtime
    except OSError:
        return False
    dead = origin == _origin() and pid.isdecimal() and not _is_alive(int(pid))
    return dead or age > _STALE_SECONDS


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _bytes_below(root: Path) -> int:
    total = 0
    for path in root.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                total += path.stat().st_size
    return total
