"""Passes over a Gamma listing: which pages to read, where to go on, when to stop.

A pass keeps its place in the resource's state, so that a long one goes on in the next run. Paging
that does not move (a cursor or a page that comes again) is an error, never an endless loop. A newest-first
pass believes the order of a listing only as far as the times in it show it; where they do not, it fails and
leaves the new records to the full pass of the same records, which is then due at once. The module is longer than 300 lines
because what a pass stores, where it goes on from there and when it stops are one protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ingest.errors import (
    HttpStatusError,
    OrderIgnored,
    RepeatedCursor,
    RepeatedPage,
    WrongShape,
)
from ingest.http import HttpClient
from ingest.records import canonical_json, content_hash
from ingest.sources.gamma.entities import Entity, micros_of

logger = logging.getLogger(__name__)

REFUSED = (400, 404, 422)  # statuses that refuse a query: its cursor, or its order
# Records without the time that a pass goes by come before all others; they are read again this often, in seconds.
UNDATED_CADENCE = 1800.0


@dataclass(frozen=True)
class Pass:
    """One way through a listing.

    A pass with `newest_by` reads that time field downwards and stops at what the last such pass has
    seen; one with `cadence` reads everything and starts again so many seconds after its last start.
    `instead` names the full pass that finds what a newest-first pass has missed. `finds_closed`: it reads all open
    records, so it shows which of those that are stored as open are open no more.
    """

    name: str
    closed: bool
    newest_by: str | None = None
    instead: str | None = None
    cadence: float | None = None
    finds_closed: bool = False

    @property
    def params(self) -> list[tuple[str, str]]:
        """Query parameters; the cursor is bound to them."""
        params = [("closed", str(self.closed).lower())]
        if self.newest_by:
            params += [("order", self.newest_by), ("ascending", "false")]
        return params

    def is_due(self, state: dict[str, Any], now: float) -> bool:
        """Whether there is something to read: always, if not a finished pass within its cadence.

        Also within its cadence if `again` is set: then it is wanted as soon as it is finished.
        """
        if self.cadence is None or "cursor" in state or "started_at" not in state:
            return True
        if "again" in state:
            return True
        # A start in the future is of a clock that was put right since.
        return not state["started_at"] <= now < state["started_at"] + self.cadence


class Keyset:
    """Pages of one keyset endpoint."""

    def __init__(self, client: HttpClient, base_url: str, entity: Entity, page_limit: int) -> None:
        self._client, self._entity = client, entity
        self._url = base_url.rstrip("/") + entity.path
        self._limit = page_limit

    def page(
        self, params: list[tuple[str, str]], cursor: str | None = None
    ) -> tuple[list[Any], str | None]:
        """Records of a page and the cursor of the next; None if it was the last.

        Raises:
            WrongShape: the answer is no page.
        """
        query = [*params, ("limit", str(self._limit))]
        if cursor:
            query.append(("after_cursor", cursor))
        answer = self._client.get_json(self._url, query)
        records = answer.get(self._entity.table) if isinstance(answer, dict) else None
        if not isinstance(records, list):
            raise WrongShape(f"no list `{self._entity.table}` in the answer", **self.where())
        following = answer.get("next_cursor")
        if following is not None and not isinstance(following, str):
            raise WrongShape("next_cursor is not a string", **self.where())
        return records, following or None

    def is_full(self, records: list[Any]) -> bool:
        """Whether a page has as many records as pages have at most, so that more may follow."""
        return len(records) >= self._limit

    def where(self) -> dict[str, str]:
        """Who asked and where, for errors."""
        return {"source": self._client.source, "url": self._url}


def run_pass(
    keyset: Keyset,
    a_pass: Pass,
    state: dict[str, Any],
    *,
    has_time: Callable[[], bool],
    now: Callable[[], float],
    overlap: float,
) -> Iterator[list[Any]]:
    """Yield the pages of a pass from its stored place on, moving that place after each.

    Args:
        state: the pass's own. `cursor` is there if and only if the pass is under way. Besides, in
            unix seconds: `started_at` if it has a cadence; `newest` and `reached` (the newest and the
            last time seen by this pass so far) and `watermark` (the newest of the last finished one) if
            it has `newest_by`, and `undated`: the cursor behind the records without that time, and since
            when it stands. `missed` is set where records may have been missed, `again` by the caller.
        has_time: asked after every page whether to go on.
        overlap: seconds by which a pass goes back before its watermark.

    Raises:
        OrderIgnored: a page of a newest-first pass is not in that order; it was yielded all the same.
        HttpStatusError, RepeatedCursor, RepeatedPage, WrongShape: as `Keyset.page` and paging have it.
    """
    if a_pass.newest_by:
        _heal_watermark(state, now(), overlap)
    if "cursor" not in state:
        _start(a_pass, state, now())
        _skip_undated(state, now())
    guard = _RepeatGuard(keyset)
    while True:
        records, following = _next_page(keyset, a_pass, state, now, is_first=not guard.pages)
        guard.check(records, state.get("cursor"), following)
        yield records
        done = following is None
        if a_pass.newest_by and _reaches_known(
            keyset, a_pass.newest_by, records, following, state, now(), overlap
        ):
            done = True
        if done:
            _finish(state)
            return
        state["cursor"] = following
        if not has_time():
            return


def _next_page(
    keyset: Keyset,
    a_pass: Pass,
    state: dict[str, Any],
    now: Callable[[], float],
    *,
    is_first: bool,
) -> tuple[list[Any], str | None]:
    """The page at the place of a pass, and the cursor behind it.

    A stored cursor that the upstream no longer takes must not stop the pass for good: it starts over.

    Args:
        is_first: of this run, so that its cursor was stored by an earlier one.
    """
    while True:
        cursor = state.get("cursor")
        try:
            records, following = keyset.page(a_pass.params, cursor)
            # The end, or a page that lost its cursor.
            if following is None and keyset.is_full(records):
                records, following = keyset.page(a_pass.params, cursor)
            return records, following
        except HttpStatusError as error:
            if error.status in REFUSED and cursor and is_first:
                logger.warning(
                    "the stored cursor of pass %s is refused, starting over", a_pass.name
                )
                _start(a_pass, state, now())
                state.pop("undated", None)
                continue
            if error.status in REFUSED and a_pass.newest_by:
                _give_up(state)
            raise


def _reaches_known(
    keyset: Keyset,
    field: str,
    records: list[Any],
    following: str | None,
    state: dict[str, Any],
    now: float,
    overlap: float,
) -> bool:
    """Note the times of a newest-first page, and say whether what comes behind it was seen before.

    Raises:
        OrderIgnored: the pages are not in that order.
    """
    times = [micros_of(record, field) for record in records]
    dated = [time / 1e6 for time in times if time is not None]
    if following and not dated:
        state.setdefault("undated", {"since": now})["cursor"] = following
    # A time that has not come yet is no measure of anything.
    past = [time for time in dated if time <= now]
    if not _descends(past, state):
        _give_up(state)
        raise _order_ignored(keyset, field)
    return _meets_known(past, state, overlap)


def _start(a_pass: Pass, state: dict[str, Any], now: float) -> None:
    for name in ("cursor", "newest", "reached", "again", "last_id"):
        state.pop(name, None)
    if a_pass.cadence is not None:
        state["started_at"] = now


def _heal_watermark(state: dict[str, Any], now: float, overlap: float) -> None:
    """Take back a watermark that has not come yet: of a record's absurd time, or of a wrong clock."""
    watermark = state.get("watermark", 0.0)
    if watermark > now + overlap:
        logger.warning("a watermark of the future is dropped, everything is read again")
        del state["watermark"]
        state["missed"] = True
    elif watermark > now:
        state["watermark"] = now


def _skip_undated(state: dict[str, Any], now: float) -> None:
    """Begin behind the records without a time, if they were read not long ago."""
    undated = state.get("undated")
    if undated is None:
        return
    if undated["since"] <= now < undated["since"] + UNDATED_CADENCE:
        state["cursor"] = undated["cursor"]
    else:
        del state["undated"]


def _finish(state: dict[str, Any]) -> None:
    state.pop("cursor", None)
    state.pop("reached", None)
    if "newest" in state:
        state["watermark"] = max(state.pop("newest"), state.get("watermark", 0.0))


def _give_up(state: dict[str, Any]) -> None:
    """End a newest-first pass whose order is not to be had, without moving its watermark."""
    for name in ("cursor", "newest", "reached", "undated"):
        state.pop(name, None)
    state["missed"] = True


def _order_ignored(keyset: Keyset, field: str) -> OrderIgnored:
    message = (
        f"the listing is not newest first although order={field} was asked for, so what is new cannot be told;"
        " everything is read instead, which takes longer"
    )
    return OrderIgnored(message, **keyset.where())


def _descends(times: list[float], state: dict[str, Any]) -> bool:
    """Whether the times of a page, and those of the pages before, never rise; notes the last one."""
    reached = [state["reached"]] if "reached" in state else []
    if times:
        state["reached"] = times[-1]
    return all(one >= other for one, other in pairwise(reached + times))


def _meets_known(times: list[float], state: dict[str, Any], overlap: float) -> bool:
    """Whether the times of a page, newest first, reach back to what was seen before; notes the newest.

    Without a watermark one step down is enough: everything older is read by the full pass that follows. Times
    that are all the same prove no order, so they end nothing.
    """
    if not times:
        return False
    state["newest"] = max(times + ([state["newest"]] if "newest" in state else []))
    if min(times) == state["newest"]:
        return False
    return "watermark" not in state or min(times) < state["watermark"] - overlap


class _RepeatGuard:
    """Remembers what paging handed out in this run and refuses it a second time."""

    def __init__(self, keyset: Keyset) -> None:
        self._keyset = keyset
        self._cursors: set[str | None] = set()
        self._fingerprints: set[int] = set()
        self.pages = 0

    def check(self, records: list[Any], cursor: str | None, following: str | None) -> None:
        ids = [record.get("id") if isinstance(record, dict) else None for record in records]
        fingerprint = content_hash(canonical_json(ids))
        if following is not None and fingerprint in self._fingerprints:
            message = "the same page came again, so after_cursor is being ignored; try again later"
            raise RepeatedPage(message, **self._keyset.where())
        self._cursors.add(cursor)
        if following is not None and following in self._cursors:
            message = "a cursor came again, so paging would never end; try again later"
            raise RepeatedCursor(message, **self._keyset.where())
        self._fingerprints.add(fingerprint)
        self.pages += 1
