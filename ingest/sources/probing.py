"""How `doctor` asks an upstream: through the client that reading uses, once, and in a hurry."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from ingest.errors import IngestError, WrongShape, one_line
from ingest.http import HttpClient
from ingest.sources.base import Finding
from ingest.sources.desk import Desk

MAX_CLOCK_DIFFERENCE_S = 10


def ask(
    desk: Desk, subject: str, url: str, setting: str, request: Callable[[HttpClient], str]
) -> Finding:
    """Make one request and say how it went.

    Args:
        subject: what is asked, for people.
        setting: the environment variable that names the upstream.
        request: makes the request with the client that it is given; returns what the answer shows.
    """
    client, started = desk.new_client(subject, (), setting), time.monotonic()
    try:
        answer = request(client)
    except IngestError as error:
        return _failed(subject, f"{host_of(url)}: {_without_subject(subject, error)}", setting)
    except (LookupError, TypeError, ValueError) as error:
        what = one_line(f"{type(error).__name__}: {error}", 160)
        return _failed(subject, f"{host_of(url)}: an answer that makes no sense ({what})", setting)
    took_s = time.monotonic() - started
    if abs(client.clock_ahead_s) > MAX_CLOCK_DIFFERENCE_S:
        side = "ahead of" if client.clock_ahead_s > 0 else "behind"
        return Finding(
            subject,
            f"{host_of(url)}: {answer}; this machine's clock is {abs(client.clock_ahead_s):,.0f} s {side} its clock",
            True,
            "set this machine's clock, by NTP for example",
        )
    return Finding(subject, f"{host_of(url)}: {answer} ({took_s * 1000:.0f} ms)")


def records(client: HttpClient, url: str, name: str, params: list[tuple[str, str]]) -> int:
    """Number of records in the list `name` of a JSON answer.

    Raises:
        IngestError: there is no answer, or no such list in it.
    """
    answer = client.get_json(url, params)
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise WrongShape(f"no list `{name}` in the answer", source=client.source, url=url)
    return len(found)


def host_of(url: str) -> str:
    """Host of an address, and its port where it names one; no user, no key."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _failed(subject: str, detail: str, setting: str) -> Finding:
    return Finding(subject, detail, True, f"check {setting} and the network")


def _without_subject(subject: str, error: IngestError) -> str:
    return str(error).removeprefix(f"{subject}: ")
