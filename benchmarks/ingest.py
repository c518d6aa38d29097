"""What ingest costs: `python -m benchmarks.ingest [--seconds S]`. Bounded run time, about five minutes.

- CPU per stream and per picture against the floor: bare PyAV demux and decode of the same packets at the same skip
  level, and conversion of as many pictures, in the same run and the same kind of thread.
- Time to the first picture, counted from the camera's next key picture.
- Recovery after a killed camera comes back.
- Memory for each added stream, and how many streams two cores could hold.

The camera runs as a process of its own, so that its cost is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import platform
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import av
import psutil
from av.codec.context import ThreadType
from av.video.reformatter import VideoReformatter
from pydantic import SecretStr

from streamwatch.config import IngestSettings, StreamSettings
from streamwatch.domain import ClockSource, DropReason, Image, Instant, StreamInfo, StreamStatus
from streamwatch.ingest.sampling import Sampler, SkipPolicy
from streamwatch.ingest.source import SourceContext, make_source
from streamwatch.ingest.supervisor import Supervisor
from streamwatch.observer import NullObserver

# Seconds until the choice of what to decode has settled: it wants to have seen four key pictures.
SETTLED = 6
SIZES = {"720p25": (1280, 720), "1080p25": (1920, 1080)}
Skip = Literal["DEFAULT", "NONREF", "NONKEY"]


class Counter:
    """A sink that only counts."""

    def __init__(self) -> None:
        self.decoded_count = self.sampled = 0
        self.began = self.first = float("inf")

    def connected(self, info: StreamInfo) -> None: ...
    def dropped(self, reason: DropReason, count: int = 1) -> None: ...

    def packet(self, packet: Any, template: Any) -> None:
        self.began = min(self.began, time.monotonic())

    def decoded(self, count: int = 1) -> None:
        self.decoded_count += count

    def offer(
        self,
        image: Image,
        captured_at: Instant,
        pts: float | None,
        clock: ClockSource,
        quantiser: float | None = None,
    ) -> None:
        self.sampled += 1
        self.first = min(self.first, time.monotonic())


@dataclass(frozen=True, slots=True)
class Cost:
    cpu: float
    decoded: int
    sampled: int
    elapsed: float

    @property
    def load(self) -> float:
        """Cores in use. Both sides see the same packets a second; counted pictures differ by those at the edges, which
        at one a second are an eighth of all."""
        return self.cpu / self.elapsed

    @property
    def each(self) -> float:
        """Seconds of a core per decoded picture, with all that goes with it."""
        return self.cpu / max(1, self.decoded)


def make_clip(directory: Path, name: str, seconds: int = 10) -> Path:
    """Moving test pattern with noise, H.264 as a camera sends it: 25 a second, a key picture each second, no B."""
    width, height = SIZES[name]
    path = directory / f"{name}.mp4"
    pattern = f"testsrc2=size={width}x{height}:rate=25:duration={seconds},noise=alls=6:allf=t"
    options = {
        "preset": "veryfast",
        "b": "4M",
        "tune": "zerolatency",
        "x264-params": "sliced-threads=0:slices=1:scenecut=0:keyint=25:min-keyint=25",
    }
    with av.open(str(path), "w") as output, av.open(pattern, format="lavfi") as source:
        stream: Any = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 25
        for frame in source.decode(video=0):
            frame.pict_type = av.video.frame.PictureType.NONE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@contextlib.asynccontextmanager
async def camera(clip: Path, port: int = 0) -> AsyncIterator[str]:
    """The camera in its own process; yields its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamwatch.camera", str(clip), "--port", str(port), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def supervised(
    url: str, sink: Counter, fps: float, context: SourceContext, statuses: list[StreamStatus] | None = None
) -> Supervisor:
    ingest = IngestSettings(sample_fps=fps, backoff_initial=0.5, stable_after=2.0)
    settings = StreamSettings(url=SecretStr(url), transport="tcp")
    told = [] if statuses is None else statuses
    return Supervisor(
        "s", lambda: make_source("s", settings, ingest, context), sink, ingest, told.append, NullObserver()
    )


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  the sinks are filled by threads, which set no event
        await asyncio.sleep(0.01)


async def pictures(*sinks: Counter, count: float = 1) -> None:
    await until(lambda: all(sink.sampled >= count for sink in sinks))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def ours(url: str, count: int, fps: float, seconds: float) -> Cost:
    """`count` supervised streams, in the steady state."""
    context, sinks = SourceContext(), [Counter() for _ in range(count)]
    supervisors = [supervised(url, sink, fps, context) for sink in sinks]
    tasks = [asyncio.create_task(supervisor.run()) for supervisor in supervisors]
    await pictures(*sinks, count=SETTLED * fps)
    before, started = cpu(), time.monotonic()
    counted = sum(sink.decoded_count for sink in sinks), sum(sink.sampled for sink in sinks)
    await asyncio.sleep(seconds)
    used, elapsed = cpu() - before, time.monotonic() - started
    decoded, sampled = (sum(s.decoded_count for s in sinks) - counted[0], sum(s.sampled for s in sinks) - counted[1])
    for supervisor in supervisors:
        supervisor.stop()
    await asyncio.gather(*tasks)
    return Cost(used, decoded, sampled, elapsed)


async def floor(url: str, count: int, fps: float, seconds: float) -> Cost:
    """The same reading, decoding and converting with nothing around it: no clock, no sink, no statistics."""
    stop, ready = threading.Event(), threading.Barrier(count + 1)
    counters = [[0, 0] for _ in range(count)]

    def read(counter: list[int]) -> None:
        sampler, policy, reformatter = Sampler(fps), SkipPolicy(), VideoReformatter()
        options = {"rtsp_transport": "tcp", "analyzeduration": "0", "probesize": "32", "timeout": "5000000"}
        with av.open(url, options=options) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            context.thread_count, context.thread_type = 1, ThreadType.NONE
            for packet in container.demux(stream):
                if stop.is_set():
                    return
                t = float((packet.pts or 0) * packet.time_base)
                context.skip_frame = policy.before(t, packet.is_keyframe, sampler)
                for frame in context.decode(packet):
                    counter[0] += 1
                    if sampler.take(t):
                        counter[1] += 1
                        reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                if counter[1] == SETTLED * fps and not ready.broken and not getattr(local, "passed", False):
                    local.passed = True
                    ready.wait()

    local = threading.local()
    threads = [threading.Thread(target=read, args=(counter,)) for counter in counters]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(ready.wait)
    before, started, counted = cpu(), time.monotonic(), [list(counter) for counter in counters]
    await asyncio.sleep(seconds)
    used, elapsed = cpu() - before, time.monotonic() - started
    stop.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    decoded, sampled = (sum(c[i] for c in counters) - sum(c[i] for c in counted) for i in (0, 1))
    return Cost(used, decoded, sampled, elapsed)


async def costs(clip: Path, name: str, seconds: float) -> None:
    async with camera(clip) as url:
        for fps in (1.0, 2.0, 25.0):
            count = 4 if fps < 25 else 1
            pairs = [(await floor(url, count, fps, seconds), await ours(url, count, fps, seconds)) for _ in range(3)]
            bare, mine = (min((pair[i] for pair in pairs), key=lambda cost: cost.load) for i in (0, 1))
            share, least = mine.load / count, bare.load / count
            print(
                f"{name} at {fps:g}/s, {count} streams: {100 * share:.2f} % of a core each, {1000 * mine.each:.2f} ms "
                f"a decoded, {1000 * mine.cpu / max(1, mine.sampled):.1f} ms a sampled picture "
                f"({mine.decoded}/{mine.sampled}); floor {100 * least:.2f} % of a core each "
                f"({bare.decoded}/{bare.sampled}): {share / least:.2f}x; two cores hold {int(2 / share)}"
            )


async def first_picture(clip: Path, rounds: int = 12) -> None:
    """When the camera sends its key pictures is known from another client, which listens all the time. Counted from the
    next one once the connection stands and packets come: what was sent before cannot be had."""
    context, keys = SourceContext(), list[float]()

    class Keys(Counter):
        def packet(self, packet: Any, template: Any) -> None:
            if packet.is_keyframe:
                keys.append(time.monotonic())

    async with camera(clip) as url:
        listener = supervised(url, Keys(), 25, context)
        listening = asyncio.create_task(listener.run())
        await until(lambda: len(keys) >= 2)
        delays, connected = [], []
        for attempt in range(rounds):
            await asyncio.sleep(0.1 * (attempt % 7))
            sink, asked = Counter(), time.monotonic()
            supervisor = supervised(url, sink, 25, context)
            task = asyncio.create_task(supervisor.run())
            await pictures(sink)
            supervisor.stop()
            await task
            connected.append(sink.began - asked)
            following = [key for key in keys if key > sink.began - 0.02]
            delays.append(max(0.0, sink.first - min(following, default=sink.first)))
        listener.stop()
        await listening
    print(
        f"connected after {statistics.median(connected):.3f} s (worst {max(connected):.3f} s); first picture after the "
        f"next key picture: median {statistics.median(delays):.3f} s, worst {max(delays):.3f} s (key pictures: 1 s)"
    )


async def recovery(clip: Path) -> None:
    """A killed camera comes back after 3 s; counted from then to the next picture, less the wait that was drawn."""
    context, statuses, sink = SourceContext(), list[StreamStatus](), Counter()
    async with camera(clip) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        supervisor = supervised(url, sink, 25, context, statuses)
        task = asyncio.create_task(supervisor.run())
        await until(lambda: sink.sampled > 0)
    await asyncio.sleep(3.0)
    async with camera(clip, port):
        back, sink.sampled = time.monotonic(), 0
        await until(lambda: sink.sampled > 0)
        waiting = [status.retry_at.mono for status in statuses if status.retry_at and status.at.mono < back]
        wait = max(0.0, waiting[-1] - back) if waiting else 0.0
        took = time.monotonic() - back
        print(f"recovery: {took:.2f} s after the camera is back, of it {wait:.2f} s backoff (key pictures: 1 s)")
        supervisor.stop()
        await task


async def memory(clip: Path, name: str) -> None:
    process, readings = psutil.Process(), []
    async with camera(clip) as url:
        for count in (1, 5):
            context, sinks = SourceContext(), [Counter() for _ in range(count)]
            supervisors = [supervised(url, sink, 2, context) for sink in sinks]
            tasks = [asyncio.create_task(supervisor.run()) for supervisor in supervisors]
            await pictures(*sinks, count=6)
            readings.append(process.memory_info().rss)
            for supervisor in supervisors:
                supervisor.stop()
            await asyncio.gather(*tasks)
    print(f"{name}: {(readings[1] - readings[0]) / 4 / (1 << 20):.1f} MiB for each added stream")


def hardware() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    return f"{psutil.cpu_count()} cores {model}, load before {psutil.getloadavg()[0]:.1f}"


async def main(seconds: float) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d}; {hardware()}; av {av.__version__}")
    with tempfile.TemporaryDirectory() as directory:
        clips = {name: make_clip(Path(directory), name) for name in SIZES}
        await first_picture(clips["720p25"])
        await recovery(clips["720p25"])
        for name, clip in clips.items():
            await memory(clip, name)
        for name, clip in clips.items():
            await costs(clip, name, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    # Not whole seconds: at those the key pictures come, and one more or less would be counted.
    parser.add_argument("--seconds", type=float, default=6.5, help="length of each measurement")
    asyncio.run(main(parser.parse_args().seconds))
