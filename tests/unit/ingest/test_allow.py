from __future__ import annotations

import ipaddress

import pytest

from streamwatch.config import IngestSettings
from streamwatch.errors import UrlNotAllowed
from streamwatch.ingest.allow import AllowList, allow_list, check_url
from streamwatch.ingest.reaper import Reaper

RTSP = frozenset({"rtsp", "rtsps"})


def allowed(url: str, hosts: tuple[str, ...] | None, *addresses: str) -> bool:
    try:
        AllowList(RTSP, hosts).check(url, [ipaddress.ip_address(address) for address in addresses])
    except UrlNotAllowed:
        return False
    return True


@pytest.mark.parametrize(
    ("url", "hosts", "addresses", "verdict"),
    [
        ("rtsp://cam/x", None, (), True),
        ("http://cam/x", None, (), False),
        ("file:/etc/passwd", None, (), False),
        ("webcam:0", None, (), False),
        ("lavfi:movie=/etc/passwd", None, (), False),
        ("rtsp://cam/x", (), ("10.0.0.5",), False),
        ("rtsp://CAM.example.org./x", ("cam.example.org",), (), True),
        ("rtsp://a.example.org/x", ("*.example.org",), (), True),
        ("rtsp://example.org.evil.net/x", ("*.example.org",), ("1.2.3.4",), False),
        ("rtsp://cam/x", ("10.0.0.0/8",), ("10.0.0.5",), True),
        ("rtsp://cam/x", ("10.0.0.0/8",), ("10.0.0.5", "192.168.0.1"), False),
        ("rtsp://cam/x", ("10.0.0.0/8",), (), False),
        ("rtsp://cam/x", ("10.0.0.5",), ("10.0.0.5",), True),
        ("rtsp://cam/x", ("10.0.0.0/8",), ("::ffff:10.0.0.5",), True),
        ("rtsp://cam/x", ("fd00::/8",), ("fd00::5",), True),
        ("rtsp://good@evil@cam/x", None, (), False),
        ("rtsp://cam\\@evil/x", None, (), False),
        ("rtsp:///x", None, (), False),
        ("rtsp://cam:99999/x", None, (), False),
    ],
)
def test_the_table(url: str, hosts: tuple[str, ...] | None, addresses: tuple[str, ...], verdict: bool) -> None:
    assert allowed(url, hosts, *addresses) is verdict


def test_by_default_any_host_on_loopback_and_none_elsewhere() -> None:
    settings = IngestSettings()
    assert allow_list(settings, loopback_only=True).hosts is None
    assert allow_list(settings, loopback_only=False).hosts == ()


async def test_the_resolved_address_counts() -> None:
    loopback = AllowList(RTSP, ("127.0.0.0/8", "::1/128"))
    await check_url("rtsp://localhost/x", loopback, Reaper())
    with pytest.raises(UrlNotAllowed, match="localhost"):
        await check_url("rtsp://localhost/x", AllowList(RTSP, ("10.0.0.0/8",)), Reaper())
    with pytest.raises(UrlNotAllowed, match="resolved"):
        await check_url("rtsp://no-such-host.invalid/x", loopback, Reaper())


def test_the_message_holds_no_secret() -> None:
    with pytest.raises(UrlNotAllowed) as caught:
        AllowList(RTSP, ()).check("rtsp://me:secret@cam/x?token=hidden", [])
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
