"""`/play`: one page with a query box, a table of the result and the schema. It needs no password itself.

The page asks as the user whose name and password are typed into it, and keeps neither. Nothing of it comes
from elsewhere: its policy allows its own script and style, by their hashes, and requests to this
server. What the database answers is shown as text, never as HTML.
"""

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse

_PAGE = (Path(__file__).parent / "play.html").read_text(encoding="utf-8")


def _hashed(element: str) -> str:
    content = re.search(f"<{element}>(.*?)</{element}>", _PAGE, re.DOTALL)[1]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hashed('script')}; style-src {_hashed('style')};"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


async def play(_: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse(_PAGE, headers=_HEADERS)
