"""The ledger of loads: what it says is what is there, in whatever order clocks tell it, and batches that stay bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings import Settings
from pipeline.warehouse.ledger import Ledger
from pipeline.warehouse.loads import EPOCH, Load, Unchecked, next_batch, now_us
from pipeline.warehouse.migrations import migrate
from pipeline.warehouse.orphans import Recheck
from pipeline.warehouse.run import Run, open_run

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def landing(settings: Settings) -> Iterator[Run]:
    """An open run on landing tables without models."""
    with open_run(settings) as run:
        run.client.command(f"create database {settings.raw_database}")
        migrate(run.client, settings)
        yield run


def insert_fills(run: Run, load_id: int, *times: datetime) -> None:
    """Land one fill of a load at each time."""
    rows = [[at, f"0x{number:064x}", load_id] for number, at in enumerate(times)]
    run.client.insert(
        "order_filled",
        rows,
        column_names=["timestamp", "tx_hash", "load_id"],
        database=run.settings.raw_database,
    )


def states(run: Run) -> dict[tuple[int, str], str]:
    rows = run.client.query(
        f"select load_id, table_name, state from {run.settings.raw_database}.loads final"
    ).result_rows
    return {(load_id, table): state for load_id, table, state in rows}


def test_a_load_goes_from_loading_to_settled(landing: Run) -> None:
    ledger = landing.ledger
    ledger.open(10, ["order_filled", "markets", "_dlt_loads", "dead_letter_sightings"])
    assert states(landing) == {(10, "order_filled"): "loading", (10, "markets"): "loading"}
    loaded = ledger.close_loading([10])
    assert set(states(landing).values()) == {"loaded"}
    settling = ledger.start_settling(loaded)
    assert len({load.settle_id for load in settling}) == 1
    assert set(states(landing).values()) == {"settling"}
    assert ledger.unsettled() == sorted(settling, key=lambda load: load.table_name)
    ledger.finish_settling(settling[:1])
    ledger.back_to_loaded(settling[1:])
    assert sorted(states(landing).values()) == ["loaded", "settled"]
    assert ledger.close_loading([10]) == []


def test_closing_measures_what_is_there(landing: Run) -> None:
    """Whatever a source said it would bring, and whatever other loads brought."""
    earlier, later = NOON - timedelta(minutes=7), NOON + timedelta(seconds=1)
    insert_fills(landing, 9, NOON - HOUR)
    landing.ledger.open(10, ["order_filled"])
    insert_fills(landing, 10, NOON, earlier, later)
    insert_fills(landing, 11, NOON + HOUR)
    expected = Load(10, "order_filled", "loaded", loaded_rows=3, from_at=earlier, to_at=later)
    assert landing.ledger.close_loading([10]) == [expected]
    assert landing.ledger.unsettled() == [expected]
    assert expected.span == timedelta(minutes=7, seconds=1)


def test_a_load_that_brought_nothing_is_closed_as_empty(landing: Run) -> None:
    landing.ledger.open(10, ["order_filled", "events"])
    assert landing.ledger.close_loading([10]) == [
        Load(10, table, "loaded", from_at=EPOCH, to_at=EPOCH)
        for table in ("order_filled", "events")
    ]


def test_a_load_that_is_opened_again_is_measured_again(landing: Run) -> None:
    """dlt goes on with a package that a crash left half loaded."""
    insert_fills(landing, 10, NOON)
    for rows in (1, 2):
        landing.ledger.open(10, ["order_filled"])
        if rows == 2:
            insert_fills(landing, 10, NOON + HOUR, NOON + 2 * HOUR)
        (load,) = landing.ledger.close_loading([10])
        landing.ledger.finish_settling([load])
    assert (load.loaded_rows, load.from_at, load.to_at) == (3, NOON, NOON + 2 * HOUR)


@pytest.mark.parametrize("clock_us", [0, 10**15])
def test_the_last_word_counts_though_the_clock_went_back(
    landing: Run, monkeypatch: pytest.MonkeyPatch, clock_us: int
) -> None:
    ledger = landing.ledger
    first_id = now_us()
    ledger.open(first_id, ["order_filled"])
    first = ledger.start_settling(ledger.close_loading([first_id]))
    monkeypatch.setattr("time.time_ns", lambda: clock_us * 1000)
    ledger.back_to_loaded(first)
    assert states(landing) == {(first_id, "order_filled"): "loaded"}
    ledger.open(first_id + 10**9, ["markets"])  # from a machine whose clock is ahead
    loaded = [
        load for load in ledger.close_loading([first_id + 10**9]) if load.table_name == "markets"
    ]
    second = ledger.start_settling(loaded + first)
    assert {load.settle_id for load in second} == {first_id + 10**9 + 1}
    third = ledger.start_settling(second[:1])
    assert third[0].settle_id == first_id + 10**9 + 2
    ledger.finish_settling(third + second[1:])
    assert ledger.unsettled() == []


def test_a_rebuild_takes_the_next_free_ids_and_waits_its_turn(landing: Run) -> None:
    ledger = landing.ledger
    ahead = now_us() + 10**12  # from a machine whose clock is ahead
    insert_fills(landing, ahead, NOON)
    ledger.open(ahead, ["order_filled"])
    ledger.close_loading([ahead])
    slices = [
        Load(0, "markets", from_at=NOON, to_at=NOON + HOUR),
        Load(0, "order_filled", from_at=NOON, to_at=NOON + HOUR, loaded_rows=1),
        Load(0, "order_filled", from_at=NOON + HOUR, to_at=NOON + 2 * HOUR),
    ]
    loads = ledger.add_rebuild(slices)
    assert [load.load_id - ahead for load in loads] == [1, 2, 3]
    assert all(load.is_rebuild and load.state == "loaded" for load in loads)
    unsettled = ledger.unsettled()
    assert unsettled[1:] == loads
    assert next_batch(unsettled, 10**6) == unsettled[:1]
    assert next_batch(unsettled[1:], 10**6) == loads[:1]
    assert ledger.add_rebuild([]) == []


def test_a_ledger_without_loads_has_nothing_to_settle(landing: Run) -> None:
    ledger: Ledger = landing.ledger
    ledger.finish_settling([])
    assert ledger.unsettled() == ledger.close_loading([10]) == []


@st.composite
def unsettled_loads(draw: st.DrawFn) -> list[Load]:
    """Loads of both kinds and of several tables, close together or far apart, oldest first."""
    loads = []
    for load_id in range(draw(st.integers(1, 12))):
        from_at = NOON + timedelta(minutes=draw(st.integers(0, 600)))
        loads.append(
            Load(
                load_id,
                draw(st.sampled_from(["order_filled", "order_filled", "markets"])),
                draw(st.sampled_from(["loaded", "settling"])),
                is_rebuild=draw(st.sampled_from([False, False, False, True])),
                loaded_rows=draw(st.integers(1, 1000)),
                from_at=from_at,
                to_at=from_at + timedelta(minutes=draw(st.integers(0, 90))),
            )
        )
    return loads


@given(loads=unsettled_loads(), max_rows=st.integers(1, 3000))
def test_a_batch_is_bounded_in_every_way(loads: list[Load], max_rows: int) -> None:
    batch = next_batch(loads, max_rows)
    assert batch[0] == loads[0]
    assert all(load in loads for load in batch) and len(set(batch)) == len(batch)
    assert len({load.table_name for load in batch}) == 1
    assert len(batch) == 1 or sum(load.loaded_rows for load in batch) <= max_rows
    assert len(batch) == 1 or not any(load.is_rebuild for load in batch)
    assert longest_gap(batch) <= HOUR


def longest_gap(batch: list[Load]) -> timedelta:
    """Longest stretch between the earliest and the latest row that no load of the batch covers."""
    ordered = sorted(batch, key=lambda load: load.from_at)
    covered_to, longest = ordered[0].to_at, timedelta(0)
    for load in ordered[1:]:
        longest = max(longest, load.from_at - covered_to)
        covered_to = max(covered_to, load.to_at)
    return longest


@given(loads=unsettled_loads(), max_rows=st.integers(1, 3000))
def test_batch_after_batch_takes_every_load_once(loads: list[Load], max_rows: int) -> None:
    pending, taken = list(loads), []
    while batch := next_batch(pending, max_rows):
        taken += batch
        pending = [load for load in pending if load not in batch]
    assert sorted(taken, key=lambda load: load.load_id) == loads


def test_neighbours_are_settled_together() -> None:
    """The bounds are no excuse for settling one load at a time."""
    loads = [
        Load(
            number, "order_filled", "loaded", False, 10, NOON + number * HOUR, NOON + number * HOUR
        )
        for number in range(5)
    ]
    assert next_batch(loads, 50) == loads
    assert next_batch(loads, 30) == loads[:3]
    assert next_batch([loads[0], *loads[2:]], 50) == loads[:1]
    assert next_batch([], 50) == []


def test_blocks_read_again_are_noted_only_for_loads_that_are_as_they_were(landing: Run) -> None:
    """Their rest may have been loaded while the blocks were read: the old measure must not come back."""
    ledger = landing.ledger
    insert_fills(landing, 10, NOON)
    ledger.open(10, ["order_filled"])
    [load] = ledger.close_loading([10])
    unchecked = replace(load, state="unchecked")
    ledger._write([unchecked])
    recheck = Recheck([Unchecked(unchecked, None, NOON)], ())
    insert_fills(landing, 10, NOON + HOUR)
    ledger.open(10, ["order_filled"])
    ledger.close_loading([10])
    later = int((NOON + 2 * HOUR).timestamp())
    recheck.done(landing, later)
    [now] = ledger.unsettled()
    assert (now.state, now.loaded_rows, now.to_at) == ("loaded", 2, NOON + HOUR)
    ledger._write([replace(now, state="unchecked")])
    [again] = ledger.unchecked()
    Recheck([again], ()).done(landing, later)
    assert [load.state for load in ledger.unsettled()] == ["loaded"]
