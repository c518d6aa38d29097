"""The scheme table: what FFmpeg is asked for each kind of URL. Pure."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import certifi

from streamwatch.config import IngestSettings, StreamSettings
from streamwatch.domain import ClockSource
from streamwatch.errors import ConfigError
from streamwatch.redact import display_url

Options = dict[str, str]


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """One way to open one source. `target` may hold credentials; `display` never does."""

    target: str
    display: str
    options: Options
    format: str | None = None
    alternatives: tuple[tuple[str, Options], ...] = ()
    """(transport, options) to try in turn; the first stands in `options` and `transport`."""
    transport: str = ""
    live: bool | None = True
    """Whether an end is a loss: True, False (a recording ends), None (decided by whether it has a duration)."""
    interruptible: bool = False
    """A read that was broken off can be taken up again (RTSP); elsewhere it ends the run."""
    clock: ClockSource = ClockSource.ARRIVAL
    paced: bool = False
    """Read at the speed of its own timestamps."""
    loop: bool = False


def plan(settings: StreamSettings, ingest: IngestSettings) -> OpenPlan:
    """Raises ConfigError for a URL of no known kind. `whip:` and `whep+http(s)` are not FFmpeg's; see source.py."""
    url = settings.url.get_secret_value()
    scheme = url.partition(":")[0].lower()
    try:
        return SCHEMES[scheme](url, settings, ingest)
    except KeyError:
        known = ", ".join(f"{name}:" for name in [*SCHEMES, "whip", "whep+http", "whep+https"])
        raise ConfigError(f"url: the scheme {scheme!r} is none of {known}") from None


def _microseconds(seconds: float) -> str:
    return str(int(seconds * 1_000_000))


def authorities(settings: StreamSettings, scheme: str) -> str | None:
    """The PEM file of the certificate authorities that the server of an encrypted source must show; None: whoever."""
    checked = settings.tls_verify
    if checked is None:
        checked = settings.tls_ca is not None or scheme in ("https", "whep+https")
    if scheme not in ("rtsps", "https", "rtmps", "whep+https") or not checked:
        return None
    # FFmpeg's TLS library was built elsewhere and does not know where this system keeps its own.
    return str(settings.tls_ca or ssl.get_default_verify_paths().cafile or certifi.where())


def _tls(url: str, settings: StreamSettings) -> Options:
    file = authorities(settings, url.partition(":")[0].lower())
    return {} if file is None else {"tls_verify": "1", "ca_file": file}


def _rtsp(url: str, settings: StreamSettings, ingest: IngestSettings) -> OpenPlan:
    # No probing: the session description names the codec, and the first picture tells the size. Probing costs a second.
    common = {"analyzeduration": "0", "probesize": "32", "timeout": _microseconds(ingest.open_timeout)}
    common |= _tls(url, settings)
    protocols = {"tcp": "tcp,tls,rtp,crypto", "udp": "tcp,tls,udp,rtp,crypto"}
    wanted = settings.transport or ingest.transport
    # TCP first: loss costs time there, on UDP it costs pictures.
    order = ("tcp", "udp") if wanted == "auto" else (wanted,)
    ways = tuple((way, {**common, "rtsp_transport": way, "protocol_whitelist": protocols[way]}) for way in order)
    first, options = ways[0]
    return OpenPlan(url, display_url(url), options, alternatives=ways[1:], transport=first, interruptible=True)


def _http(url: str, settings: StreamSettings, ingest: IngestSettings) -> OpenPlan:
    options = {
        "timeout": _microseconds(ingest.open_timeout),
        "protocol_whitelist": "http,https,tcp,tls,crypto,httpproxy",
        "multiple_requests": "1",
        # A playlist that stops growing must read as stalled, not be asked for a thousand times.
        "max_reload": "8",
        "m3u8_hold_counters": "8",
        **_tls(url, settings),
    }
    if not urlsplit(url).path.endswith((".m3u8", ".m3u")):
        options = {
            k: v for k, v in options.items() if k not in ("max_reload", "m3u8_hold_counters", "multiple_requests")
        }
    paced = settings.realtime
    return OpenPlan(url, display_url(url), options, live=None, paced=paced, loop=settings.loop)


def _rtmp(url: str, settings: StreamSettings, ingest: IngestSettings) -> OpenPlan:
    options = {
        "rw_timeout": _microseconds(ingest.read_timeout),
        "protocol_whitelist": "rtmp,rtmps,rtmpt,rtmpe,tcp,tls,http,crypto",
        "analyzeduration": "1000000",
        **_tls(url, settings),
    }
    return OpenPlan(url, display_url(url), options)


def _file(url: str, settings: StreamSettings, ingest: IngestSettings) -> OpenPlan:
    path = unquote(urlsplit(url).path) if url.startswith("file://") else url.partition(":")[2]
    options = {"protocol_whitelist": "file,crypto"}
    recording = OpenPlan(str(Path(path)), f"file:{path}", options, live=False, clock=ClockSource.FILE)
    return replace(recording, paced=settings.realtime, loop=settings.loop)


def _lavfi(url: str, settings: StreamSettings, ingest: IngestSettings) -> OpenPlan:
    graph = url.partition(":")[2]
    # `movie=` and its kind would read files: graphs come from the configuration file only, which may name files anyway.
    return OpenPlan(graph, "lavfi", {}, format="lavfi", live=False, clock=ClockSource.FILE, paced=settings.realtime)


# Per platform: FFmpeg's input device, and how a camera's number or name is written for it. Tried: v4l2 only.
_WEBCAMS: dict[str, tuple[str, Callable[[str], str]]] = {
    "linux": ("v4l2", lambda name: f"/dev/video{name}" if name.isdigit() else name),
    "darwin": ("avfoundation", lambda name: f"{name}:none"),
    "win32": ("dshow", lambda name: f"video={name}"),
}


def _webcam(url: str, settings: StreamSettings, ingest: IngestSettings) -> OpenPlan:
    name = url.partition(":")[2] or "0"
    if sys.platform not in _WEBCAMS:
        raise ConfigError(f"url: webcams are not supported on {sys.platform}")
    device, written = _WEBCAMS[sys.platform]
    options = {"framerate": "30", "pixel_format": "nv12"} if device == "avfoundation" else {}
    return OpenPlan(written(name), f"webcam:{name}", options, format=device)


SCHEMES: dict[str, Callable[[str, StreamSettings, IngestSettings], OpenPlan]] = {
    "rtsp": _rtsp,
    "rtsps": _rtsp,
    "http": _http,
    "https": _http,
    "rtmp": _rtmp,
    "rtmps": _rtmp,
    "file": _file,
    "lavfi": _lavfi,
    "webcam": _webcam,
}


def without_redirects(chosen: OpenPlan) -> OpenPlan:
    """For a host that was checked: a redirection would lead past the check."""
    return replace(chosen, options={**chosen.options, "max_redirects": "0"})


def pinned(chosen: OpenPlan, address: str) -> OpenPlan:
    """The same with the host's checked address in its place, so that FFmpeg's own look-up cannot find another.

    RTSP and plain HTTP only (the name goes along as HTTP's Host); TLS needs the name itself, to choose the certificate.
    """
    parts = urlsplit(chosen.target)
    if parts.scheme not in ("rtsp", "http"):
        return chosen
    login, at, host = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port is not None else ""
    place = f"[{address}]" if ":" in address else address
    target = parts._replace(netloc=f"{login}{at}{place}{port}").geturl()
    named = {"headers": f"Host: {host}\r\n"} if parts.scheme == "http" else {}
    return replace(chosen, target=target, options={**chosen.options, **named})


def ways(chosen: OpenPlan) -> list[OpenPlan]:
    """The plan itself, then the same with each alternative transport."""
    others = [
        replace(chosen, transport=name, options=options, alternatives=()) for name, options in chosen.alternatives
    ]
    return [chosen, *others]
