"""Time ranges as users give them: `--from` and `--to`, ISO dates or times in UTC, half-open."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ingest.setting_types import parse_utc
from pipeline.errors import SettingsError

TICK = timedelta(microseconds=1)
# What ClickHouse's DateTime holds; nothing that is loaded can stand outside.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2106, 2, 7, tzinfo=UTC)


@dataclass(frozen=True)
class TimeRange:
    """All moments from `start` on and before `end`, both UTC."""

    start: datetime
    end: datetime

    @property
    def last(self) -> datetime:
        """The last microsecond in it."""
        return self.end - TICK

    @classmethod
    def including(cls, first: datetime, last: datetime) -> TimeRange:
        """The range that ends with the microsecond `last`."""
        return cls(first, last + TICK)

    def __str__(self) -> str:
        return f"{show(self.start)} to {show(self.end)}"


def parse_moment(option: str, text: str | None) -> datetime | None:
    """The moment that an option names, None if it was not given; one beyond ClickHouse's times becomes the nearest.

    Raises:
        SettingsError: it is no ISO date or time.
    """
    if text is None:
        return None
    try:
        moment = parse_utc(text.strip())
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise SettingsError(
            f"{option}: {text!r} is not a date or time like 2026-05-01 or 2026-05-01T12:30:00Z"
        )
    return min(max(moment, EARLIEST), LATEST)


def parse_bounds(
    from_text: str | None, to_text: str | None
) -> tuple[datetime | None, datetime | None]:
    """Start and end of a range, each None if not given.

    Raises:
        SettingsError: one is no date or time, or the range holds nothing.
    """
    start, end = parse_moment("--from", from_text), parse_moment("--to", to_text)
    if start is not None and end is not None and start >= end:
        raise SettingsError(
            f"--from {from_text} is not before --to {to_text}: the range would be empty"
        )
    return start, end


def parse_range(from_text: str | None, to_text: str | None) -> tuple[datetime | None, datetime]:
    """Start (None if not given) and end (now if not given) of a range.

    Raises:
        SettingsError: neither is given, one is no date or time, or the range holds nothing.
    """
    if from_text is None and to_text is None:
        raise SettingsError(
            "which range? Give --from, --to or both, for example --from 2026-05-01 --to 2026-06-01"
        )
    start, end = parse_moment("--from", from_text), parse_moment("--to", to_text)
    if end is None:
        end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    if start is not None and start >= end:
        bound = (
            f"before --to {to_text}"
            if to_text
            else "in the past, and without --to the range ends now"
        )
        raise SettingsError(f"--from {from_text} is not {bound}: the range would be empty")
    return start, end


def show(moment: datetime) -> str:
    """A moment in UTC as short as it can be said: the date alone at midnight."""
    moment = moment.astimezone(UTC).replace(tzinfo=None)
    if (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0):
        return f"{moment:%Y-%m-%d}"
    return moment.isoformat(sep=" ", timespec="auto" if moment.microsecond else "seconds")
