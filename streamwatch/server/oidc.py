"""Tokens of an OpenID provider: JWTs, checked against the keys that it publishes (JWKS). Needs the extra `oidc`."""

from __future__ import annotations

import importlib.util
import logging
import time
from typing import TYPE_CHECKING, Any

import httpx

from streamwatch.config import AuthSettings
from streamwatch.errors import ConfigError
from streamwatch.redact import display_url
from streamwatch.server.tokens import Principal, Scope, granted

if TYPE_CHECKING:
    from jwt import PyJWK

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
"""Asymmetric ones only: with a symmetric one a public key would be a password."""
KEEP, AT_MOST_EVERY = 3600.0, 30.0
"""Seconds for which keys are kept, and between two requests for them whatever is asked."""
_log = logging.getLogger(__name__)


def verifier_of(settings: AuthSettings) -> JwtVerifier | None:
    """None where no `jwks_url` is configured. Raises ConfigError where something that it needs is missing."""
    if settings.jwks_url is None:
        return None
    if not settings.jwt_audience or not settings.jwt_issuer:
        raise ConfigError("server.auth: jwks_url needs jwt_audience and jwt_issuer, or tokens of others would do")
    if importlib.util.find_spec("jwt") is None:
        raise ConfigError("server.auth.jwks_url: needs `pip install streamwatch[oidc]`")
    return JwtVerifier(settings.jwks_url, settings.jwt_audience, settings.jwt_issuer)


class JwtVerifier:
    """Scopes come from the claim `scope` or `roles`: read, operate, admin, metrics, with or
    without the prefix `streamwatch:`; a token with none of them opens nothing."""

    def __init__(self, url: str, audience: str, issuer: str) -> None:
        self._url = url
        self._audience = audience
        self._issuer = issuer
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = -KEEP

    async def verify(self, token: str) -> Principal | None:
        import jwt  # noqa: PLC0415 - an extra

        try:
            header = jwt.get_unverified_header(token)
            key = await self._key(str(header.get("kid", "")))
            if key is None or header.get("alg") not in ALGORITHMS:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=30,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError:
            return None
        scopes = granted(_scopes(claims))
        return Principal(str(claims.get("preferred_username") or claims["sub"]), scopes) if scopes else None

    async def _key(self, kid: str) -> PyJWK | None:
        now = time.monotonic()
        age = now - self._fetched_at
        if age > KEEP or (kid not in self._keys and age > AT_MOST_EVERY):
            self._fetched_at = now
            await self._fetch()
        return self._keys.get(kid)

    async def _fetch(self) -> None:
        """Keeps the old keys where the provider cannot be reached: it may be away for a while."""
        import jwt  # noqa: PLC0415

        try:
            async with httpx.AsyncClient(timeout=5.0) as http:
                answer = (await http.get(self._url)).raise_for_status()
            keys = jwt.PyJWKSet.from_dict(answer.json()).keys
        except (httpx.HTTPError, ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
            _log.warning("keys of %s cannot be had: %s", display_url(self._url), type(error).__name__)
            return
        self._keys = {key.key_id or "": key for key in keys}


def _scopes(claims: dict[str, Any]) -> tuple[Scope, ...]:
    given = claims.get("scope") or ""
    names = [*(given.split() if isinstance(given, str) else given), *(claims.get("roles") or ())]
    plain = {str(name).removeprefix("streamwatch:") for name in names}
    return tuple(scope for scope in Scope if scope.value in plain)
