"""WHIP and WHEP against real peers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamwatch.config import StreamSettings
from streamwatch.domain import FailureReason, StreamState
from streamwatch.errors import ConfigError, NotFound, Overloaded, SourceUnavailable, StreamEnded
from streamwatch.ingest.allow import AllowList
from streamwatch.ingest.source import SourceContext, make_source
from streamwatch.ingest.webrtc import WebRtcGateway
from streamwatch.protocols import WhipGateway
from tests.fakes.certificates import self_signed
from tests.fakes.ingest import Collector, Watch, ingest_settings, source_for, until
from tests.fakes.ports import free_port
from tests.fakes.publisher import Publisher, WhepServer, without_candidates
from tests.fakes.web import WebServer


@contextlib.asynccontextmanager
async def _whip(gateway: WebRtcGateway, **settings: float) -> AsyncIterator[Watch]:
    watch = Watch("whip:", ingest_settings(**settings))
    watch.context = SourceContext(gateway=gateway)
    async with watch:
        await until(lambda: "cam" in gateway._expected, "the stream is expected")
        try:
            yield watch
        finally:
            await gateway.close_all()


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_a_publisher_is_watched(codec: str) -> None:
    gateway: WebRtcGateway = WebRtcGateway()
    protocol: WhipGateway = gateway
    async with _whip(gateway) as watch, Publisher(codec, audio=True) as publisher:
        session, answer = await protocol.publish("cam", publisher.offer)
        await publisher.answered(answer)
        await watch.live()
        info = watch.sink.infos[0]
        assert (info.width, info.height, info.codec, info.transport) == (320, 240, codec.lower(), "webrtc")
        publisher.track.size = (480, 360)
        await until(lambda: watch.sink.infos[-1].width == 480, "the new size")
        await gateway.close("cam", session)
        await watch.failed(FailureReason.ENDED)
        with pytest.raises(NotFound):
            await gateway.close("cam", session)
    assert not [thread.name for thread in threading.enumerate() if "decoder" in thread.name]


async def test_large_pictures_are_scaled_down() -> None:
    gateway = WebRtcGateway()
    async with _whip(gateway, max_side=320) as watch, Publisher() as publisher:
        publisher.track.size = (640, 360)
        await publisher.answered((await gateway.publish("cam", publisher.offer))[1])
        await watch.live(1)
        assert watch.sink.pictures[-1].image.shape == (180, 320, 3)
        assert watch.sink.infos[-1].width == 640  # what is sent, not what is left of it


async def test_candidates_may_trickle_in() -> None:
    gateway = WebRtcGateway()
    async with _whip(gateway) as watch, Publisher() as publisher:
        offer, candidates = without_candidates(publisher.offer)
        session, answer = await gateway.publish("cam", offer)
        await publisher.answered(without_candidates(answer)[0])
        await gateway.trickle("cam", session, "\r\n".join(["a=mid:0", *candidates, "a=end-of-candidates"]))
        await watch.live(1)
        with pytest.raises(ConfigError, match="sdpfrag"):
            await gateway.trickle("cam", session, "a=candidate:nonsense")


async def test_a_new_publisher_replaces_the_old() -> None:
    gateway = WebRtcGateway()
    async with _whip(gateway) as watch, Publisher() as first, Publisher() as second:
        await first.answered((await gateway.publish("cam", first.offer))[1])
        await watch.live(1)
        second.track.size = (160, 120)
        await second.answered((await gateway.publish("cam", second.offer))[1])
        await until(lambda: watch.sink.infos[-1].width == 160, "the second publisher's pictures")
        await watch.live(1)
        assert len(gateway._sessions) == 1


async def test_a_publisher_that_vanishes_is_noticed_and_may_come_back() -> None:
    gateway = WebRtcGateway()
    async with _whip(gateway) as watch:
        async with Publisher() as publisher:
            await publisher.answered((await gateway.publish("cam", publisher.offer))[1])
            await watch.live(1)
            await publisher.vanish()
            await watch.failed(FailureReason.STALLED)
        async with Publisher() as publisher:
            await publisher.answered((await gateway.publish("cam", publisher.offer))[1])
            await watch.live(1)


async def test_a_publisher_that_ends_its_track_alone_is_gone() -> None:
    """It keeps the connection: the stream waits for another publisher, rather than to come back to this one."""
    gateway = WebRtcGateway()
    async with _whip(gateway) as watch, Publisher() as publisher, Publisher() as another:
        await publisher.answered((await gateway.publish("cam", publisher.offer))[1])
        await watch.live(1)
        await publisher.connection.getSenders()[0].stop()
        await watch.failed(FailureReason.ENDED)
        await asyncio.sleep(1.5)
        assert len([status for status in watch.statuses if status.retry_at]) == 1
        assert watch.state is not StreamState.LIVE
        assert not gateway._sessions
        await another.answered((await gateway.publish("cam", another.offer))[1])
        await watch.live(1)


async def test_waiting_for_a_publisher_is_no_failure() -> None:
    gateway = WebRtcGateway()
    async with _whip(gateway, open_timeout=0.1) as watch:
        await asyncio.sleep(2.2)
        assert watch.state is StreamState.CONNECTING
        assert watch.reasons() == []


async def test_bad_offers_are_refused() -> None:
    gateway = WebRtcGateway(max_sessions=1)
    with pytest.raises(NotFound):
        await gateway.publish("cam", "v=0")
    gateway.expect("cam")
    gateway.expect("other")
    for offer in ("", "nonsense", "v=0\r\n", "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 x y\r\n"):
        with pytest.raises(ConfigError, match="body"):
            await gateway.publish("cam", offer)
    async with Publisher() as publisher:
        await gateway.publish("cam", publisher.offer)
        with pytest.raises(Overloaded):
            await gateway.publish("other", publisher.offer)
        await gateway.close_all()


async def test_a_refused_publisher_leaves_no_task() -> None:
    gateway = WebRtcGateway()
    gateway.expect("cam")
    async with Publisher(audio=True) as publisher:
        sound_only = publisher.offer.replace("a=sendrecv", "a=recvonly", 1)
        before = asyncio.all_tasks()
        with pytest.raises(ConfigError, match="no video"):
            await gateway.publish("cam", sound_only)
        assert not asyncio.all_tasks() - before


async def test_a_publisher_that_never_connects_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """ICE fails: the answer never reaches the publisher, so nothing answers our checks."""
    monkeypatch.setattr("streamwatch.ingest.webrtc._CONNECT", 1.0)
    gateway = WebRtcGateway()
    gateway.expect("cam")
    async with Publisher() as publisher:
        before = asyncio.all_tasks()
        await gateway.publish("cam", without_candidates(publisher.offer)[0])
        await until(lambda: not gateway._sessions, "the session is dropped")
        await until(lambda: not asyncio.all_tasks() - before, "no task is left")


async def test_whep_pulls_a_stream() -> None:
    sink = Collector()
    async with WhepServer() as server:
        url = server.url.replace("//", "//top:secret@")
        source = source_for(url, SourceContext())
        task = asyncio.create_task(source.run(sink))
        await until(lambda: sink.offered >= 2 or task.done(), "pictures")
        assert server.authorization is not None
        assert server.authorization.startswith("Basic ")
        await server.drop()
        with pytest.raises(StreamEnded) as caught:
            async with asyncio.timeout(10):
                await task
        assert "secret" not in str(caught.value)
        assert server.deleted


async def test_a_whep_token_is_not_taken_elsewhere() -> None:
    """A session's address at another server, which would get the token with the DELETE, is not asked."""
    sink = Collector()
    async with WhepServer() as elsewhere:
        stolen = elsewhere.url.removeprefix("whep+")
        async with WhepServer(location=stolen) as server:
            source = source_for(server.url.replace("//", "//token@"), SourceContext())
            task = asyncio.create_task(source.run(sink))
            await until(lambda: sink.offered >= 1 or task.done(), "pictures")
            assert server.authorization == "Bearer token"
            task.cancel()
            await asyncio.wait([task], timeout=10)
        assert not elsewhere.deleted and elsewhere.authorization is None


async def test_whep_reaches_the_address_that_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name resolves elsewhere a moment later: nobody asks. The server and its certificate still see the name."""
    asked: list[str] = []

    def look_up(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        place = "127.0.0.1" if len(asked) == 1 else "127.0.0.66"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.66:9")
    certificate, key = self_signed(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    sink = Collector()
    async with WhepServer(tls=tls) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        settings = StreamSettings.model_validate({"url": url, "tls_ca": certificate})
        allowed = AllowList(frozenset({"whep+https"}), ("127.0.0.1",))
        source = make_source("cam", settings, ingest_settings(), SourceContext(), allowed)
        task = asyncio.create_task(source.run(sink))
        await until(lambda: sink.offered >= 1 or task.done(), "pictures")
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert sink.offered and server.deleted
        assert server.hosts == {url.split("/")[2]}
    assert asked == ["localhost"]


async def test_whep_takes_another_address_of_the_host_where_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 0)) for place in ("127.0.0.66", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    monkeypatch.setattr("random.sample", lambda found, count: list(reversed(found)))
    sink = Collector()
    async with WhepServer() as server:
        task = asyncio.create_task(source_for(server.url.replace("127.0.0.1", "cam"), SourceContext()).run(sink))
        await until(lambda: sink.offered >= 1 or task.done(), "pictures")
        task.cancel()
        await asyncio.wait([task], timeout=10)
    assert sink.offered


async def test_a_whep_server_whose_name_does_not_resolve_is_named() -> None:
    with pytest.raises(SourceUnavailable, match="cannot be resolved") as caught:
        await source_for("whep+https://no-such-host.invalid/x", SourceContext()).run(Collector())
    assert caught.value.reason is FailureReason.CONNECTION_FAILED


@pytest.mark.parametrize(("status", "reason"), [(401, "auth_failed"), (404, "not_found"), (500, "connection_failed")])
async def test_whep_refusals_are_named(status: int, reason: str) -> None:
    async with WhepServer(status) as server:
        with pytest.raises(SourceUnavailable) as caught:
            await source_for(server.url, SourceContext()).run(Collector())
    assert caught.value.reason == reason


async def test_three_publishers_at_once_leave_one_and_lose_none() -> None:
    gateway = WebRtcGateway()
    async with _whip(gateway) as watch:
        async with Publisher() as a, Publisher() as b, Publisher() as c:
            await a.answered((await gateway.publish("cam", a.offer))[1])
            await watch.live(1)
            made = await asyncio.gather(gateway.publish("cam", b.offer), gateway.publish("cam", c.offer))
            newest = gateway._sessions["cam"].id
            assert newest in {session for session, _ in made}
            for session in {session for session, _ in made} - {newest}:
                with pytest.raises(NotFound):
                    await gateway.close("cam", session)
            await gateway.close("cam", newest)
            assert gateway._sessions == {}
        await until(lambda: not [t for t in threading.enumerate() if "decoder" in t.name], "no decoder is left")


async def test_a_withdrawn_stream_sends_its_publisher_away() -> None:
    gateway = WebRtcGateway()
    gateway.expect("cam")
    async with Publisher() as publisher, Publisher() as late:
        await publisher.answered((await gateway.publish("cam", publisher.offer))[1])
        gateway.withdraw("cam")
        await until(lambda: not gateway._sessions, "the session has ended")
        with pytest.raises(NotFound, match="takes a publisher"):
            await gateway.publish("cam", late.offer)
        await gateway.close_all()


async def test_a_whep_server_that_hangs_at_the_goodbye_holds_nobody() -> None:
    sink = Collector()
    async with WhepServer(deaf_to_goodbyes=True) as server:
        task = asyncio.create_task(source_for(server.url, SourceContext()).run(sink))
        await until(lambda: sink.offered >= 1 or task.done(), "pictures")
        began = asyncio.get_running_loop().time()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert asyncio.get_running_loop().time() - began < 2.0


async def test_whip_is_stopped_in_every_state() -> None:
    for state in ("connecting", "live", "paused"):
        gateway = WebRtcGateway()
        async with _whip(gateway) as watch, Publisher() as publisher:
            if state == "live":
                await publisher.answered((await gateway.publish("cam", publisher.offer))[1])
            if state == "paused":
                watch.supervisor.pause()
            await _stopped(watch, state)


async def test_whep_is_stopped_in_every_state(tmp_path: Path) -> None:
    async with WhepServer() as server, WebServer(tmp_path) as hanging:
        closed = f"http://127.0.0.1:{free_port()}"
        for state, url in (("connecting", hanging.url + "/hang"), ("live", server.url), ("reconnecting", closed)):
            async with Watch(url if url.startswith("whep+") else f"whep+{url}") as watch:
                await _stopped(watch, state)


async def _stopped(watch: Watch, state: str) -> None:
    """Within two seconds, from the state given."""
    await watch.state_is(StreamState(state))
    began = asyncio.get_running_loop().time()
    watch.supervisor.stop()
    await watch.state_is(StreamState.STOPPED)
    assert asyncio.get_running_loop().time() - began < 2.0, state
