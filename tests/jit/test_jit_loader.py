import subprocess
import sys

import pytest

from attnlang.jit.build import build
from attnlang.jit.cache import MANIFEST, Manifest
from attnlang.jit.errors import BuildError
from attnlang.jit.loader import load
from attnlang.jit.units import Sources, Target, Unit


def change_manifest(path, **fields):
    from dataclasses import replace

    file = path.parent / MANIFEST
    file.write_text(replace(Manifest.read(file), **fields).to_json())


def test_an_object_is_loaded_once(answer):
    path = build(answer())
    assert load(path) is load(path)


def test_a_missing_cpu_feature_is_named(answer):
    path = build(answer())
    change_manifest(path, cpu_features=("avx2", "avx1024f"))
    with pytest.raises(BuildError, match="lacks: avx1024f"):
        load(path)


def test_another_machine_is_named(answer):
    path = build(answer())
    change_manifest(path, machine="s390x")
    with pytest.raises(BuildError, match="is code for s390x"):
        load(path)


def test_native_code_records_what_it_needs(answer):
    manifest = Manifest.read(build(answer()).parent / MANIFEST)
    from attnlang.jit.cpu import this_cpu

    assert manifest.cpu_features
    assert this_cpu().missing(manifest.cpu_features) == ()


def test_portable_code_needs_nothing_special(answer, monkeypatch):
    monkeypatch.setenv("ATTNLANG_CPU", "portable")
    manifest = Manifest.read(build(answer()).parent / MANIFEST)
    assert "avx" not in manifest.cpu_features


def test_a_missing_entry_point_is_named():
    unit = Unit("a.cpp", 'extern "C" int answer() { return 1; }\n')
    path = build(Sources("entry", Target.CPU, (unit,), ("answer", "question")))
    with pytest.raises(BuildError, match="does not export question"):
        load(path)


def test_an_object_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(BuildError, match="no manifest"):
        load(tmp_path / "x.so")


def test_an_object_that_calls_torch_waits_for_torch(answer):
    path = build(answer())
    change_manifest(path, torch=True)
    program = (
        f"from attnlang.jit.loader import load; from pathlib import Path; load(Path({str(path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "calls torch, which is not imported" in done.stderr
