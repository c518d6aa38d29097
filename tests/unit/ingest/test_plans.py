from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streamwatch.config import IngestSettings, StreamSettings
from streamwatch.errors import ConfigError
from streamwatch.ingest.plans import OpenPlan, plan, ways


def planned(url: str, **fields: object) -> OpenPlan:
    return plan(StreamSettings.model_validate({"url": url, **fields}), IngestSettings())


def test_rtsp_tries_tcp_then_udp() -> None:
    first, second = ways(planned("rtsp://me:pw@host:554/x?token=abc"))
    assert (first.transport, second.transport) == ("tcp", "udp")
    assert (first.options["rtsp_transport"], second.options["rtsp_transport"]) == ("tcp", "udp")
    assert first.display == "rtsp://host:554/x"
    assert [way.transport for way in ways(planned("rtsp://host/x", transport="udp"))] == ["udp"]


def test_an_option_by_the_name_that_ffmpeg_knows() -> None:
    """`stimeout` and `rw_timeout` do nothing for RTSP; `timeout` is in microseconds."""
    assert planned("rtsp://host/x").options["timeout"] == "10000000"


@pytest.mark.parametrize(
    ("url", "forbidden"),
    [
        ("rtsp://host/x", "file"),
        ("https://host/live.m3u8", "file"),
        ("rtmp://host/x", "file"),
        ("file:/a.mp4", "tcp"),
        ("file:/a.m3u8", "http"),
    ],
)
def test_each_scheme_reaches_its_own_protocols_only(url: str, forbidden: str) -> None:
    assert forbidden not in planned(url).options["protocol_whitelist"].split(",")


@pytest.mark.parametrize(
    ("url", "verify", "own", "checked"),
    [
        ("rtsps://host/x", None, False, False),  # cameras sign their own
        ("rtsps://host/x", True, False, True),
        ("rtsps://host/x", None, True, True),
        ("rtsps://host/x", False, True, False),
        ("https://host/x.m3u8", None, False, True),
        ("https://host/x.mp4", False, False, False),
        ("rtmps://host/x", True, False, True),
        ("rtsp://host/x", True, False, False),
    ],
)
def test_which_certificates_are_checked(
    url: str, verify: bool | None, own: bool, checked: bool, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    options = planned(url, tls_verify=verify, tls_ca=ca if own else None).options
    assert options.get("tls_verify") == ("1" if checked else None)
    if checked:
        assert Path(options["ca_file"]) == ca if own else Path(options["ca_file"]).is_file()


@pytest.mark.parametrize(
    ("url", "target"), [("file:clip.mp4", "clip.mp4"), ("file:///a%20b.mp4", "/a b.mp4"), ("file:/x/y.mp4", "/x/y.mp4")]
)
def test_file_paths(url: str, target: str) -> None:
    assert planned(url).target == target


@pytest.mark.parametrize(
    ("platform", "url", "target", "device"),
    [
        ("linux", "webcam:0", "/dev/video0", "v4l2"),
        ("linux", "webcam:/dev/video2", "/dev/video2", "v4l2"),
        ("darwin", "webcam:1", "1:none", "avfoundation"),
        ("win32", "webcam:Integrated Camera", "video=Integrated Camera", "dshow"),
    ],
)
def test_webcams(monkeypatch: pytest.MonkeyPatch, platform: str, url: str, target: str, device: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    found = planned(url)
    assert (found.target, found.format) == (target, device)


def test_unknown_schemes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"gopher.*rtsp"):
        planned("gopher://host/x")
