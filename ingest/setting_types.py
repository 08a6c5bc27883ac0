"""Types of settings: how their texts are read, and what is said of one that makes no sense."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

from croniter import croniter
from pydantic import AfterValidator, BeforeValidator


def parse_utc(value: str | datetime | None) -> datetime | None:
    """Parse an ISO date or time; without a zone it is UTC.

    Raises:
        ValueError: it is neither.
    """
    if value is None or value == "":
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(
            "Input should be a date or time like 2026-04-28 or 2026-04-28T11:00:40"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _http_url(url: str) -> str:
    try:
        urlsplit(url).port  # noqa: B018, it is what finds a bad host or port
    except ValueError:
        url = ""
    if not re.match(r"https?://[^\s/]+\S*$", url):
        raise ValueError("Input should be a URL that starts with https:// or http://")
    return url


def listed(values: str) -> list[str]:
    return [value.strip() for value in values.split(",") if value.strip()]


def _schedule(expression: str) -> str:
    if expression and not croniter.is_valid(expression, second_at_beginning=False):
        raise ValueError(
            "Input should be a cron expression (UTC), with seconds as an optional sixth field"
        )
    return expression


UtcTime = Annotated[datetime, BeforeValidator(parse_utc)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
HttpUrls = Annotated[
    str, AfterValidator(lambda urls: ",".join(_http_url(url) for url in listed(urls)))
]
OptionalHttpUrl = Annotated[str, AfterValidator(lambda url: _http_url(url) if url else url)]
Schedule = Annotated[str, AfterValidator(_schedule)]
