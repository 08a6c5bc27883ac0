"""Slices of a backfill: how a range is cut, which one is read next, and that reading ahead is bounded and repeatable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.contracts import GENESIS, V1, V1_GENESIS, V2, V2_GENESIS, VERSIONS
from ingest.page import Page
from ingest.queue.backlog import FIRST_PAUSE_S, Backlog
from ingest.queue.fetching import FetchPool
from ingest.queue.slices import Slice
from ingest.rate_limits import BACKGROUND_SHARE, RateLimit, RateLimiter
from ingest.records import fills_table
from ingest.sources.polygon.block_search import first_since
from ingest.sources.polygon.chain import Block
from ingest.tables import ORDER_FILLED
from pipeline.jobs.slicing import covered, cut, left_of, ranges
from sandbox.clock import HORIZON

# ---------- slices


spans = st.tuples(st.integers(V1_GENESIS, 1_900_000_000), st.integers(1, 10**6)).map(
    lambda pair: Slice("polygon", pair[0], sum(pair))
)


@given(whole=spans, seconds=st.integers(100, 10**6))
def test_slices_cover_a_range_exactly(whole: Slice, seconds: int) -> None:
    slices = cut(whole, seconds)
    assert (slices[0].start, slices[-1].end) == (whole.start, whole.end)
    assert all(one.end == other.start for one, other in pairwise(slices))
    assert all(0 < part.end - part.start <= seconds for part in slices)
    assert all(part.start % seconds == 0 for part in slices[1:])


@given(
    start=st.integers(0, 2**32 - 2),
    length=st.integers(1, 2**31),
    end=st.integers(0, 2**32),
    chain=st.sampled_from(["v2", "v2,v3", "v1,v2", "v1,v2,v3"]),
)
def test_each_generation_is_read_once_in_all_of_the_range_that_has_it(
    start: int, length: int, end: int, chain: str
) -> None:
    archive_end = HORIZON.timestamp + 1
    sources = ["polygon"] if "v1" in chain else ["goldsky", "polygon"]
    found = ranges(
        sources,
        start,
        start + length,
        versions=chain,
        ends={"goldsky": archive_end, "polygon": end},
    )
    bounds = {start, start + length, archive_end, end, V1_GENESIS, V2_GENESIS}
    for second in {bound + step for bound in bounds for step in (-1, 0)}:
        within = [part for part in found if part.start <= second < part.end]
        held = [v for part in within for v in (part.versions or V1).split(",")]
        for version in VERSIONS:
            ends = end if version in chain else archive_end if version == V1 else 0
            wanted = start <= second < start + length and GENESIS[version] <= second < ends
            assert held.count(version) >= wanted
            assert held.count(version) <= (version in chain or version == V1)


def test_v2_before_the_cutover_is_read_beside_the_archive() -> None:
    """Recorded: V2 fills of 2026-04-03 and 2026-04-17. V1 went on in the archive until 2026-04-28."""
    day = datetime(2026, 4, 3, tzinfo=UTC)
    start, end = int(day.timestamp()), int((day + timedelta(days=15)).timestamp())
    ends = {"goldsky": HORIZON.timestamp + 1, "polygon": 2**32}
    assert ranges(["goldsky", "polygon"], start, end, versions="v2,v3", ends=ends) == [
        Slice("goldsky", start, end),
        Slice("polygon", start, end, "v2,v3"),
    ]


@given(
    slices=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=9, unique=True),
    wanted=st.sampled_from(["v2", "v2,v3", "v1,v2", "v1,v2,v3"]),
    done=st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 30), st.sampled_from(["", "v2,v3", "v3"])),
        max_size=20,
    ),
)
def test_what_is_left_of_a_slice_are_the_generations_nobody_has_read(
    slices: list, wanted: str, done: list
) -> None:
    """A slice without generations is of an earlier version, which read V2 of the chain."""
    parts = [Slice("polygon", start, start + length, wanted) for start, length in slices]
    read = [Slice("polygon", start, start + length, each) for start, length, each in done]
    archive = [Slice("goldsky", 0, 100)]  # says nothing about the chain
    seconds = {
        (second, version)
        for part in read
        for second in range(part.start, part.end)
        for version in (part.versions or V2).split(",")
    }
    expected = []
    for part in parts:
        missing = [
            version
            for version in wanted.split(",")
            if not seconds.issuperset((second, version) for second in range(part.start, part.end))
        ]
        if missing:
            expected.append(Slice("polygon", part.start, part.end, ",".join(missing)))
    assert left_of(parts, read + archive) == expected
    assert left_of(archive, read) == archive
    assert left_of(archive, archive) == []


@given(
    slices=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=20),
    done=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=20),
)
def test_a_slice_is_done_when_all_of_its_seconds_are(slices: list, done: list) -> None:
    wanted = {Slice("goldsky", start, start + length) for start, length in slices}
    read = {Slice("goldsky", start, start + length) for start, length in done}
    read |= {Slice("polygon", 0, 100)}
    seconds = {
        second
        for part in read
        if part.source == "goldsky"
        for second in range(part.start, part.end)
    }
    assert covered(wanted, read) == {
        part for part in wanted if seconds.issuperset(range(part.start, part.end))
    }


# ---------- reading ahead


ROWS = fills_table(
    {"tx_hash": ["0x" + "ab" * 32] * 100, "timestamp": [1] * 100}
    | {
        name: ["x"] * 100
        for name in ("order_hash", "contract_version", "exchange", "maker", "taker")
    }
    | {name: [1] * 100 for name in ("maker_amount", "taker_amount", "fee")},
    source="polygon",
)


class Long:
    """A reader of slices that hold as many pages as they are seconds long."""

    def pages(self, part: Slice) -> Iterator[Page]:
        for _ in range(part.start, part.end):
            yield Page(ORDER_FILLED, [ROWS])


def soon() -> float:
    return time.monotonic() + 5


def test_memory_stays_bounded_whatever_a_slice_holds() -> None:
    bound = 10 * ROWS.nbytes
    slices = [Slice("polygon", 0, 500), Slice("polygon", 500, 700)]
    with FetchPool(lambda: {"polygon": Long()}, 4, Backlog(), bound) as pool:
        pool.want(slices)
        taken = dict.fromkeys(slices, 0)
        ended = []
        while (page := pool.take(soon())) is not None:
            assert pool._bytes <= bound
            taken[page.slice] += len(page.page.rows) if page.page else 0
            if page.is_last:
                ended.append((page.slice, page.fills, taken[page.slice]))
        assert sorted(ended) == [(slices[0], 50_000, 500), (slices[1], 20_000, 200)]
        assert not pool.has_hope


def test_starting_over_reads_everything_again() -> None:
    part = Slice("polygon", 0, 50)
    with FetchPool(lambda: {"polygon": Long()}, 2, Backlog(), 5 * ROWS.nbytes) as pool:
        pool.want([part])
        for _ in range(20):
            assert pool.take(soon()) is not None
        pool.start_over()
        pool.want([part])
        pages = list(iter(lambda: pool.take(soon()), None))
        assert len(pages) == 51 and pages[-1].is_last and pages[-1].fills == 5000


def test_a_defect_in_a_thread_surfaces() -> None:
    with FetchPool(lambda: {}, 1, Backlog()) as pool:
        pool.want([Slice("polygon", 0, 1)])
        with pytest.raises(KeyError, match="polygon"):
            pool.take(soon())


def test_a_source_that_fails_pauses_longer_each_time_and_is_given_up() -> None:
    now = 0.0
    backlog = Backlog(3, lambda: now)
    down, fine = Slice("goldsky", 0, 1), Slice("polygon", 0, 1)
    backlog.want([down, fine])
    for pause in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S):
        assert backlog.take() == down
        backlog.failed(down)
        assert backlog.take() == fine  # which waits for nobody
        backlog.done(fine)
        assert backlog.take() is None and backlog.has_hope
        now += pause * 0.99
        assert backlog.take() is None
        now += pause * 0.02
        backlog.want([down, fine])
    assert (backlog.take(), backlog.take()) == (down, fine)
    backlog.failed(down)
    backlog.done(fine)
    now += 1e9
    assert backlog.take() is None and not backlog.has_hope


def test_what_fails_alone_comes_last() -> None:
    now = 0.0
    backlog = Backlog(3, lambda: now)
    bad, *others = slices = [Slice("polygon", hour, hour + 1) for hour in range(4)]
    backlog.want(slices)
    backlog.failed(backlog.take())
    now += 10
    assert [backlog.take() for _ in slices] == [*others, bad]


def test_the_background_leaves_a_part_of_every_limit() -> None:
    now = 0.0
    slept = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    limiter = RateLimiter([RateLimit(100)], clock=lambda: now, sleep=sleep)
    for _ in range(int(100 * BACKGROUND_SHARE)):
        limiter.wait("/", BACKGROUND_SHARE)
    for _ in range(100 - int(100 * BACKGROUND_SHARE)):
        limiter.wait("/")
    assert slept == []
    limiter.wait("/", BACKGROUND_SHARE)
    assert slept == [10.0]


@given(
    gaps=st.lists(st.integers(1, 1000), min_size=1, max_size=300),
    first=st.integers(0, 10**6),
    data=st.data(),
)
def test_the_first_block_since_a_moment(gaps: list[int], first: int, data: st.DataObject) -> None:
    times = [first]
    for gap in gaps:
        times.append(times[-1] + gap)
    asked: list[int] = []

    def block(number: int) -> Block:
        asked.append(number)
        return Block(number, times[number], "")

    moment = data.draw(st.integers(0, times[-1] + 10))
    found = first_since(moment, Block(len(gaps), times[-1], ""), block, {})
    assert found == sum(each < moment for each in times)
    assert len(asked) == len(set(asked)) <= 3 * len(gaps).bit_length() + 3
    if set(gaps) == {2} and moment >= first:
        assert len(asked) <= 3
