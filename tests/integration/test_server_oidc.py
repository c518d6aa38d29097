"""Tokens of an OpenID provider: a real key set over HTTP, real signatures."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

jwt = pytest.importorskip("jwt", reason="needs the extra `oidc`")

from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402
from jwt.algorithms import ECAlgorithm  # noqa: E402

from streamwatch.errors import ConfigError  # noqa: E402
from streamwatch.server.api import create_app  # noqa: E402
from tests.fakes.control import build  # noqa: E402
from tests.fakes.web import WebServer  # noqa: E402

ISSUER, AUDIENCE = "https://id.example", "streamwatch"


class Provider:
    """Publishes a key and signs with it."""

    def __init__(self, directory: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.directory = directory
        self.publish("one")

    def publish(self, kid: str) -> None:
        public = json.loads(ECAlgorithm.to_jwk(self.key.public_key()))
        keys = {"keys": [{**public, "kid": kid, "use": "sig", "alg": "ES256"}]}
        (self.directory / "jwks").write_text(json.dumps(keys))

    def token(self, kid: str = "one", key: Any = None, algorithm: str = "ES256", **claims: Any) -> str:
        body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "exp": time.time() + 60, "scope": "openid read"}
        body |= claims
        body = {name: value for name, value in body.items() if value is not None}
        return str(jwt.encode(body, key or self.key, algorithm=algorithm, headers={"kid": kid}))


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[tuple[Provider, httpx.AsyncClient, WebServer]]:
    directory = tmp_path / "provider"
    directory.mkdir()
    async with WebServer(directory) as web:
        auth = {
            "tokens": tmp_path / "tokens.json",
            "jwks_url": f"{web.url}/jwks",
            "jwt_audience": AUDIENCE,
            "jwt_issuer": ISSUER,
        }
        services, _ = build(tmp_path, auth=auth)
        transport = httpx.ASGITransport(create_app(services), client=("192.0.2.7", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            yield Provider(directory), http, web


async def status(http: httpx.AsyncClient, token: str, path: str = "/api/v1/streams") -> int:
    return (await http.get(path, headers={"Authorization": f"Bearer {token}"})).status_code


async def test_a_signed_token_opens_what_its_scopes_allow(
    provider: tuple[Provider, httpx.AsyncClient, WebServer],
) -> None:
    issuer, http, web = provider
    assert await status(http, issuer.token()) == 200
    assert await status(http, issuer.token(), "/api/v1/config") == 403
    assert await status(http, issuer.token(scope=None, roles=["streamwatch:admin"]), "/api/v1/config") == 200
    assert web.requests == ["/jwks"], "the keys are kept"


async def test_what_is_not_rightly_signed_for_us_opens_nothing(
    provider: tuple[Provider, httpx.AsyncClient, WebServer],
) -> None:
    issuer, http, _ = provider
    other = ec.generate_private_key(ec.SECP256R1())
    wrong = {
        "over": issuer.token(exp=time.time() - 60),
        "no end": issuer.token(exp=None),
        "for others": issuer.token(aud="other"),
        "by others": issuer.token(iss="https://evil.example"),
        "no scope": issuer.token(scope="openid"),
        "other key": issuer.token(key=other),
        "other algorithm": issuer.token(key=rsa.generate_private_key(65537, 2048), algorithm="RS256"),
        "symmetric": issuer.token(key="x" * 32, algorithm="HS256"),
        "unsigned": jwt.encode({"sub": "anna", "scope": "admin"}, "", algorithm="none"),
        "no token": "a.b.c",
    }
    assert {name: await status(http, token) for name, token in wrong.items()} == dict.fromkeys(wrong, 401)


async def test_keys_may_change_and_unknown_ones_are_not_asked_for_again_and_again(
    provider: tuple[Provider, httpx.AsyncClient, WebServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, http, web = provider
    assert await status(http, issuer.token()) == 200
    issuer.publish("two")
    assert await status(http, issuer.token("two")) == 401
    assert await status(http, issuer.token("three")) == 401
    assert len(web.requests) == 1
    monkeypatch.setattr("streamwatch.server.oidc.AT_MOST_EVERY", 0.0)
    assert await status(http, issuer.token("two")) == 200
    (issuer.directory / "jwks").write_text("nonsense")
    assert await status(http, issuer.token("three")) == 401
    assert await status(http, issuer.token("two")) == 200, "the old keys hold while the provider is out of order"


def test_half_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jwt_audience"):
        build(tmp_path, auth={"jwks_url": "https://id.example/jwks"})
