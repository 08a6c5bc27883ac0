"""Who may ask: the owner, and the read-only user, whose number of queries is bound too."""

import contextlib
import hmac
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from embedded_clickhouse.passwords import OWNER, READER
from embedded_clickhouse.protocol import Code, refusal

# Those of docker/users.d/dashboard.xml.
_READER_AT_ONCE = 8
_READER_QUERIES, _READER_INTERVAL_S = 600, 60.0


@dataclass
class Users:
    """The users of one front.

    Attributes:
        password: the owner's; empty: any will do.
        reader_password: the read-only user's; empty: there is no such user.
        owner: the owner's name.
    """

    password: str
    reader_password: str
    owner: str = OWNER
    _reading: int = 0
    _asked: deque[float] = field(default_factory=deque)

    def authenticate(self, user: str, password: str) -> bool:
        """Whether it is the read-only user who asks, and not the owner.

        Raises:
            ClickHouseError: it is neither.
        """
        if user == self.owner and (not self.password or _same(password, self.password)):
            return False
        if user == READER and self.reader_password and _same(password, self.reader_password):
            return True
        raise refusal(
            Code.AUTHENTICATION_FAILED,
            f"{user}: Authentication failed: password is incorrect, or there is no user with such name.",
        )

    @contextlib.asynccontextmanager
    async def admitted(self, is_reader: bool) -> AsyncIterator[None]:
        """Count a statement of the read-only user for the length of the block.

        Raises:
            ClickHouseError: it has too many at once, or had too many lately.
        """
        if not is_reader:
            yield
            return
        now = time.monotonic()
        while self._asked and self._asked[0] <= now - _READER_INTERVAL_S:
            self._asked.popleft()
        if self._reading >= _READER_AT_ONCE:
            raise refusal(
                Code.TOO_MANY_SIMULTANEOUS_QUERIES,
                f"Too many simultaneous queries for user {READER}: {self._reading}, maximum: {_READER_AT_ONCE}",
            )
        if len(self._asked) >= _READER_QUERIES:
            raise refusal(
                Code.QUOTA_EXCEEDED,
                f"Quota for user {READER} has been exceeded: queries = {len(self._asked)}/{_READER_QUERIES}"
                f" in {_READER_INTERVAL_S:.0f} s",
            )
        self._asked.append(now)
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())
