"""Times: how often something runs, and how a duration is written."""

import time

import pytest

from attnlang.cli.measure import duration, measure


def test_quick_work_runs_often_after_a_warm_up():
    ran = []
    timing = measure(lambda: ran.append(1))
    assert timing.runs == 50
    assert len(ran) == 51


def test_the_median_is_of_the_work(monkeypatch):
    monkeypatch.setattr("attnlang.cli.measure._ENOUGH_SECONDS", 0.0)
    timing = measure(lambda: time.sleep(0.02))
    assert timing.runs == 3
    assert 0.02 <= timing.seconds < 1


def test_long_work_runs_less_often(monkeypatch):
    monkeypatch.setattr("attnlang.cli.measure._TOO_MUCH_SECONDS", 0.01)
    assert measure(lambda: time.sleep(0.02)).runs == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1234.5, "1234 s"),
        (98.76, "98.8 s"),
        (1.0, "1 s"),
        (0.9996, "1 s"),
        (0.9994, "999 ms"),
        (999.6, "1000 s"),
        (0.0123, "12.3 ms"),
        (4.56e-5, "45.6 us"),
        (3e-8, "0.03 us"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
