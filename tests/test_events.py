"""Events: who listens is told of points and spans, in any thread, and a listener that fails decides nothing."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from ingest.events import Event, Moment, Stage, happened, listen, span


def test_a_listener_is_told_until_it_stops() -> None:
    told: list[Moment] = []
    happened(Event.PAGE_READ, rows=1)
    with listen(told.append):
        happened(Event.PAGE_READ, rows=2)
    happened(Event.PAGE_READ, rows=3)
    assert told == [Moment(Event.PAGE_READ, Stage.HAPPENED, {"rows": 2})]


def test_a_span_tells_of_its_begin_and_its_end_with_what_was_known_by_then() -> None:
    told: list[Moment] = []
    with listen(told.append):
        with span(Event.JOB_RUN, job="gamma") as facts:
            time.sleep(0.01)
            facts["rows"] = 3
        with pytest.raises(ZeroDivisionError), span(Event.JOB_RUN, job="polygon"):
            raise ZeroDivisionError
    assert [moment.stage for moment in told] == [
        Stage.BEGINS,
        Stage.ENDS,
        Stage.BEGINS,
        Stage.FAILS,
    ]
    assert [moment.facts for moment in told[:2]] == [{"job": "gamma"}, {"job": "gamma", "rows": 3}]
    assert [moment.seconds >= 0.01 for moment in told[:2]] == [False, True]


def test_a_span_that_nobody_hears_takes_facts_and_keeps_none() -> None:
    for _ in range(2):
        with span(Event.JOB_RUN, job="gamma") as facts:
            assert facts == {}
            facts["rows"] = 3


def test_a_listener_that_fails_is_dropped_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(moment: Moment) -> None:
        raise ZeroDivisionError

    told: list[Moment] = []
    with listen(fail), listen(told.append), caplog.at_level(logging.ERROR):
        for _ in range(2):
            happened(Event.PAGE_READ, rows=1)
    assert len(told) == 2
    [record] = caplog.records
    assert "PAGE_READ" in record.getMessage() and record.exc_info


def test_what_a_strict_listener_raises_is_raised_where_it_happened() -> None:
    def fail(moment: Moment) -> None:
        raise ZeroDivisionError

    with listen(fail, strict=True):
        with pytest.raises(ZeroDivisionError):
            happened(Event.PAGE_READ, rows=1)
        with pytest.raises(ZeroDivisionError), span(Event.SETTLED):
            pytest.fail("begun all the same")


def test_threads_listen_and_tell_side_by_side() -> None:
    told: list[int] = []

    def tell() -> None:
        for number in range(200):
            with listen(lambda moment: None):
                happened(Event.PAGE_READ, rows=number)

    with listen(lambda moment: told.append(moment.facts["rows"])):
        threads = [threading.Thread(target=tell) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert sorted(told) == sorted([*range(200)] * 4)
    happened(Event.PAGE_READ, rows=-1)
    assert -1 not in told
