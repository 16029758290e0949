"""`attnlang build`: objects that register an op in a process that never imports attnlang."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import attnlang
from attnlang.cli.files import choose
from attnlang.emit.aot_unit import aot_sources
from attnlang.emit.op_schema import op_name
from attnlang.jit.cpu import MACROS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# Loads objects and calls their op on tensors from a file; attnlang cannot be imported there.
CLIENT = """
import json, sys
sys.modules["attnlang"] = None
import torch
from safetensors.torch import load_file, save_file
job = json.loads(sys.argv[1])
for path in job["objects"]:
    torch.ops.load_library(path)
op = getattr(torch.ops.attnlang, job["op"])
tensors = load_file(job["inputs"])
named = {n: tensors.pop(n) for n in job["named"]}
out, lse = op(*(tensors[n] for n in "qkv"), **named, **job["numbers"], return_lse=True)[:2]
save_file({"out": out, "lse": lse}, job["outputs"])
"""


def built(cli, name, folder, *args):
    done = cli("build", EXAMPLES / f"{name}.attn", "-o", folder, "--cpu", "x86-64-v3", *args)
    assert (done.code, done.err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert Path(rows["object"]) == folder / f"{name}.so"
    assert rows["op"].startswith(f"torch.ops.attnlang.{name}_")
    return Path(rows["object"]), rows["op"].rpartition(".")[2]


def client(tmp_path, objects, op, tensors, named=(), **numbers):
    """Run the op in another process; returns its result, or what it said against it."""
    inputs, outputs = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, inputs)
    job = {
        "objects": [str(o) for o in objects],
        "op": op,
        "inputs": str(inputs),
        "outputs": str(outputs),
        "named": list(named),
        "numbers": numbers,
    }
    command = [sys.executable, "-c", CLIENT, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    return load_file(outputs) if done.returncode == 0 else done.stderr


def vectors(dtype, d=64):
    torch.manual_seed(1)
    return {
        "q": torch.randn(2, 4, 70, d, dtype=dtype),
        "k": torch.randn(2, 2, 91, d, dtype=dtype),
        "v": torch.randn(2, 2, 91, d, dtype=dtype),
    }


def test_an_object_works_without_attnlang(cli, tmp_path):
    path, op = built(cli, "gemma2_local", tmp_path / "new" / "folder", "--head-dim", "64")
    tensors = vectors(torch.float32)
    got = client(tmp_path, [path], op, tensors, cap=20.0, window_size=33)
    assert isinstance(got, dict), got
    variant = attnlang.load(EXAMPLES / "gemma2_local.attn")
    assert variant.op._schema.name == f"attnlang::{op}"  # the same op as a loaded variant's
    doubles = (t.double() for t in tensors.values())
    out, lse = variant.reference(*doubles, cap=20.0, window_size=33, return_lse=True)
    torch.testing.assert_close(got["out"].double(), out, atol=2e-5, rtol=0)
    torch.testing.assert_close(got["lse"].double(), lse.double(), atol=2e-5, rtol=0)


def test_an_object_runs_packed_calls_too(cli, tmp_path):
    path, op = built(cli, "sliding_window", tmp_path, "--head-dim", "32")
    dense = vectors(torch.float32, 32)
    lengths = ((0, 50), (50, 50), (50, 70)), ((0, 60), (60, 70), (70, 91))  # one without a query
    rows = {n: x[0].transpose(0, 1).contiguous() for n, x in dense.items()}
    for name, spans in zip(("q_indptr", "kv_indptr"), lengths, strict=True):
        rows[name] = torch.tensor([0, *(end for _, end in spans)])
    got = client(tmp_path, [path], f"{op}_packed", rows, ["q_indptr", "kv_indptr"], window_size=9)
    assert isinstance(got, dict), got
    variant = attnlang.load(EXAMPLES / "sliding_window.attn")
    for (q0, q1), (k0, k1) in zip(*lengths, strict=True):
        parts = (dense["q"][:1, :, q0:q1], dense["k"][:1, :, k0:k1], dense["v"][:1, :, k0:k1])
        own = variant.reference(*(x.double() for x in parts), window_size=9)
        torch.testing.assert_close(
            got["out"][q0:q1].double(), own[0].transpose(0, 1), atol=2e-5, rtol=0
        )


def test_objects_of_two_dtypes_share_the_op(cli, tmp_path):
    common = ("--head-dim", "32", "--param-dtype", "slopes=bf16")
    single, op = built(cli, "alibi", tmp_path / "f32", *common)
    half, same = built(cli, "alibi", tmp_path / "bf16", *common, "--dtype", "bf16")
    assert op == same
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.bfloat16)
    variant = attnlang.load(EXAMPLES / "alibi.attn")
    for dtype, bar in ((torch.float32, 3e-5), (torch.bfloat16, 2e-2)):
        tensors = vectors(dtype, 32)
        expected = variant.reference(*(t.double() for t in tensors.values()), slopes.double())
        got = client(tmp_path, [single, half], op, {**tensors, "slopes": slopes}, ["slopes"])
        assert isinstance(got, dict), got
        torch.testing.assert_close(got["out"].double(), expected, atol=bar, rtol=0)
    words = client(
        tmp_path, [single], op, {**vectors(torch.float16, 32), "slopes": slopes}, ["slopes"]
    )
    assert "no kernel for these dtypes and head dims" in words


def test_a_loaded_object_serves_attnlang_too(cli, tmp_path, monkeypatch):
    """Just in time and ahead of time in one process: no second kernel is needed."""
    path, op = built(cli, "causal", tmp_path, "--head-dim", "48")
    script = f"""
import torch
torch.ops.load_library({str(path)!r})
import attnlang
from attnlang.ops.specialised import Specialised
variant = attnlang.load({str(EXAMPLES / "causal.attn")!r})
q = torch.randn(1, 2, 70, 48)
first = getattr(torch.ops.attnlang, {op!r})(q, q, q)[0]
torch.testing.assert_close(variant(q, q, q), first, atol=0, rtol=0)
half = q.bfloat16()
assert variant(half, half, half).dtype == torch.bfloat16
print("served")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "served\n", done.stderr


def test_a_cpu_without_the_features_is_told_so(cli, tmp_path, monkeypatch):
    """The object names what it needs; here it is made to need what no CPU has."""
    from attnlang.emit import aot_unit

    monkeypatch.setattr(aot_unit, "MACROS", {**MACROS, "__SSE2__": "warp_drive"})
    path, op = built(cli, "full", tmp_path, "--head-dim", "16")
    words = client(tmp_path, [path], op, vectors(torch.float32, 16))
    assert "CPU features that this machine lacks: warp_drive" in words


def test_the_object_needs_no_python_and_holds_no_path_of_its_builder(cli, tmp_path):
    path, _ = built(cli, "causal", tmp_path, "--head-dim", "48")  # as above: built once
    content = path.read_bytes()
    assert b"libtorch_cpu.so" in content
    assert b"libpython" not in content
    assert b"libtorch_python" not in content
    assert str(EXAMPLES.parent).encode() not in content
    assert sys.prefix.encode() not in content


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--head-dim", "0"), "--head-dim: expected D or D,DV, found 0"),
        (("--head-dim", "577"), "--head-dim: expected 1 to 576, found 577"),
        (("--head-dim", "64,9999"), "--head-dim: expected 1 to 576, found 64,9999"),
        (("--head-dim", "9" * 5000), f"--head-dim: expected 1 to 576, found {'9' * 40}..."),
        (("--head-dim", "64,"), "--head-dim: expected D or D,DV, found 64,"),
        (("--param-dtype", "slope=f32"), "alibi has no tensor slope; it has: slopes"),
        (("--param-dtype", "slopes=i32"), "slopes takes f32, f64, f16, bf16; found i32"),
        (("--param-dtype", "slopes"), "slopes takes f32, f64, f16, bf16; found slopes"),
        (("--given", "slopes"), "alibi has no optional tensor slopes"),
        (("--set", "cap=3"), "alibi has no parameter cap"),
        (("--target", "sm75"), "invalid choice: 'sm75'"),
    ],
)
def test_what_cannot_be_built_is_refused(cli, tmp_path, args, words):
    done = cli("build", EXAMPLES / "alibi.attn", "-o", tmp_path / "out", *args)
    assert done.code == 1
    assert words in done.err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder_is_refused(cli, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = cli("build", EXAMPLES / "full.attn", "-o", tmp_path / "file")
    assert done.code == 1
    assert "--output" in done.err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_const_parameter_is_baked_in(cli, spec, tmp_path):
    path = spec("attention c(const w: int): mask = sliding_window(w)")
    assert "(--set)" in cli("build", path, "-o", tmp_path).err
    done = cli("build", path, "-o", tmp_path, "--set", "w=3", "--head-dim", "16")
    assert done.code == 0, done.err
    variant = choose(path, None).variant
    found = done.out.split("torch.ops.attnlang.")[1].split()[0]
    assert found == op_name(variant, {"w": 3}, frozenset())
    assert found != op_name(variant, {"w": 4}, frozenset())
    assert done.err == ""


def test_a_value_that_each_call_passes_is_no_part_of_an_object(cli, tmp_path):
    options = ("-o", tmp_path, "--head-dim", "16", "--set", "cap=3")
    done = cli("build", EXAMPLES / "soft_cap.attn", *options)
    assert done.code == 0
    assert done.err == "warning: --set: each call passes cap: the object holds no value\n"


def test_features_are_named_once():
    """The features' unit names each feature under the macro that promises it."""
    from attnlang.compiler import lower, plan
    from attnlang.plan.kernel_key import KernelKey

    variant = choose(EXAMPLES / "full.attn", None).variant
    planned = plan(lower(variant, {}, frozenset()), KernelKey("f32", 16, 16, ()))
    units = {u.name: u.text for u in aot_sources(planned, "full_0").units}
    assert sorted(units) == [
        "binding.cpp", "built_in.cpp", "features.cpp", "kernel.cpp", "op.cpp", "packed.cpp"
    ]  # fmt: skip
    for macro, feature in MACROS.items():
        assert f'#ifdef {macro}\n    "{feature} "\n' in units["features.cpp"]
