import io
import sys

import pytest
import toy

from repro import display


class Terminal(io.StringIO):
    def isatty(self):
        return True


def running(number=0, progress=None, since=0.0, normal="8"):
    return {"number": number, "job": toy.toy_job(normal), "progress": progress, "since": since}


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets: clock.now, seconds."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(display, "time", Clock())
    return display.time


@pytest.mark.parametrize(
    "finished, failed, seconds, status",
    [
        (3, 1, 100, "3 of 45 done, 1 failed, 1 running, about 23 min left"),
        (44, 0, 50, "44 of 45 done, 1 running, about 1 s left"),
        (0, 0, 0, "0 of 45 done, 1 running, about 0 s left"),
    ],
)
def test_a_status_counts_and_tells_the_time_left(clock, capsys, monkeypatch, finished, failed, seconds, status):
    monkeypatch.setattr(display, "STATUS_EVERY", 0)
    with display.Display(45, 1) as shown:
        clock.now = float(seconds)
        shown.show(finished, failed, [running(progress={"done": 1, "total": 10, "what": "toying"})])
    assert capsys.readouterr().out.startswith(status + "; toy digits 8")


@pytest.mark.parametrize(
    "seconds, text", [(40.2, "40 s"), (89.9, "90 s"), (90, "2 min"), (5399, "1 h 30 min"), (11100, "3 h 05 min")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert display.duration(seconds) == text


def test_before_any_news_nothing_is_said_of_the_time_left(clock, capsys, monkeypatch):
    monkeypatch.setattr(display, "STATUS_EVERY", 0)
    with display.Display(45, 2) as shown:
        shown.show(0, 0, [running()])
    assert capsys.readouterr().out.startswith("0 of 45 done, 1 running; toy digits 8")


def test_a_job_in_a_slot_of_a_high_number_has_a_line_too(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with display.Display(99, 99) as shown:
        shown.show(0, 0, [running(number=98)])
        assert shown.rows[0].desc.startswith("  toy digits 8") and len(shown.rows) == display.SHOWN


def test_a_running_job_is_told_with_its_step_and_loss(clock):
    clock.now = 75.0
    assert display.doing(running(since=15.0)) == "toy digits 8 seed 0 quick, 60 s"
    progress = {"done": 12, "total": 40, "what": "decoder mse", "loss": 0.012345}
    said = display.doing(running(progress=progress, since=15.0))
    assert said == "toy digits 8 seed 0 quick, 60 s: decoder mse, 12 of 40, loss 0.01235"
    assert display.progress_text({"done": 1, "total": 2, "what": "scores"}) == "scores, 1 of 2"


def test_without_a_terminal_there_is_a_line_now_and_then(clock, capsys):
    with display.Display(4, 2) as shown:
        for second in range(0, 2 * display.STATUS_EVERY, 10):
            clock.now = float(second)
            shown.show(1, 0, [running(progress={"done": 1, "total": 2, "what": "toying"})])
    said = capsys.readouterr()
    assert said.err == "" and said.out.splitlines() == [
        "1 of 4 done, 1 running, about 8 min left; toy digits 8 seed 0 quick, 5 min: toying, 1 of 2"
    ]


def test_a_line_that_stays_says_how_far_the_sweep_is(clock, capsys):
    with display.Display(4, 2) as shown:
        clock.now = 60.0
        shown.line("toy digits 3 seed 0 quick: toy 0.5000 (1 s)", finished=1)
        shown.line("FAILED toy digits 4 seed 0 quick: no luck", finished=4)
    assert capsys.readouterr().out.splitlines() == [
        "[1 of 4, about 3 min left] toy digits 3 seed 0 quick: toy 0.5000 (1 s)",
        "[4 of 4] FAILED toy digits 4 seed 0 quick: no luck",
    ]


def test_on_a_terminal_every_running_job_has_a_line_no_wider_than_it(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "50")
    long = {"done": 1, "total": 2, "what": "a method of a very long name indeed", "loss": 0.25}
    with display.Display(4, 2) as shown:
        shown.show(1, 1, [running(0, long), running(1, {"done": 3, "total": 4, "what": "brief"}, normal="3")])
        rows = [row.desc for row in shown.rows]
        assert shown.bar.n == pytest.approx(2.25) and "1 of 4 done, 1 failed, 2 running" in shown.bar.desc
    assert rows[0].startswith("  toy digits 8 seed 0 quick, ") and len(rows[0]) == 49
    assert rows[1].startswith("  toy digits 3 seed 0 quick, ")
    assert "toy digits 8" in terminal.getvalue()
