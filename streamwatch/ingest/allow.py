"""Which sources may be reached at all: the allow-list against server-side request forgery. Pure but for `resolve`."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from streamwatch.config import IngestSettings
from streamwatch.errors import HostUnknown, UrlNotAllowed
from streamwatch.ingest.reaper import Reaper
from streamwatch.redact import display_url

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Without a network of their own: only the configuration file may name them.
_LOCAL = frozenset({"file", "webcam", "lavfi"})
# Nothing is reached: a publisher comes to us.
_INBOUND = frozenset({"whip"})
_RESOLVE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class AllowList:
    """What sources that were added by the API may reach; the configuration file's are not held to it.

    `hosts` are names (exactly, or `*.example.org`) and networks; None allows any host. Networks are compared with every
    address that the host resolves to, so that a harmless name for an inner address does not pass.
    """

    schemes: frozenset[str]
    hosts: tuple[str, ...] | None

    def check(self, url: str, addresses: Sequence[Address]) -> None:
        """`addresses`: what the URL's host resolves to. Raises UrlNotAllowed, naming scheme or host."""
        scheme, host = scheme_and_host(url)
        if scheme in _LOCAL:
            raise UrlNotAllowed(f"url: {scheme}: sources are only allowed in the configuration file")
        if scheme not in self.schemes:
            raise UrlNotAllowed(f"url: the scheme {scheme!r} is not in ingest.allow_schemes")
        if scheme in _INBOUND or self.hosts is None:
            return
        if any(_names(pattern, host) for pattern in self.hosts):
            return
        networks = [network for pattern in self.hosts if (network := _network(pattern)) is not None]
        if not addresses or not all(any(_mapped(a) in network for network in networks) for a in addresses):
            raise UrlNotAllowed(f"url: the host {host!r} is not in ingest.allow_hosts")


def allow_list(settings: IngestSettings, *, loopback_only: bool) -> AllowList:
    """The settings' list; where none is given, any host while the service itself is bound to loopback, else none."""
    hosts = settings.allow_hosts if settings.allow_hosts is not None or loopback_only else ()
    return AllowList(frozenset(scheme.lower() for scheme in settings.allow_schemes), hosts)


async def check_url(url: str, allowed: AllowList, reaper: Reaper) -> list[Address]:
    """Resolves the URL's host and checks it: the addresses that may be reached, none where any may.

    Raises UrlNotAllowed, and of that HostUnknown where the host does not resolve.
    """
    scheme, host = scheme_and_host(url)
    needs_address = allowed.hosts is not None and scheme in allowed.schemes - _INBOUND
    addresses = await resolve(host, reaper) if needs_address else []
    allowed.check(url, addresses)
    return addresses


async def resolve(host: str, reaper: Reaper) -> list[Address]:
    """Every address of a host. Raises HostUnknown. A look-up that hangs is the reaper's: nothing can interrupt it."""
    found: list[tuple[Any, ...]] = []
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            await reaper.run(lambda stop: found.extend(socket.getaddrinfo(host, None)), f"look-up of {host}")
    except (OSError, UnicodeError, TimeoutError) as error:
        raise HostUnknown(f"url: the host {host!r} cannot be resolved") from error
    return sorted({ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found}, key=str)


def scheme_and_host(url: str) -> tuple[str, str]:
    """Lower case. Raises UrlNotAllowed where a network URL has no host, or one that readers could take differently."""
    scheme = url.partition(":")[0].lower()
    if scheme in _LOCAL or scheme in _INBOUND:
        return scheme, ""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise UrlNotAllowed("url: is not a valid address") from error
    # FFmpeg and Python read a backslash, a control character or a second '@' differently.
    if not host or any(character in url for character in "\\\r\n\t ") or parts.netloc.count("@") > 1:
        raise UrlNotAllowed(f"url: {display_url(url)!r} is not a valid address")
    return scheme, host.rstrip(".").lower()


def _names(pattern: str, host: str) -> bool:
    pattern = pattern.lower().rstrip(".")
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return _network(pattern) is None and pattern == host


def _network(pattern: str) -> Network | None:
    try:
        return ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return None


def _mapped(address: Address) -> Address:
    """::ffff:10.0.0.1 is 10.0.0.1."""
    return getattr(address, "ipv4_mapped", None) or address
