import os

import pytest

from attnlang.jit import cache
from attnlang.jit.cache import Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    return store


def test_a_live_build_is_not_swept(store):
    with store.stage("key") as folder:
        store.sweep()
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        ("{origin}.999999999.key.x", 0, False),
        ("{origin}.{pid}.key.x", 0, True),
        ("{origin}.{pid}.key.x", 2 * 24 * 3600, False),  # its id serves another process now
        ("elsewhere.999999999.key.x", 0, True),  # another machine's process may live
        ("elsewhere.999999999.key.x", 2 * 24 * 3600, False),
        ("of no form", 0, True),
    ],
)
def test_what_a_sweep_removes(store, name, age, stays):
    folder = store.root / "tmp" / name.format(origin=cache._origin(), pid=os.getpid())
    folder.mkdir()
    then = folder.stat().st_mtime - age
    os.utime(folder, (then, then))
    store.sweep()
    assert folder.exists() == stays


def test_a_lock_tells_that_it_waits(store):
    import threading

    waited = threading.Event()
    done = threading.Event()

    def wait():
        with store.lock("key", waited.set):
            done.set()

    with store.lock("key", lambda: pytest.fail("nobody holds it")):
        thread = threading.Thread(target=wait)
        thread.start()
        assert waited.wait(10)
        assert not done.is_set()
    thread.join(10)
    assert done.is_set()


def test_an_empty_cache_has_nothing(tmp_path):
    info = Store(tmp_path / "none").info()
    assert (info.entries, info.bytes) == (0, 0)
    assert "0 built objects" in str(info)


def test_a_log_that_cannot_be_written_is_no_failure(tmp_path):
    assert Store(tmp_path / "none").write_log("key", "text") is None
