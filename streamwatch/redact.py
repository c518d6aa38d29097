"""Credentials never leave the process: one place that removes them from text and URLs."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

# user:password@ of any URL in running text. The password may itself hold '@' or '/' when it was not quoted, so the
# match goes to the last '@' before white space or a quote.
_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s\"'<>]*@")
_QUERY_SECRET = re.compile(
    r"(?P<key>[?&;](?:[\w.-]*(?:token|secret|passw(?:or)?d|pwd|pass|auth|key|sig|signature|credential)[\w.-]*)=)[^\s&;#\"'<>]*",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<kind>\b(?:Bearer|Basic|Digest)\s+)[A-Za-z0-9._~+/=-]{6,}")


def redact(text: str) -> str:
    """The text with *** for the user information and secret-looking query values of its URLs, and for bearer tokens."""
    text = _USERINFO.sub(r"\g<scheme>***@", text)
    text = _QUERY_SECRET.sub(r"\g<key>***", text)
    return _BEARER.sub(r"\g<kind>***", text)


def display_url(url: str) -> str:
    """What may be shown of a source URL: no user information, no query, no fragment.

    A password that was not quoted may hold what ends a host, so the user information goes before the URL is parsed.
    """
    plain = redact(url)
    try:
        parts = urlsplit(plain)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return plain.partition("?")[0]
