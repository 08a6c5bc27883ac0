"""Prices from the CLOB: best bid, best ask, midpoint and spread of outcome tokens, at the time of asking.

Loads `market_prices`, one row for each token and reading. There is no cursor and no past: what was not asked for in time
cannot be asked for later. A batch of 500 tokens is asked for by two `POST /prices` (each token takes two of the 500
entries that one may have, one for each side), one `POST /midpoints` and one `POST /spreads`; the rows of a batch carry the
time at which the last of these answers came, so that nothing in a row is from later than it says. Answers are sparse:
tokens without an order book are left out, and get no row.

The CLOB refuses a whole batch for one token that it does not take. The batch is halved until that token stands alone;
it becomes a dead letter and is left out for an hour. Where it refuses whatever it is asked, that is an error of its own.

Sources of these facts: Polymarket's OpenAPI of the CLOB, and Polymarket/py-sdk, `actions/clob.py`; see docs/sources.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from ingest.errors import SourceFrozen, TokensRefused, UpstreamError, WrongShape, one_line
from ingest.http import HttpClient
from ingest.page import Page, Stream
from ingest.progress import Progress
from ingest.rate_limits import RateLimit
from ingest.records import DeadLetter, decode_batch
from ingest.sources.clob.records import SIDES, observations, prices_table
from ingest.tables import MARKET_PRICES

SOURCE = "prices"
LIMITS = (
    RateLimit(requests=9000),
    RateLimit(requests=500, paths=("/prices",)),
    RateLimit(requests=500, paths=("/midpoints",)),
    RateLimit(requests=500, paths=("/spreads",)),
)
BATCH = 500  # entries of one request; more are refused
LEFT_OUT_S = 3600.0
# More of one batch: it is not the tokens. Each costs about 20 requests.
MOST_REFUSED = 10


class Refused:
    """Tokens that the CLOB refused, each left alone for an hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def add(self, tokens: Sequence[str]) -> None:
        """Leave these out from now on."""
        self._until.update(dict.fromkeys(tokens, self._clock() + LEFT_OUT_S))

    def without(self, tokens: Sequence[str]) -> list[str]:
        """The tokens that may be asked about."""
        now = self._clock()
        return [token for token in tokens if self._until.get(token, now) <= now]


def streams(
    url: str,
    *,
    progress: Progress,
    tokens: Sequence[str],
    client: HttpClient | None = None,
    refused: Refused | None = None,
    batch: int = BATCH,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Sequence[Stream]:
    """Prices of tokens, as they are now.

    Args:
        url: base URL of the CLOB.
        progress: budget of this run; says afterwards whether every token was asked about.
        tokens: outcome tokens, decimal.
        refused: tokens that are left out; those that are refused now are added.
        batch: tokens that share a time, at most 500.
        now: this machine's clock.

    Failures recorded in `progress`: SourceFrozen if no token has a price, TokensRefused, WrongShape, and what
    `HttpClient` raises. A batch that fails does not stop the others, unless the CLOB is down.
    """
    client, refused = client or HttpClient(SOURCE, limits=LIMITS), refused or Refused()

    def pages(_: dict[str, Any]) -> Iterator[Page]:
        wanted = refused.without(list(dict.fromkeys(tokens)))
        failed_before, is_read, found = len(progress.failures), True, 0
        is_answered = False
        for at in range(0, len(wanted), batch):
            if progress.upstream_is_down or (at and not progress.has_time()):
                is_read = False
                break
            with progress.recording_failures():
                part = _Batch(client, url, wanted[at : at + batch])
                try:
                    page = part.read(now)
                finally:
                    is_answered |= part.is_answered
                    if is_answered:
                        refused.add(list(part.refused))
                found += len(page) + len(page.dead)
                yield page
        if wanted and not found and len(progress.failures) == failed_before:
            what = f"no prices of any of {len(wanted)} tokens of open markets; it has stopped"
            progress.failures.append(SourceFrozen(what, source=SOURCE, url=url))
        progress.caught_up[MARKET_PRICES.name] = is_read and len(progress.failures) == failed_before

    return (Stream(MARKET_PRICES.name, MARKET_PRICES, pages),)


class _Batch:
    """Tokens that are asked about together.

    Attributes:
        refused: what the CLOB said of the tokens that it refused alone, by token.
        is_answered: it did not refuse everything, so it is these tokens that it does not take.
    """

    def __init__(self, client: HttpClient, url: str, tokens: Sequence[str]) -> None:
        self._client, self._url, self._tokens = client, url, tokens
        self.refused: dict[str, TokensRefused] = {}
        self.is_answered = False

    def read(self, now: Callable[[], datetime]) -> Page:
        """Ask, and make a page of the answers.

        Raises:
            UpstreamError: an answer is missing.
        """
        answers = [self._answers(path) for path in ("/prices", "/midpoints", "/spreads")]
        if len(self.refused) == len(self._tokens):
            raise next(iter(self.refused.values()))
        records = observations(self._tokens, now(), *answers)
        rows, dead = decode_batch(records, prices_table)
        dead += [_letter(token, error) for token, error in self.refused.items()]
        return Page(MARKET_PRICES, rows, SOURCE, dead)

    def _answers(self, path: str) -> dict[str, Any]:
        """What one endpoint says, by token."""
        sides = tuple(SIDES) if path == "/prices" else ("",)
        tokens = [token for token in self._tokens if token not in self.refused]
        most, found = BATCH // len(sides), {}
        for at in range(0, len(tokens), most):
            found |= self._ask(path, sides, tokens[at : at + most])
        return found

    def _ask(self, path: str, sides: Sequence[str], tokens: Sequence[str]) -> dict[str, Any]:
        """What one endpoint says of tokens, by halves where it refuses them together."""
        try:
            return self._post(path, sides, tokens)
        except TokensRefused as error:
            if len(tokens) == 1:
                self.refused[tokens[0]] = error
            if len(self.refused) > MOST_REFUSED:
                raise
        if len(tokens) == 1:
            return {}
        middle = len(tokens) // 2
        return self._ask(path, sides, tokens[:middle]) | self._ask(path, sides, tokens[middle:])

    def _post(self, path: str, sides: Sequence[str], tokens: Sequence[str]) -> dict[str, Any]:
        where = {"source": SOURCE, "url": self._url + path, "request": f"{len(tokens)} tokens"}
        body = [_entry(token, side) for token in tokens for side in sides]
        answer = self._client.post_json(
            where["url"], body, request=where["request"], refusal=refusal(where)
        )
        self.is_answered = True
        if not isinstance(answer, dict):
            raise WrongShape("the answer is no object of tokens", **where)
        if others := answer.keys() - set(tokens):
            what = one_line(min(others), 80)
            raise WrongShape(f"an answer about {what!r}, which was not asked for", **where)
        return answer


def _entry(token: str, side: str) -> dict[str, str]:
    return {"token_id": token, "side": side} if side else {"token_id": token}


def refusal(where: Mapping[str, str]) -> Callable[[int, bytes], UpstreamError | None]:
    """Says of an answer that is not 2xx whether it refuses what it was asked; see `ingest.http.Refusal`.

    `Invalid token id` comes with status 500, which is asked again otherwise.
    """

    def refused(status: int, body: bytes) -> UpstreamError | None:
        if status not in (400, 404, 413, 422) and not (status == 500 and b"token" in body.lower()):
            return None
        said = one_line(body.decode("utf-8", "replace"), 160) or "no message"
        return TokensRefused(f"HTTP {status}: {said}", **where)

    return refused


def _letter(token: str, error: TokensRefused) -> DeadLetter:
    return DeadLetter("refused_token", str(error), orjson.dumps({"token_id": token}))
