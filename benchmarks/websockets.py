"""Websocket load: many clients, each message to all of them, beside raw `websockets.broadcast` in the same run.

    python -m benchmarks.websockets --clients 500 --rate 10 --seconds 10

Server and clients are processes of their own. Latency is from publishing to the client's having the message: it holds
the cost of the clients too, the same for both. CPU is the server process's, user and system.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast, serve

from streamwatch.domain import Box, Instant, StreamScore, StreamState, StreamStatus, TrackScore, Verdict

WARM_UP = 2.0
_TRACK = TrackScore(
    track=7,
    box=Box(400.0, 120.0, 560.0, 330.0),
    score=0.81,
    verdict=Verdict.FAKE,
    reason=None,
    coverage=0.9,
    quality=0.7,
    confirmed=True,
    members={"TimmV2": 0.77, "TimmV2ST": 0.8, "ViT": 0.83, "ViTST": 0.84},
)


@dataclass(frozen=True)
class Load:
    clients: int
    rate: float
    seconds: float


@dataclass(frozen=True)
class Figures:
    """`cpu`: share of one core. Latencies in seconds."""

    cpu: float
    p50: float
    p99: float
    received: int
    expected: int
    rss_mb: float


def score(seq: int) -> StreamScore:
    now = Instant(time.monotonic(), time.time())
    return StreamScore("lobby", seq, now, Verdict.FAKE, None, 0.81, 0.7, 0.9, (_TRACK,), (1280, 720), now, 7)


@asynccontextmanager
async def ours() -> AsyncIterator[tuple[str, Callable[[int], None]]]:
    from streamwatch.server.run import serving  # noqa: PLC0415 - only the server's process needs it
    from tests.fakes.control import build  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as directory:
        services, _ = build(Path(directory))
        async with serving(services) as address:
            services.hub.status(StreamStatus("lobby", StreamState.LIVE, Instant(0, 0)), None)
            yield f"ws://127.0.0.1:{address.port}/api/v1/ws", lambda seq: services.hub.score(score(seq), None)


@asynccontextmanager
async def raw() -> AsyncIterator[tuple[str, Callable[[int], None]]]:
    from streamwatch.server.hub import dumps  # noqa: PLC0415
    from streamwatch.server.messages import score_message  # noqa: PLC0415

    clients: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        clients.add(connection)
        try:
            await connection.wait_closed()
        finally:
            clients.discard(connection)

    def publish(seq: int) -> None:
        now = score(seq)
        broadcast(clients, dumps(score_message("raw", seq, now, StreamState.LIVE, now.at)))

    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/", publish


async def serving_process(kind: str, load: Load, pipe: Connection) -> None:
    async with (ours if kind == "ours" else raw)() as (url, publish):
        pipe.send(url)
        await asyncio.to_thread(pipe.recv)  # the clients are connected
        loop = asyncio.get_running_loop()
        begun, used, seq = loop.time(), 0.0, 0
        measured_from = begun + WARM_UP
        while (now := loop.time()) < measured_from + load.seconds:
            if used == 0.0 and now >= measured_from:
                used = time.process_time()
            seq += 1
            publish(seq)
            await asyncio.sleep(max(0.0, begun + seq / load.rate - loop.time()))
        cpu = (time.process_time() - used) / (loop.time() - measured_from)
        pipe.send((cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        await asyncio.to_thread(pipe.recv)


async def client(url: str, ready: Callable[[], None], latencies: list[float], since: list[float]) -> None:
    async with connect(url, compression=None, open_timeout=60) as socket:
        ready()
        async for text in socket:
            now = time.time()
            at = text.find('"captured_at":"') if isinstance(text, str) else -1
            if since and at >= 0 and isinstance(text, str) and '"type":"score"' in text[:80]:
                latencies.append(now - _seconds(text[at + 15 : at + 39], since[0]))


def _seconds(iso: str, midnight: float) -> float:
    """Of an ISO time of the day that began at `midnight`; quicker than a full parser, which would be measured too."""
    return midnight + int(iso[11:13]) * 3600 + int(iso[14:16]) * 60 + float(iso[17:23])


async def clients_process(load: Load, url: str, pipe: Connection) -> None:
    latencies: list[float] = []
    since: list[float] = []
    connected = asyncio.Semaphore(0)
    tasks = []
    for _ in range(load.clients):
        tasks.append(asyncio.create_task(client(url, connected.release, latencies, since)))
        if len(tasks) % 25 == 0:
            await asyncio.sleep(0.02)
    for _ in tasks:
        await connected.acquire()
    pipe.send("connected")
    await asyncio.sleep(WARM_UP)
    since.append(time.time() // 86_400 * 86_400)
    await asyncio.to_thread(pipe.recv)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    quantiles = statistics.quantiles(latencies, n=100)
    pipe.send((quantiles[49], quantiles[98], len(latencies)))


def _server(kind: str, load: Load, pipe: Connection) -> None:
    asyncio.run(serving_process(kind, load, pipe))


def _clients(load: Load, url: str, pipe: Connection) -> None:
    asyncio.run(clients_process(load, url, pipe))


def measure(kind: str, load: Load) -> Figures:
    context = multiprocessing.get_context("spawn")
    server_pipe, server_end = context.Pipe()
    server = context.Process(target=_server, args=(kind, load, server_end))
    server.start()
    url = server_pipe.recv()
    clients_pipe, clients_end = context.Pipe()
    clients = context.Process(target=_clients, args=(load, url, clients_end))
    clients.start()
    clients_pipe.recv()
    server_pipe.send("go")
    cpu, rss = server_pipe.recv()
    time.sleep(0.5)
    clients_pipe.send("stop")
    p50, p99, received = clients_pipe.recv()
    server_pipe.send("stop")
    clients.join()
    server.join()
    return Figures(cpu, p50, p99, received, round(load.clients * load.rate * load.seconds), rss)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rate", type=float, default=10.0, help="messages a second to each client")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * args.clients + 200)), hard))
    load = Load(args.clients, args.rate, args.seconds)
    results = {kind: measure(kind, load) for kind in ("raw", "ours")}
    ratio = results["ours"].cpu / results["raw"].cpu
    if args.json:
        print(json.dumps({kind: vars(figures) for kind, figures in results.items()} | {"cpu_ratio": ratio}))
        return 0
    print(f"{load.clients} clients x {load.rate:g} messages/s for {load.seconds:g} s")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}"
    )
    for kind, name in (("raw", "websockets.broadcast"), ("ours", "StreamWatch's hub")):
        it = results[kind]
        print(
            f"{name:<21} CPU {it.cpu:6.1%}  p50 {it.p50 * 1000:6.1f} ms  p99 {it.p99 * 1000:6.1f} ms  "
            f"received {it.received}/{it.expected}  peak RSS {it.rss_mb:.0f} MB"
        )
    print(f"CPU ratio {ratio:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
