"""Works are run in turn and timed on both clocks; results say what was measured."""

import json
import time

import pytest

from attnlang.bench.case import OURS, PEAK, SDPA, Entry, Result, Target
from attnlang.bench.clock import Clock, Spread, Timing, interleave, spread
from attnlang.bench.machine import Watch, this_machine
from attnlang.bench.record import OtherMachineError, as_json, read_record, record_text


def test_works_take_turns_after_a_round_that_does_not_count():
    ran = []
    works = {name: lambda name=name: ran.append(name) for name in "abc"}
    timings = interleave(works, 1, 0.0, min_rounds=4)
    assert ran == list("abc") * 5
    assert all(t.wall.runs == t.cpu.runs == 4 for t in timings.values())


def test_waiting_is_wall_time_and_computing_is_cpu_time():
    def compute():
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass

    found = interleave({"wait": lambda: time.sleep(0.03), "compute": compute}, 2, 0.0)
    assert found["wait"].wall.median >= 0.03
    assert found["wait"].cpu.median < 0.01
    assert 0.015 <= found["compute"].cpu.median < 0.025  # of two threads, one idle
    assert found["compute"].on(Clock.WALL) == found["compute"].wall


def test_quartiles():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_what_this_process_computes_is_not_taken_by_others():
    watch = Watch()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    taken = watch.others()
    assert taken is None or 0.0 <= taken <= 1.0


def result(*targets, seconds):
    def entry(time, amount):
        return Entry(Timing(spread([time]), spread([2 * time])), amount)

    entries = {name: entry(time, 100.0) for name, time in seconds.items()}
    return Result(
        "case", "full", "float32", {"B": 1}, Clock.CPU, entries, {}, targets, 1.0, 1.0, None, 0.01
    )


def test_a_ratio_is_one_of_rates_and_one_target_of_several_is_enough():
    seconds = {OURS: 2.0, SDPA: 3.0, PEAK: 1.0}
    found = result(Target(SDPA, 1.4), seconds=seconds)
    assert found.rate(OURS) == 50.0
    assert found.ratio(SDPA) == 1.5
    assert found.ratio(PEAK) == 0.5
    assert found.ratio("flex") is None
    assert found.met is True
    assert result(Target(SDPA, 1.6), seconds=seconds).met is False
    assert result(Target(SDPA, 1.6), Target(PEAK, 0.5), seconds=seconds).met is True
    assert result(Target("flex", 1.0), seconds=seconds).met is None
    assert result(seconds=seconds).met is None


def test_a_file_grows_and_belongs_to_one_machine(tmp_path):
    machine, path = this_machine(), tmp_path / "out.json"
    assert read_record(path, machine) == {}
    found = as_json(result(Target(SDPA, 1.4), seconds={OURS: 2.0, SDPA: 3.0}))
    path.write_text(record_text(machine, {"b": found}))
    known = read_record(path, machine)
    path.write_text(record_text(machine, known | {"a": found}))
    content = json.loads(path.read_text())
    assert list(content["cases"]) == ["a", "b"]
    assert content["machine"]["cpu"] == machine.cpu
    assert content["cases"]["a"]["contenders"][SDPA]["ratio"] == 1.5
    assert content["cases"]["a"]["targets"] == [{"than": SDPA, "at_least": 1.4, "found": 1.5}]
    content["machine"]["cpu"] = "another"
    path.write_text(json.dumps(content))
    with pytest.raises(OtherMachineError):
        read_record(path, machine)
