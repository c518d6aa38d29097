"""Access: loopback without tokens, scopes, sessions, Host, Origin, rates; tokens from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamwatch.cli import main
from streamwatch.errors import ConfigError, Conflict, NotFound
from streamwatch.server.api import create_app
from streamwatch.server.auth import host_of, is_loopback
from streamwatch.server.limits import RateLimit
from streamwatch.server.tokens import Scope, TokenStore, granted
from tests.fakes.control import build

LOOPBACK = "http://127.0.0.1:8460"


def client(path: Path, peer: str = "127.0.0.1", base: str = LOOPBACK, **server: Any) -> httpx.AsyncClient:
    services, _ = build(path, **server)
    transport = httpx.ASGITransport(create_app(services), client=(peer, 5000))
    return httpx.AsyncClient(transport=transport, base_url=base)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("peer", "headers", "server", "status"),
    [
        ("127.0.0.1", {}, {}, 200),
        ("::1", {"host": "[::1]:8460"}, {}, 200),
        ("127.0.0.1", {"host": "localhost:8460"}, {}, 200),
        ("127.0.0.1", {"host": "evil.example"}, {}, 403),
        ("127.0.0.1", {"host": "127.0.0.1.evil.example"}, {}, 403),
        ("127.0.0.1", {"host": "cam.example"}, {"allowed_hosts": ["cam.example"]}, 401),
        ("127.0.0.1", {"forwarded": "for=1.2.3.4"}, {}, 401),
        ("127.0.0.1", {"x-forwarded-for": "1.2.3.4"}, {}, 401),
        ("127.0.0.1", {"x-forwarded-proto": "https"}, {}, 401),
        ("192.0.2.7", {}, {}, 401),
        ("127.0.0.1", {}, {"host": "0.0.0.0"}, 401),
        ("127.0.0.1", {"authorization": "Bearer wrong"}, {}, 401),
        ("127.0.0.1", {}, {"anonymous": False}, 401),
    ],
)
async def test_without_a_token_only_on_loopback(
    tmp_path: Path, peer: str, headers: dict[str, str], server: dict[str, Any], status: int
) -> None:
    auth = {"tokens": tmp_path / "tokens.json", "anonymous_loopback": server.pop("anonymous", True)}
    async with client(tmp_path, peer, auth=auth, **server) as http:
        answer = await http.get("/api/v1/streams", headers=headers)
        assert answer.status_code == status, answer.text
        if status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("read", {"list"}),
        ("operate", {"list", "remove"}),
        ("admin", {"list", "remove", "config", "metrics"}),
        ("metrics", {"metrics"}),
    ],
)
async def test_scopes(tmp_path: Path, scope: str, allowed: set[str]) -> None:
    token = TokenStore(tmp_path / "tokens.json").create("someone", (Scope(scope),))
    asked = {
        "list": ("GET", "/api/v1/streams", 200),
        "remove": ("DELETE", "/api/v1/streams/none", 404),
        "config": ("GET", "/api/v1/config", 200),
        "metrics": ("GET", "/metrics", 200),
    }
    async with client(tmp_path, "192.0.2.7") as http:
        for name, (method, path, status) in asked.items():
            answer = await http.request(method, path, headers=bearer(token))
            assert answer.status_code == (status if name in allowed else 403), name
        for path in ("/livez", "/readyz", "/", "/api/v1/session", "/api/v1/openapi.json"):
            assert (await http.get(path)).status_code == 200, path


async def test_a_session_is_a_cookie_that_ends_with_its_token(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "tokens.json")
    token = store.create("anna", (Scope.OPERATE,))
    async with client(tmp_path, "192.0.2.7") as http:
        assert (await http.get("/api/v1/session")).json()["authenticated"] is False
        login = await http.post("/api/v1/session", json={"token": token})
        assert login.json() == {
            "authenticated": True,
            "scopes": ["operate", "read"],
            "anonymous": False,
            "name": "anna",
        }
        cookie = login.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert token not in cookie
        assert (await http.get("/api/v1/streams")).status_code == 200
        store.revoke("anna")
        assert (await http.get("/api/v1/streams")).status_code == 401


async def test_a_cookie_that_was_touched_or_is_over_opens_nothing(tmp_path: Path) -> None:
    services, _ = build(tmp_path)
    token = services.access.tokens.create("anna", (Scope.READ,))
    transport = httpx.ASGITransport(create_app(services), client=("192.0.2.7", 1))
    good, old = services.access.session(token), services.access.session(token, at=0.0)
    assert good is not None
    assert old is not None
    digest, until, seal = good.split(".")
    forged = f"{digest}.{int(until) + 1}.{seal}"
    async with httpx.AsyncClient(transport=transport, base_url=LOOPBACK) as http:
        for cookie, status in ((good, 200), (old, 401), (forged, 401), ("", 401), ("a.b", 401), ("é", 401)):
            answer = await http.get("/api/v1/streams", headers=[(b"cookie", f"streamwatch_session={cookie}".encode())])
            assert answer.status_code == status, cookie


async def test_logins_are_limited(tmp_path: Path) -> None:
    async with client(tmp_path, "192.0.2.7") as http:
        statuses = [(await http.post("/api/v1/session", json={"token": "guess"})).status_code for _ in range(11)]
        assert statuses == [401] * 10 + [429]
        assert int((await http.post("/api/v1/session", json={"token": "guess"})).headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 404),
        (LOOPBACK, 404),
        ("https://evil.example", 403),
        ("http://127.0.0.1:1", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
async def test_pages_of_another_origin_change_nothing(tmp_path: Path, origin: str | None, status: int) -> None:
    async with client(tmp_path) as http:
        headers = {"Origin": origin} if origin else {}
        assert (await http.delete("/api/v1/streams/none", headers=headers)).status_code == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
async def test_only_json_changes_state(tmp_path: Path, kind: str | None) -> None:
    async with client(tmp_path) as http:
        headers = {"content-type": kind} if kind else {}
        body = b'{"token":"x"}'
        assert (await http.post("/api/v1/session", content=body, headers=headers)).status_code == 415


async def test_a_body_without_a_length_is_limited_too(tmp_path: Path) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 1000

    async with client(tmp_path, max_body=4096) as http:
        answer = await http.post("/api/v1/streams", content=endless(), headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("header", "host", "loopback"),
    [
        ("localhost:8460", "localhost", True),
        ("127.8.9.1", "127.8.9.1", True),
        ("[::1]:80", "::1", True),
        ("::1", "::1", True),
        ("LOCALHOST.", "localhost.", True),
        ("10.0.0.1:80", "10.0.0.1", False),
        ("localhost.evil.example:80", "localhost.evil.example", False),
        ("", "", False),
    ],
)
def test_hosts(header: str, host: str, loopback: bool) -> None:
    assert host_of(header) == host
    assert is_loopback(host) is loopback


def test_tokens_are_kept_as_hashes_and_hold_until_revoked_or_over(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "tokens.json"
    store, other = TokenStore(path), TokenStore(path)
    assert store.records() == ()
    token = store.create("prometheus", (Scope.METRICS,), lifetime=100.0)
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0, "only its owner may read it"
    found = other.find(token)
    assert found is not None
    assert granted(found.scopes) == {Scope.METRICS}
    assert other.find(token, at=found.created_at + 101) is None
    assert other.find(token[:-1]) is None
    with pytest.raises(Conflict):
        store.create("prometheus", (Scope.READ,))
    store.create("second", (Scope.READ,))
    store.revoke("prometheus")
    assert other.find(token) is None, "a running service sees the revocation"
    with pytest.raises(NotFound):
        store.revoke("prometheus")


@pytest.mark.parametrize("text", ["", "[]", '{"tokens": [{"name": 1}]}', '{"tokens": [{"scopes": ["root"]}]}'])
def test_a_broken_file_of_tokens_is_an_error_not_an_open_door(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"tokens\.json"):
        TokenStore(path).find("anything")


def test_rates_are_limited_in_count_and_memory() -> None:
    limit = RateLimit(2, 10.0, keys=2)
    assert [limit.allow("a", at) for at in (0, 1, 2, 10.5, 10.6)] == [True, True, False, True, False]
    assert limit.retry_after("a", 10.6) == pytest.approx(0.4)
    limit.allow("b", 11)
    limit.allow("c", 11)
    assert limit.allow("a", 11), "the eldest was forgotten"


def test_tokens_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens.json"
    monkeypatch.setenv("STREAMWATCH_SERVER__AUTH__TOKENS", str(path))
    assert main(["token", "create", "grafana", "--scope", "read", "--scope", "metrics", "--days", "2"]) == 0
    token = capsys.readouterr().out.strip()
    assert TokenStore(path).find(token) is not None
    assert main(["token", "create", "grafana"]) == 1
    assert main(["token", "create", "two words"]) == 2
    assert main(["token", "create", "brief", "--days", "-1"]) == 2
    assert main(["token", "list"]) == 0
    listed = capsys.readouterr().out
    assert "grafana" in listed
    assert "read,metrics" in listed
    assert token not in listed
    assert json.loads(path.read_text())["tokens"][0]["sha256"] not in listed
    assert main(["token", "revoke", "grafana"]) == 0
    assert main(["token", "revoke", "grafana"]) == 1
    assert TokenStore(path).find(token) is None
