import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from processes import environment
from torch._dynamo.testing import CompileCounter
from toy_op import build_kernel, scalar, toy, variant

from attnlang.emit.aot_unit import aot_op_units
from attnlang.emit.op_unit import op_sources
from attnlang.ir.nodes import Kind
from attnlang.jit.build import build
from attnlang.jit.errors import BuildError
from attnlang.jit.loader import load
from attnlang.jit.units import Sources, Target
from attnlang.ops.torch_op import TorchOp, is_registered
from attnlang.plan.kernel_key import KernelKey

TOY = "toy_0123456789ab"
PLAIN = "plain_0123456789ab"
UNBUILDABLE = 13  # a head dim
ELEMENTS = {"f32": "float", "f64": "double", "f16": "_Float16"}


class Builder:
    """Builds the toy kernel and remembers for which keys."""

    def __init__(self, scalars: int = 3) -> None:
        self.keys: list[KernelKey] = []
        self.scalars = scalars

    def __call__(self, key: KernelKey) -> Path:
        if key.head_dim == UNBUILDABLE:
            raise BuildError("the toolchain is on holiday")
        self.keys.append(key)
        return build_kernel(ELEMENTS[key.dtype], scalars=self.scalars)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def builder():
    return Builder()


def ahead_of_time(ir, name):
    """An object that registers the op by itself, and has no kernel."""
    return Sources(f"{name}_aot", Target.CPU, aot_op_units(ir, name, []), ())


@pytest.fixture(scope="module")
def op(builder):
    return TorchOp.register(toy(), TOY, build(op_sources(toy(), TOY)), builder)


@pytest.fixture
def call():
    return Arguments()


@pytest.fixture(scope="module")
def plain_checks():
    return []


@pytest.fixture(scope="module")
def plain(plain_checks):
    """An op that an ahead-of-time object registered before: its own object is never loaded."""
    ir = variant("plain", scalar("x", Kind.FLOAT, 0.0))
    assert not is_registered(PLAIN)
    load(build(ahead_of_time(ir, PLAIN)))
    assert is_registered(PLAIN)
    call = Arguments()
    with pytest.raises(RuntimeError, match="no kernel for these dtypes"):
        getattr(torch.ops.attnlang, PLAIN)(*call.qkv)

    def check(schema, arguments):
        plain_checks.append(set(arguments))
        if arguments["q"].shape[2] == 3:
            raise ValueError("three rows are too few")

    return TorchOp.register(ir, PLAIN, Path("/nowhere.so"), Builder(scalars=0), check=check)


class Arguments:
    """The arguments of a call: B 2, HQ 4, HKV 2, Q 5, KV 7, D 8, DV 16, R 2."""

    def __init__(self, dtype=torch.float32, q_len=5, kv_len=7, d=8):
        torch.manual_seed(0)
        self.q = torch.randn(2, 4, q_len, d, dtype=dtype)
        self.k = torch.randn(2, 2, kv_len, d, dtype=dtype)
        self.v = torch.randn(2, 2, kv_len, 2 * d, dtype=dtype)
        self.table = torch.randn(4, 5)

    @property
    def qkv(self):
        return self.q, self.k, self.v

    def expected(self, scale=None, cap=50.0, n=3, flag=True, q=None):
        q = self.q if q is None else q
        scale = scale or q.shape[3] ** -0.5
        add = cap + 10 * n + 100 * flag + 1000 * 2 + self.table[:, :1, None].double()
        return torch.cat([q, q], -1).double() * scale + add


def close(actual, expected):
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-3)


def test_defaults(op, call):
    out, lse, _ = op.overload(*call.qkv, table=call.table)
    close(out, call.expected())
    assert lse.shape == (0,)
    assert lse.dtype == torch.float32


def test_numbers(op, call):
    out, *_ = op.overload(*call.qkv, 1.5, table=call.table, n=-4, flag=False, scale=0.25)
    close(out, call.expected(0.25, 1.5, -4, False))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_floats_as_tensors(op, call, dtype):
    tensors = {"cap_t": torch.tensor(1.5, dtype=dtype), "scale_t": torch.tensor(0.25, dtype=dtype)}
    out, *_ = op.overload(*call.qkv, table=call.table, **tensors)
    close(out, call.expected(0.25, 1.5))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_ints_and_bools_as_tensors(op, call, dtype):
    tensors = {"n_t": torch.tensor(5, dtype=dtype), "flag_t": torch.tensor(False)}
    out, *_ = op.overload(*call.qkv, table=call.table, **tensors)
    close(out, call.expected(n=5, flag=False))


def lse_value(q_offset, kv_offset, kv_lens, seed=0):
    columns = [q_offset, kv_offset, kv_lens]
    q, kv, lens = (torch.as_tensor(x).expand(2).double() for x in columns)
    value = q + 1000 * kv + 10**6 * lens + 10**7 * seed
    return value[:, None, None].expand(2, 4, 5)


def test_offsets_lengths_and_seed(op, call):
    def lse(**kwargs):
        return op.overload(*call.qkv, table=call.table, return_lse=True, **kwargs)[1].double()

    i32, i64 = torch.int32, torch.int64
    torch.testing.assert_close(lse(), lse_value(2, 0, 7))
    torch.testing.assert_close(lse(kv_offset=3), lse_value(5, 3, 7))
    torch.testing.assert_close(lse(q_offset=-9, seed=2), lse_value(-9, 0, 7, 2))
    lens = torch.tensor([3, 0, 6, 0], dtype=i32)[::2]  # strided
    torch.testing.assert_close(lse(kv_lens=lens), lse_value([-2, 1], 0, [3, 6]))
    offsets = {
        "q_offset_t": torch.tensor([4, 5], dtype=i64),
        "kv_offset_t": torch.tensor([6, 7], dtype=i32),
    }
    torch.testing.assert_close(lse(**offsets), lse_value([4, 5], [6, 7], 7))
    torch.testing.assert_close(lse(q_offset_t=torch.tensor(8)), lse_value(8, 0, 7))


def test_tiles(op, call):
    assert op.tiles(*call.qkv, table=call.table).tolist() == [1, 2, 3, 5, 7]


def test_the_output_lies_as_q_does(op, call):
    out, *_ = op.overload(*call.qkv, table=call.table)
    assert out.is_contiguous()
    transposed = call.q.transpose(1, 2).contiguous().transpose(1, 2)
    out, *_ = op.overload(transposed, call.k, call.v, table=call.table)
    assert out.transpose(1, 2).is_contiguous()
    close(out, call.expected())


@pytest.mark.parametrize(
    "strided",
    [
        lambda q: q[:, :, :1].expand(2, 4, 5, 8),
        lambda q: q[:, :1].expand(2, 4, 5, 8),
        lambda q: torch.cat([q, q], 3)[..., ::2],
        lambda q: q.mT.contiguous().mT,
        lambda q: q[:, :, :0],
        lambda q: q[:0],
    ],
)
def test_strides_and_empty_tensors(op, call, strided):
    q = strided(call.q)
    k, v = call.k[: len(q)], call.v[: len(q)]
    out, lse, _ = op.overload(q, k, v, table=call.table, return_lse=True)
    close(out, call.expected(q=q))
    assert lse.shape == q.shape[:3]


def test_no_keys(op, call):
    k, v = call.k[:, :, :0], call.v[:, :, :0]
    out, *_ = op.overload(call.q, k, v, table=call.table, doc=torch.ones(2, 0, dtype=torch.int64))
    close(out, call.expected())


MISTAKES = {
    "k's batch": (lambda c: {"k": c.k[:1]}, "`k`: expected shape"),
    "v's length": (lambda c: {"v": c.v[:, :, :3]}, "`v`: expected shape"),
    "k's head dim": (lambda c: {"k": c.k[..., :4]}, "`k`: expected shape"),
    "k's dtype": (lambda c: {"k": c.k.half()}, "`k`: expected the dtype of q"),
    "v's dtype": (lambda c: {"v": c.v.half()}, "`v`: expected the dtype of k"),
    "q's heads": (lambda c: {"q": c.q[:, :3]}, "`q`: expected a multiple of the 2 heads"),
    "q's rank": (lambda c: {"q": c.q[0]}, "`q`: expected 4 dimensions"),
    "complex q": (lambda c: {"q": c.q.to(torch.complex64)}, "a dtype that no kernel reads"),
    "an even table": (lambda c: {"table": c.table[:, :4]}, "`table`: dimension 1 cannot be 4"),
    "an empty table": (lambda c: {"table": c.table[:, :0]}, "`table`: dimension 1 cannot be 0"),
    "a short table": (lambda c: {"table": c.table[:3]}, "`table`: expected 4 in dimension 0"),
    "an int table": (lambda c: {"table": c.table.long()}, "`table`: a dtype of another kind"),
    "a flat table": (lambda c: {"table": c.table[0]}, "`table`: expected 2 dimensions"),
    "a long doc": (
        lambda c: {"doc": torch.ones(2, 8, dtype=torch.int64)},
        "`doc`: expected 7 in dimension 1, found 8",
    ),
    "a far offset": (lambda c: {"q_offset": 2**30}, "`q_offset`: expected an offset below"),
    "a far offset of one request": (
        lambda c: {"kv_offset_t": torch.tensor([1, -(2**30)])},
        "`kv_offset`: expected an offset below",
    ),
    "3 offsets": (lambda c: {"q_offset_t": torch.arange(3)}, "`q_offset_t`: expected one integer"),
    "int8 lengths": (
        lambda c: {"kv_lens": torch.ones(2, dtype=torch.int8)},
        "`kv_lens`: expected int32 or int64",
    ),
    "two caps": (lambda c: {"cap_t": torch.ones(2)}, "`cap_t`: expected a tensor of one number"),
    "a float n": (lambda c: {"n_t": torch.tensor(2.5)}, "`n_t`: expected a tensor of one integer"),
    "the kernel's own": (lambda c: {"cap": -1.0}, f"{TOY}: cap is negative"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_raise(op, call, mistake):
    make, message = MISTAKES[mistake]
    arguments = {"q": call.q, "k": call.k, "v": call.v, "table": call.table, **make(call)}
    with pytest.raises(RuntimeError, match=message):
        op.overload(**arguments)


def test_errors_leak_nothing(op, call):
    """Every tensor of a failed call is let go, the allocated results too."""
    freed = []
    for _ in range(3):
        table = call.table.clone()
        weakref.finalize(table, freed.append, 1)
        with pytest.raises(RuntimeError, match="cap is negative"):
            op.overload(*call.qkv, -1.0, table=table, cap_t=torch.tensor(-1.0))
        del table
    gc.collect()
    assert freed == [1, 1, 1]


def test_a_kernel_is_built_when_a_bare_call_needs_it(op, builder):
    before = len(builder.keys)
    call = Arguments(torch.float16, d=24)
    out, *_ = op.overload(*call.qkv, table=call.table)
    assert builder.keys[before:] == [KernelKey("f16", 24, 48, ("f32", "none"))]
    torch.testing.assert_close(out.double(), call.expected(), rtol=1e-2, atol=2.0)
    op.overload(*Arguments(torch.float16, q_len=9, d=24).qkv, table=call.table)
    assert len(builder.keys) == before + 1


def test_the_key_has_the_tensors_dtypes(op, builder, call):
    before = len(builder.keys)
    doc = torch.ones(2, 7, dtype=torch.int8)
    op.overload(*call.qkv, table=call.table.double(), doc=doc)
    assert builder.keys[before:] == [KernelKey("f32", 8, 16, ("f64", "i8"))]


def test_a_failed_build_raises_with_its_words(op):
    call = Arguments(d=UNBUILDABLE)
    with pytest.raises(RuntimeError, match="BuildError: the toolchain is on holiday"):
        op.overload(*call.qkv, table=call.table)
    with pytest.raises(BuildError, match="the toolchain is on holiday"):
        op.ensure(KernelKey("f32", UNBUILDABLE, 26, ("f32", "none")), torch.device("cpu"))


def test_ops_side_by_side(op, plain, call):
    out, *_ = plain.overload(*call.qkv, scale=1.0)
    close(out, torch.cat([call.q, call.q], -1).double())
    close(op.overload(*call.qkv, table=call.table)[0], call.expected())


def test_registering_twice_gives_the_first(op):
    assert TorchOp.register(toy(), TOY, Path("/nowhere.so"), Builder()) is op


def test_a_second_copy_of_an_op_stands_back(op, call):
    """A just-in-time and an ahead-of-time copy meet: another object registers the same name."""
    load(build(ahead_of_time(toy(), TOY)))
    close(op.overload(*call.qkv, table=call.table)[0], call.expected())


def test_threads_build_a_kernel_once(op, builder):
    before = len(builder.keys)
    call = Arguments(d=40)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(op.overload(*call.qkv, table=call.table)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builder.keys) == before + 1
    assert len(results) == 8
    for out, *_ in results:
        close(out, call.expected())


def test_threads_call_at_once(op, call):
    failures = []

    def work(cap):
        for _ in range(50):
            out, *_ = op.overload(*call.qkv, cap, table=call.table)
            if not torch.allclose(out.double(), call.expected(cap=cap), atol=1e-2):
                failures.append(cap)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# torch.compile


@pytest.mark.parametrize("transposed", [False, True])
def test_opcheck(op, call, transposed):
    q = call.q.transpose(1, 2).contiguous().transpose(1, 2) if transposed else call.q
    kwargs = {"table": call.table, "cap_t": torch.tensor(2.0), "return_lse": True, "n": 4}
    torch.library.opcheck(op.overload, (q, call.k, call.v), kwargs)
    torch.library.opcheck(op.tiles, (q, call.k, call.v), {"table": call.table})


def test_a_cold_trace_builds_the_kernel(op, builder):
    call = Arguments(d=56)
    before = len(builder.keys)
    compiled = torch.compile(
        lambda q, k, v, t: op.overload(q * 2, k, v, table=t)[0] + 1,
        backend="aot_eager",
        fullgraph=True,
    )
    close(compiled(*call.qkv, call.table), call.expected(q=call.q * 2) + 1)
    assert len(builder.keys) == before + 1


def test_dynamic_shapes_build_nothing(op, builder):
    counter = CompileCounter()
    compiled = torch.compile(
        lambda q, k, v, t: op.overload(q, k, v, table=t, return_lse=True),
        backend=counter,
        fullgraph=True,
        dynamic=True,
    )
    call = Arguments(q_len=31, kv_len=41)  # equal sizes would share a symbol
    compiled(*call.qkv, call.table)
    before = len(builder.keys), counter.frame_count
    for q_len, kv_len in ((6, 9), (33, 12), (2, 40)):
        call = Arguments(q_len=q_len, kv_len=kv_len)
        out, lse, _ = compiled(*call.qkv, call.table)
        close(out, call.expected())
        assert lse.shape == (2, 4, q_len)
    assert (len(builder.keys), counter.frame_count) == before


def test_a_tensor_changes_its_value_without_recompiling(op, call):
    counter = CompileCounter()
    compiled = torch.compile(
        lambda q, k, v, t, cap: op.overload(q, k, v, table=t, cap_t=cap)[0],
        backend=counter,
        fullgraph=True,
    )
    for cap in (1.0, 2.0, 3.0):
        out = compiled(*call.qkv, call.table, torch.tensor(cap))
        close(out, call.expected(cap=cap))
    assert counter.frame_count == 1


def test_an_int_changes_its_value_without_rebuilding(op, builder, call):
    compiled = torch.compile(
        lambda q, k, v, t, n: op.overload(q, k, v, table=t, n=n, kv_offset=n)[0],
        backend="aot_eager",
        fullgraph=True,
        dynamic=True,
    )
    compiled(*call.qkv, call.table, 5)
    before = len(builder.keys)
    for n in (6, 7):
        close(compiled(*call.qkv, call.table, n), call.expected(n=n))
    assert len(builder.keys) == before


def test_the_check_hears_traced_calls(plain, plain_checks, call):
    compiled = torch.compile(
        lambda q, k, v: plain.overload(q, k, v)[0], backend="eager", fullgraph=True, dynamic=False
    )
    compiled(*call.qkv)
    assert {"q", "k", "v"} <= plain_checks[0]
    with pytest.raises(Exception, match="three rows are too few"):
        compiled(call.q[:, :, :3], call.k, call.v)


ARTIFACT = """
import sys
import torch
sys.path.insert(0, {tests!r})
from test_torch_op import Builder, TOY, Arguments, close
from toy_op import toy
from attnlang.emit.op_unit import op_sources
from attnlang.jit.build import build
from attnlang.ops.torch_op import TorchOp

op = TorchOp.register(toy(), TOY, build(op_sources(toy(), TOY)), Builder())
call = Arguments()
"""

EXPORT = """
class Module(torch.nn.Module):
    def forward(self, q, k, v, t):
        return op.overload(q * 2, k, v, table=t, return_lse=True)

program = torch.export.export(Module(), (*call.qkv, call.table))
torch.export.save(program, sys.argv[1])
"""

IMPORT = """
program = torch.export.load(sys.argv[1])
out, lse, _ = program.module()(*call.qkv, call.table)
close(out, call.expected(q=call.q * 2))
print("same", lse.shape)
"""

INDUCTOR = """
from torch._dynamo.utils import counters
compiled = torch.compile(
    lambda q, k, v, t: op.overload(q * 2, k, v, table=t)[0] + 1, fullgraph=True
)
close(compiled(*call.qkv, call.table), call.expected(q=call.q * 2) + 1)
print("same", "hits:", counters["inductor"]["fxgraph_cache_hit"], len(op._build_kernel.keys))
"""


def run_script(text: str, *args: str, **changes: str) -> str:
    script = ARTIFACT.format(tests=str(Path(__file__).parent)) + text
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        capture_output=True,
        text=True,
        env=environment(**changes),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_exported_program_runs_in_a_fresh_process(tmp_path):
    file = str(tmp_path / "program.pt2")
    run_script(EXPORT, file)
    assert "same torch.Size([2, 4, 5])" in run_script(IMPORT, file)


@pytest.mark.slow
def test_a_cached_compile_runs_in_a_fresh_process(tmp_path):
    inductor = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    assert "same hits: 0" in run_script(INDUCTOR, **inductor)
    assert "same hits: 1 1" in run_script(INDUCTOR, **inductor)
