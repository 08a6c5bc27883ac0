"""Jobs side by side: none waits for another, what fails is noted and tried again, what cannot be mended ends the run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from ingest.errors import LoadError
from ingest.sources import SOURCES
from pipeline.errors import LockHeld, SettingsError
from pipeline.jobs.cycle import waves
from pipeline.jobs.job import Job, Outcome, Schedule
from pipeline.jobs.loop import chosen
from pipeline.jobs.runner import Runner
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.verbs.status import read_status
from pipeline.warehouse.door import Closing, Door
from pipeline.warehouse.jobs import (
    FAILED,
    RUNNING,
    WAITING,
    JobState,
    Journal,
    ended,
    read_jobs,
    started,
)
from pipeline.warehouse.run import Run

LONG_S = 60.0
NOON = datetime.now(UTC).replace(microsecond=0)  # runs are kept for 90 days


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Work:
    """What a job does: counted, and as a test says."""

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self.runs, self.outcomes = 0, list(outcomes)
        self.side_by_side = self.most_side_by_side = 0

    def __call__(self) -> Outcome:
        self.runs += 1
        self.side_by_side += 1
        self.most_side_by_side = max(self.most_side_by_side, self.side_by_side)
        try:
            outcome = self.outcomes.pop(0) if self.outcomes else Outcome()
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        finally:
            self.side_by_side -= 1


@pytest.fixture
def held(run: Run) -> Iterator[Run]:
    with run.lock.held("test"):
        yield run


# ---------- the runner


def test_a_job_that_hangs_delays_no_other(held: Run) -> None:
    let_go = threading.Event()

    def hangs() -> Outcome:
        let_go.wait(LONG_S)
        return Outcome()

    works = Work()
    jobs = [Job("hangs", Schedule(0.01), hangs), Job("works", Schedule(0.01), works)]
    with Runner(held, jobs, {}):
        wait_until(lambda: works.runs >= 10)
        let_go.set()


def test_a_job_never_runs_beside_itself_however_often_it_is_nudged(held: Run) -> None:
    works = Work()

    def slow() -> Outcome:
        outcome = works()
        time.sleep(0.02)
        return outcome

    with Runner(held, [Job("slow", Schedule(0.001), slow)], {}) as runner:
        for _ in range(20):
            runner.nudge("slow")
            runner.nudge("nobody")
        wait_until(lambda: works.runs >= 5)
    assert works.most_side_by_side == 1


def test_a_nudge_runs_a_job_long_before_its_time(held: Run) -> None:
    finds, looks_up = Work(Outcome(), Outcome(Counter(order_filled=3))), Work()
    jobs = [
        Job("finds", Schedule(0.05), finds, then=["looks_up"]),
        Job("looks_up", Schedule(10, "0 0 1 1 *"), looks_up),
    ]
    with Runner(held, jobs, {}):
        wait_until(lambda: looks_up.runs == 1)
        wait_until(lambda: finds.runs > 4)
    assert looks_up.runs == 1


def test_a_clock_that_is_put_back_during_a_run_makes_no_job_wait(held: Run) -> None:
    """The next run comes after the pause from now on, not after that from a time to come."""
    runs = Counter[str]()
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=1), tick=True) as clock:

        def works() -> Outcome:
            runs["works"] += 1
            if runs["works"] == 2:
                clock.shift(timedelta(hours=-1))
            return Outcome()

        with Runner(held, [Job("x", Schedule(0.01), works)], {}):
            wait_until(lambda: runs["works"] >= 5)


def test_what_fails_is_noted_and_tried_again(held: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    down = [LoadError("x: down")] * 3
    works = Work(*down, Outcome(Counter(order_filled=7)))
    with Runner(held, [Job("x", Schedule(0.01), works)], {}):
        wait_until(lambda: works.runs >= 6)
    assert [r.message for r in caplog.records if "x: " in r.message][:2] == [
        "x: down",
        "x: back again",
    ]
    raw = held.settings.raw_database
    runs = held.client.query(
        f"select outcome, rows, failures, problem from {raw}.job_runs where job = 'x' order by started_at limit 5"
    ).result_rows
    assert runs == [
        ("failed", 0, 1, "x: down"),
        ("failed", 0, 2, "x: down"),
        ("failed", 0, 3, "x: down"),
        ("done", 7, 0, ""),
        ("done", 0, 0, ""),
    ]
    [state] = read_jobs(held.client, raw).values()
    assert (state.failures, state.problem) == (0, "")
    assert state.done_at == state.ended_at >= state.started_at


def test_status_says_why_a_job_fails_since_when_and_when_it_is_tried_again(held: Run) -> None:
    works = Work(*[LoadError("x: down")] * 1000)
    with Runner(held, [Job("x", Schedule(0.01), works)], {}):
        wait_until(lambda: works.runs >= 3)
    [job] = read_status(held).jobs
    assert (job.job, job.outcome, job.problem) == ("x", FAILED, "x: down")
    assert job.failures >= 3
    assert job.failing_since < job.next_at or job.failing_since == job.next_at
    assert job.schedule == "every 0.01 s"
    assert read_status(held).unhealthy == [f"x: failed {job.failures} times in a row: x: down"]


def test_health_is_bad_where_nothing_runs_and_good_while_a_job_catches_up(run: Run) -> None:
    assert read_status(run).unhealthy == ["no run holds the writer lock"]
    with run.lock.held("test"):
        works = Work(LoadError("x: down"), LoadError("x: down"))
        with Runner(run, [Job("x", Schedule(3600), works)], {}):
            wait_until(lambda: works.runs == 1)
        status = read_status(run)
        assert status.unhealthy == [], "one failure is what retries are for"
        assert status.stale, "nothing was read yet"


def test_failures_go_on_counting_in_the_next_process(held: Run) -> None:
    raw = held.settings.raw_database
    for at_least in (1, 2):
        works = Work(*[LoadError("x: down")] * 1)
        job = Job("x", Schedule(3600), works)
        with Runner(held, [job], dict(read_jobs(held.client, raw))):
            wait_until(lambda works=works: works.runs == 1)
        held.door._closed = False
        assert read_jobs(held.client, raw)["x"].failures == at_least


def test_a_run_that_takes_long_is_seen_while_it_runs(
    held: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.jobs.runner.LONG_RUN_S", 0.0)
    monkeypatch.setattr("pipeline.jobs.runner.WRITE_EVERY_S", 0.01)
    let_go = threading.Event()

    def hangs() -> Outcome:
        let_go.wait(LONG_S)
        return Outcome()

    def look(runner: Runner) -> None:
        raw = held.settings.raw_database
        wait_until(lambda: [s.state for s in read_jobs(held.client, raw).values()] == [RUNNING])
        let_go.set()
        runner.end(LockHeld("seen"))

    with Runner(held, [Job("hangs", Schedule(3600), hangs)], {}) as runner:
        threading.Thread(target=look, args=(runner,), daemon=True).start()
        with pytest.raises(LockHeld, match="seen"):
            runner.wait()


@pytest.mark.parametrize("error", [LockHeld("another run"), ZeroDivisionError("a defect")])
def test_what_no_other_try_can_mend_ends_the_run(held: Run, error: Exception) -> None:
    jobs = [Job("x", Schedule(1), Work(error)), Job("y", Schedule(0.01), Work())]
    with Runner(held, jobs, {}) as runner, pytest.raises(type(error), match=str(error)):
        runner.wait()


def test_a_server_that_fails_is_waited_for_and_an_embedded_one_that_is_gone_is_not(
    held: Run,
) -> None:
    with Runner(held, [], {}) as runner:
        for is_embedded in (True, False):
            held.server = replace(held.server, embedded=is_embedded)
            assert runner.is_fatal(OperationalError("no answer")) == is_embedded
            assert not runner.is_fatal(DatabaseError("memory limit exceeded"))
            assert runner.words_for(DatabaseError("too much")).endswith("failed: too much")


def test_quiet_jobs_leave_no_runs_behind_unless_they_do_something(held: Run) -> None:
    works = Work(Outcome(), Outcome(Counter(order_filled=2)), Outcome())
    with Runner(held, [Job("quiet", Schedule(0.01), works, is_quiet=True)], {}):
        wait_until(lambda: works.runs >= 10)
    raw = held.settings.raw_database
    assert held.client.query(f"select rows from {raw}.job_runs").result_rows == [(2,)]


def test_a_quiet_job_that_took_long_is_not_running_for_ever(
    held: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.jobs.runner.LONG_RUN_S", 0.0)
    monkeypatch.setattr("pipeline.jobs.runner.WRITE_EVERY_S", 0.01)
    raw, let_go = held.settings.raw_database, threading.Event()

    def states() -> list[str]:
        return [state.state for state in read_jobs(held.client, raw).values()]

    def takes_long() -> Outcome:
        let_go.wait(LONG_S)
        return Outcome()

    def look(runner: Runner) -> None:
        wait_until(lambda: states() == [RUNNING])
        let_go.set()
        wait_until(lambda: states() == [WAITING])
        runner.end(LockHeld("seen"))

    job = Job("quiet", Schedule(3600), takes_long, is_quiet=True)
    with Runner(held, [job], {}) as runner:
        threading.Thread(target=look, args=(runner,), daemon=True).start()
        with pytest.raises(LockHeld, match="seen"):
            runner.wait()


def test_a_nudge_does_not_shorten_the_pause_of_what_fails(held: Run) -> None:
    works = Work(*[LoadError("x: down")] * 1000)
    with Runner(held, [Job("x", Schedule(3600), works)], {}) as runner:
        wait_until(lambda: works.runs == 1)
        for _ in range(50):
            runner.nudge("x")
            time.sleep(0.002)
    assert works.runs == 1


def test_failures_of_a_job_that_this_run_has_not_are_no_reason_to_worry(run: Run) -> None:
    works = Work(*[LoadError("x: down")] * 1000)
    with run.lock.held("loop"), Runner(run, [Job("x", Schedule(0.01), works)], {}):
        wait_until(lambda: works.runs >= 3)
    run.door._closed = False
    with run.lock.held("loop"):
        status = read_status(run)
    assert status.jobs[0].failures >= 3
    assert status.jobs[0].next_at is None
    assert status.unhealthy == []


@pytest.mark.parametrize(
    ("started_s", "next_s", "state", "is_stuck"),
    [
        (100, 60, WAITING, False),
        (900, 600, WAITING, True),
        (86_400, None, WAITING, False),  # a quiet job
        (1800, None, RUNNING, False),
        (4000, None, RUNNING, True),
    ],
)
def test_a_job_that_is_stuck_is_bad_health(
    held: Run, started_s: float, next_s: float | None, state: str, is_stuck: bool
) -> None:
    """Seconds are those since it began, and since it should have begun again."""
    now = datetime.now(UTC)
    next_at = JobState.next_at if next_s is None else now - timedelta(seconds=next_s)
    journal = Journal(held.client, held.settings.raw_database, held.lock)
    began = now - timedelta(seconds=started_s)
    journal.note(JobState("x", state=state, started_at=began, next_at=next_at))
    journal.write()
    assert bool(read_status(held).unhealthy) == is_stuck


# ---------- threads that outlive their run


@pytest.mark.parametrize("is_writing", [False, True])
def test_threads_that_outlive_their_run_write_nothing_into_the_books(
    run: Run, is_writing: bool
) -> None:
    with run.lock.held("loop"):
        run.ledger.open(10, ["order_filled"])
        run.lock.outlive(is_writing=is_writing)
    holder = run.lock.holder()
    assert (holder is not None) == is_writing, (
        "a statement may be under way: the lock ends with the process"
    )
    if is_writing:
        return
    with pytest.raises(LockHeld, match="this run has ended"):
        run.ledger.prove()
    with pytest.raises(LockHeld):
        run.ledger.close_loading([10])
    assert [load.state for load in run.ledger.unsettled()] == ["loading"]
    with run.lock.held("loop"):
        run.ledger.prove()


def test_an_error_is_told_although_threads_outlive_it(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.lock.held("loop"):
        run.lock.outlive(is_writing=False)
        raise ZeroDivisionError


def test_no_thread_of_a_job_finds_a_library_half_imported() -> None:
    """dlt looks for these among the imported modules, which threads may be filling at that moment."""
    program = (
        "import pipeline.jobs.loop, sys; from importlib.util import find_spec;"
        "print([name for name in ('pandas', 'polars', 'pyarrow', 'pydantic')"
        " if find_spec(name) and name not in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_DIR, capture_output=True, text=True
    )
    assert answer.stdout == "[]\n", answer.stdout + answer.stderr


# ---------- the journal


def test_a_job_fails_since_its_first_failure_in_a_row() -> None:
    state = JobState("x")
    for number in range(1, 4):
        at = NOON + timedelta(minutes=number)
        state = started(state, at)
        state = ended(state, at + timedelta(seconds=1), rows=0, problem="down", next_at=at)
        assert state.failures == number
        assert state.failing_since == NOON + timedelta(minutes=1)
    state = ended(started(state, NOON), NOON, rows=5, problem="", next_at=NOON)
    assert (state.failures, state.problem, state.done_at) == (0, "", NOON)
    assert state.failing_since == JobState.failing_since


def test_notes_that_cannot_be_written_are_written_later(held: Run) -> None:
    raw = held.settings.raw_database
    journal = Journal(held.client, raw, held.lock)
    state = ended(started(JobState("x"), NOON), NOON, rows=5, problem="", next_at=NOON)
    journal.note(state)
    held.client.command(f"rename table {raw}.job_runs to {raw}.away")
    with pytest.raises(DatabaseError):
        journal.write()
    held.client.command(f"rename table {raw}.away to {raw}.job_runs")
    journal.write()
    journal.write()
    assert held.client.query(f"select job, rows from {raw}.job_runs").result_rows == [("x", 5)]
    assert list(read_jobs(held.client, raw)) == ["x"]


# ---------- the door


def test_one_package_at_a_time_and_others_beside_it() -> None:
    door, inside = Door(), []
    with door.one_at_a_time():
        blocked = threading.Thread(target=lambda: _enter(door.one_at_a_time, inside), daemon=True)
        blocked.start()
        with door.beside(), door.beside():
            assert not inside
        blocked.join(0.05)
        assert blocked.is_alive()
    blocked.join(LONG_S)
    assert inside == [1]


def test_whoever_wants_to_be_alone_waits_for_all_and_lets_nobody_in() -> None:
    door, inside = Door(), []
    with door.beside():
        alone = threading.Thread(target=lambda: _enter(door.alone, inside), daemon=True)
        alone.start()
        alone.join(0.05)
        assert not inside
    alone.join(LONG_S)
    assert inside == [1]
    with door.alone():
        late = threading.Thread(target=lambda: _enter(door.beside, inside), daemon=True)
        late.start()
        late.join(0.05)
        assert inside == [1]
    late.join(LONG_S)
    assert inside == [1, 1]


def test_a_closed_door_lets_out_and_nobody_in() -> None:
    door = Door()
    with door.one_at_a_time():
        assert not door.close(0.01)
    assert door.close(0)
    for way_in in (door.one_at_a_time, door.beside, door.alone):
        with pytest.raises(Closing), way_in():
            pass


def _enter(way_in: Callable, inside: list) -> None:
    with way_in():
        inside.append(1)


# ---------- which sources


def settings(**given: object) -> Settings:
    return Settings(_env_file=None, **given)


def test_only_and_skip_choose_among_the_sources_of_the_settings() -> None:
    both = settings(sources="gamma,polygon")
    assert [source.name for source in chosen(both, (), ())] == ["polygon", "gamma"]
    assert [source.name for source in chosen(both, ("gamma",), ())] == ["gamma"]
    assert [source.name for source in chosen(both, (), ("gamma",))] == ["polygon"]
    with pytest.raises(SettingsError, match="goldsky: not read by these settings"):
        chosen(both, ("goldsky",), ())
    with pytest.raises(SettingsError, match="no source is left"):
        chosen(both, ("gamma",), ("gamma",))


def test_tokens_are_looked_up_after_those_who_find_them() -> None:
    first, second = waves(SOURCES)
    assert all(not source.looks_up_tokens for source in first)
    assert [source.name for source in second] == ["gamma"]
    assert not any(source.finds_tokens for source in second)
