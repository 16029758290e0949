"""Threads: as many as torch has, one result whatever their number, and none to wait for after fork.

Each runs in a process of its own: a pool of threads, once made, cannot be unmade.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

TWO_THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}

# The calls of a causal variant, of another one, and the number of threads of this process.
PRELUDE = """
import os, signal, sys, threading
import torch
import attnlang
causal = attnlang.load("examples/causal.attn")
window = attnlang.load("examples/sliding_window.attn")
g = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, 1, 4, 700, 64, generator=g)

def spent():
    tasks = os.listdir("/proc/self/task")
    return {t: int(open(f"/proc/self/task/{t}/schedstat").read().split()[0]) for t in tasks}

def workers(call):
    "How many threads of this process work on a call."
    before = spent()
    for _ in range(20):
        call()
    grown = [ns - before.get(t, 0) for t, ns in spent().items()]
    return sum(ns > 0.1 * sum(grown) for ns in grown)
"""


def run(script: str, **environment: str) -> str:
    """Run a script in a fresh interpreter; it must end in time and print what is returned."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **TWO_THREADS, **environment}, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_number_of_threads_is_torchs():
    script = """
results = []
for threads in (1, 2, 1):
    torch.set_num_threads(threads)
    results.append(causal(q, k, v))
    print(workers(lambda: causal(q, k, v)))
print(all(torch.equal(r, results[0]) for r in results))
"""
    assert run(script) == "1\n2\n1\nTrue\n"


def test_a_forked_child_calls_a_kernel_that_it_has_and_one_that_it_loads():
    script = """
wanted = causal(q, k, v), window(q, k, v, window_size=9)
fresh = attnlang.loads("attention fresh:\\n mask = sliding_window(9)")
fresh_op = fresh.specialised((), frozenset())
fresh_op.op
fresh_op.build_kernel(fresh.kernel_key(q, 64, {}))  # on the disk, not loaded
sys.stdout.flush()
torch.matmul(torch.ones(600, 600), torch.ones(600, 600))  # torch's pool is in use too
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    found = causal(q, k, v), fresh(q, k, v)
    # torch's own loops would wait for threads that stayed in the parent
    same = [(a.numpy() == b.numpy()).all() for a, b in zip(found, wanted)]
    os._exit(0 if all(same) else 3)
print(os.waitpid(pid, 0)[1])
"""
    assert run(script) == "0\n"


def test_a_program_that_a_child_starts_is_no_forked_child():
    script = """
if len(sys.argv) > 1:
    print(workers(lambda: causal(q, k, v)))
    sys.exit()
causal(q, k, v)
sys.stdout.flush()
if os.fork() == 0:
    os.execv(sys.executable, [sys.executable, "-c", os.environ["SCRIPT"], "again"])
print(os.wait()[1])
"""
    assert run(script, SCRIPT=PRELUDE + script) == "2\n0\n"


def test_workers_of_a_data_loader():
    script = """
wanted = causal(q, k, v)

class Calls(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, i):
        return i, causal(q, k, v)

loader = torch.utils.data.DataLoader(Calls(), batch_size=None, num_workers=2, timeout=120,
                                     multiprocessing_context="fork")
found = list(loader)
print(sorted(int(i) for i, _ in found), all(torch.equal(out, wanted) for _, out in found))
print(torch.equal(causal(q, k, v), wanted))
"""
    assert run(script) == "[0, 1, 2, 3, 4, 5] True\nTrue\n"


@pytest.mark.parametrize("threads", [1, 2])
def test_several_python_threads_at_once_and_torch_beside_them(threads):
    script = f"""
torch.set_num_threads({threads})
wanted = causal(q, k, v), window(q, k, v, window_size=9)
product = torch.randn(300, 300, generator=g)
square = product @ product
wrong = []

def work(number):
    for turn in range(8):
        match (number + turn) % 3:
            case 0:
                same = torch.equal(causal(q, k, v), wanted[0])
            case 1:
                same = torch.equal(window(q, k, v, window_size=9), wanted[1])
            case _:
                same = torch.allclose(product @ product, square, atol=1e-3)
        if not same:
            wrong.append(number)

workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for w in workers:
    w.start()
for w in workers:
    w.join(200)
print(wrong, any(w.is_alive() for w in workers))
"""
    assert run(script) == "[] False\n"


def test_a_first_call_from_several_threads_builds_once():
    script = """
fresh = attnlang.loads("attention fresh:\\n mask = sliding_window(11)")
barrier, results = threading.Barrier(4), []

def work():
    barrier.wait()
    results.append(fresh(q, k, v))

workers = [threading.Thread(target=work) for _ in range(4)]
for w in workers:
    w.start()
for w in workers:
    w.join(200)
print(len(results), all(torch.equal(r, results[0]) for r in results))
"""
    assert run(script) == "4 True\n"
