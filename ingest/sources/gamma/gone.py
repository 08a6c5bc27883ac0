"""Records that have left Gamma's listing of open ones: they closed, maybe without a time, or are listed no more."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

NO_ID_IS_ABOVE = 2**63 - 1


class Gone:
    """Finds the records that are stored as open and are not in the listing of open ones any more.

    That listing comes by id, so all open records between the first and the last one of a page are on it. A listing in
    another order shows nothing, and nothing is found then.

    Args:
        state: that of the pass; keeps `last_id` between its runs.
        known: ids that are stored as open; those that are no decimal numbers are left out.
    """

    def __init__(self, state: dict[str, Any], known: Iterable[str]) -> None:
        self._state = state
        self._known = sorted(int(each) for each in known if each.isdecimal())
        self._last = state.get("last_id", -1) if "cursor" in state else -1
        self._found: set[int] = set()

    def add(self, records: list[Any]) -> None:
        """Take the next page of the pass."""
        texts = [str(record.get("id")) for record in records if isinstance(record, dict)]
        ids = [int(text) for text in texts if text.isdecimal()]
        if not ids:
            return
        if ids != sorted(ids) or ids[0] <= self._last:
            self._last = NO_ID_IS_ABOVE
        else:
            self._found |= set(self._between(self._last, ids[-1])).difference(ids)
            self._last = ids[-1]
        self._state["last_id"] = self._last

    def ids(self) -> list[str]:
        """What was found in this run, in order of id; call it when this run of the pass has ended."""
        rest = [] if "cursor" in self._state else self._between(self._last, NO_ID_IS_ABOVE)
        return [str(each) for each in sorted({*self._found, *rest})]

    def _between(self, first: int, last: int) -> list[int]:
        """Known ids above the first and up to the last."""
        return self._known[bisect_right(self._known, first) : bisect_right(self._known, last)]
