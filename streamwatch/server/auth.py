"""Who may do what: tokens, the session cookie, and access without tokens on loopback."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from streamwatch.config import ServerSettings
from streamwatch.server.limits import RateLimit
from streamwatch.server.oidc import verifier_of
from streamwatch.server.tokens import Principal, Scope, TokenStore, granted

COOKIE = "streamwatch_session"
FORWARDING = frozenset(
    {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip"}
)


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request says of its sender: headers by lower-case name, the peer's address."""

    headers: Mapping[str, str]
    peer: str | None

    @property
    def bearer(self) -> str | None:
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if kind.lower() == "bearer" and value.strip() else None

    @property
    def cookie(self) -> str | None:
        for part in self.headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE and value:
                return value
        return None


def is_loopback(host: str) -> bool:
    """Of a host name or address, without a port."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """The name in a Host header or an authority, without its port and brackets, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()


class Access:
    """`principal` says who a caller is; None: nobody that we know."""

    def __init__(self, settings: ServerSettings) -> None:
        """Raises ConfigError where OIDC is configured by half."""
        self.settings = settings
        self.tokens = TokenStore(settings.auth.tokens)
        self.logins = RateLimit(10, 60.0)
        self._verifier = verifier_of(settings.auth)
        # Sessions die with the process: the key is new at each start, and nothing needs to be stored or cleaned up.
        self._key = secrets.token_bytes(32)

    async def principal(self, caller: Caller) -> Principal | None:
        token = caller.bearer
        if token is not None:
            return await self.of_token(token)
        if caller.cookie is not None:
            known = self._of_session(caller.cookie)
            if known is not None:
                return known
        return Principal("", frozenset(Scope)) if self._anonymous(caller) else None

    async def of_token(self, token: str) -> Principal | None:
        record = self.tokens.find(token)
        if record is not None:
            return Principal(record.name, granted(record.scopes))
        return await self._verifier.verify(token) if self._verifier else None

    def session(self, token: str, at: float | None = None) -> str | None:
        """The cookie's value for the holder of one of our tokens: who, until when, and a seal. None: not ours."""
        record = self.tokens.find(token)
        if record is None:
            return None
        until = int((time.time() if at is None else at) + self.settings.auth.session_hours * 3600)
        body = f"{record.sha256}.{until}"
        return f"{body}.{self._seal(body)}"

    def _of_session(self, cookie: str) -> Principal | None:
        body, _, seal = cookie.rpartition(".")
        if not hmac.compare_digest(self._seal(body).encode(), seal.encode()):
            return None
        digest, _, until = body.partition(".")
        now = time.time()
        if float(until) < now:
            return None
        for record in self.tokens.records():  # revoked since: the session ends with its token
            if hmac.compare_digest(record.sha256, digest) and record.valid(now):
                return Principal(record.name, granted(record.scopes))
        return None

    def _seal(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), sha256).hexdigest()

    def _anonymous(self, caller: Caller) -> bool:
        """Bound to loopback, called from loopback, by a loopback name, and through no proxy."""
        settings = self.settings
        return (
            settings.auth.anonymous_loopback
            and is_loopback(settings.host)
            and caller.peer is not None
            and is_loopback(caller.peer)
            and is_loopback(host_of(caller.headers.get("host", "")))
            and not FORWARDING.intersection(caller.headers)
        )
