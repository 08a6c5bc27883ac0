"""Passes over a Gamma listing: which pages to read, where to go on, when to stop.

A pass keeps its place in the resource's state, so that a long one goes on in the next run. Paging
that does not move (a cursor or a page that comes again) is an error, never an endless loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ingest.errors import HttpStatusError, RepeatedCursor, RepeatedPage, WrongShape
from ingest.http import HttpClient
from ingest.records import canonical_json, content_hash
from ingest.sources.gamma_entities import Entity

logger = logging.getLogger(__name__)

# Records without the time that a pass goes by come before all others; they are read again this often, in seconds.
UNDATED_CADENCE = 1800.0


@dataclass(frozen=True)
class Pass:
    """One way through a listing.

    A pass with `newest_by` reads that time field downwards and stops at what the last such pass has
    seen; one with `cadence` reads everything and starts again so many seconds after its last start.
    """

    name: str
    closed: bool
    newest_by: str | None = None
    cadence: float | None = None

    @property
    def params(self) -> list[tuple[str, str]]:
        """Query parameters; the cursor is bound to them."""
        params = [("closed", str(self.closed).lower())]
        if self.newest_by:
            params += [("order", self.newest_by), ("ascending", "false")]
        return params

    def is_due(self, state: dict[str, Any], now: float) -> bool:
        """Whether there is something to read: always, if not a finished pass within its cadence."""
        if self.cadence is None or "cursor" in state or "started_at" not in state:
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
            unix seconds: `started_at` if it has a cadence; `newest` (seen by this pass so far) and
            `watermark` (by the last finished one) if it has `newest_by`, and `undated`: the cursor behind the
            records without that time, and since when it stands.
        has_time: asked after every page whether to go on.
        overlap: seconds by which a pass goes back before its watermark.
    """
    if "cursor" not in state:
        _start(a_pass, state, now())
        _skip_undated(state, now())
    guard = _RepeatGuard(keyset)
    while True:
        cursor = state.get("cursor")
        try:
            records, following = keyset.page(a_pass.params, cursor)
        except HttpStatusError as error:
            # A cursor that the upstream no longer takes must not stop this pass for good.
            if not cursor or guard.pages or error.status not in (400, 404, 422):
                raise
            logger.warning("the stored cursor of pass %s is refused, starting over", a_pass.name)
            _start(a_pass, state, now())
            state.pop("undated", None)
            continue
        guard.check(records, cursor, following)
        yield records
        done = following is None
        if a_pass.newest_by:
            times = _times(records, a_pass.newest_by)
            if following and not times:
                state.setdefault("undated", {"since": now()})["cursor"] = following
            done = _meets_known(times, state, overlap) or done
        if done:
            _finish(state)
            return
        state["cursor"] = following
        if not has_time():
            return


def _start(a_pass: Pass, state: dict[str, Any], now: float) -> None:
    state.pop("cursor", None)
    state.pop("newest", None)
    if a_pass.cadence is not None:
        state["started_at"] = now


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
    if "newest" in state:
        state["watermark"] = max(state.pop("newest"), state.get("watermark", 0.0))


def _times(records: list[Any], field: str) -> list[float]:
    return [time for record in records if (time := _unix_time(record, field)) is not None]


def _meets_known(times: list[float], state: dict[str, Any], overlap: float) -> bool:
    """Whether the times of a page, newest first, reach back to what was seen before; notes the newest.

    Without a watermark one time is enough: everything older is read by the full pass that follows.
    """
    if not times:
        return False
    state["newest"] = max(times + ([state["newest"]] if "newest" in state else []))
    return "watermark" not in state or min(times) < state["watermark"] - overlap


def _unix_time(record: Any, field: str) -> float | None:
    """Unix seconds of a time: Gamma writes 2026-07-24T00:00:16.1Z and 2026-07-24 00:00:16+00."""
    value = record.get(field) if isinstance(record, dict) else None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


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
