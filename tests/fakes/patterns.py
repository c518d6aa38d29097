"""Small test clips, made once per test run by FFmpeg's own test pattern."""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path
from typing import Any, cast

import av
from av.video.frame import PictureType
from av.video.stream import VideoStream

_DIRECTORY = tempfile.TemporaryDirectory(prefix="streamwatch-clips-")
atexit.register(_DIRECTORY.cleanup)

X264 = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "sliced-threads=0:slices=1:threads=1"}
_B = "bframes=2:b-pyramid=0:threads=1:scenecut=0"
# codec -> container, and what makes its encoder quick
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "libx264": ("mp4", X264),
    "libx264-b": ("mp4", {"preset": "veryfast", "x264-params": "bframes=2:b-pyramid=0:threads=1:scenecut=0"}),
    "libx264-open": (
        "ts",
        {"preset": "veryfast", "x264-params": "open-gop=1:bframes=2:b-pyramid=0:threads=1:scenecut=0"},
    ),
    "libx265": ("mp4", {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}),
    "libvpx": ("webm", {"deadline": "realtime", "cpu-used": "16", "lag-in-frames": "0", "threads": "1"}),
    "libvpx-vp9": ("webm", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "threads": "1"}),
    "libsvtav1": ("mp4", {"preset": "12", "svtav1-params": "lp=1"}),
    "mjpeg": ("mkv", {"huffman": "default"}),
}


@functools.cache
def clip(
    codec: str = "libx264",
    *,
    size: tuple[int, int] = (320, 240),
    fps: int = 25,
    seconds: float = 3.0,
    gop: int | None = None,
    container: str | None = None,
) -> Path:
    """A test pattern. `gop` in pictures; None: one second."""
    extension, options = _ENCODERS[codec]
    extension = container or extension
    path = Path(_DIRECTORY.name) / f"{codec}-{size[0]}x{size[1]}-{fps}-{seconds}-{gop}.{extension}"
    pattern = f"testsrc2=size={size[0]}x{size[1]}:rate={fps}:duration={seconds}"
    with av.open(str(path), "w") as output, av.open(pattern, format="lavfi") as source:
        stream = cast(
            VideoStream, output.add_stream(codec.removesuffix("-b").removesuffix("-open"), rate=fps, options=options)
        )
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = gop or fps
        for frame in source.decode(video=0):
            frame.pict_type = PictureType.NONE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@functools.cache
def turned(path: Path) -> Path:
    """The same H.264 clip with the request, in the stream itself, to show it turned by a quarter."""
    turned_path = path.with_name(f"{path.stem}-turned.ts")
    with av.open(str(path)) as source, av.open(str(turned_path), "w") as output:
        template = source.streams.video[0]
        stream = output.add_stream_from_template(template, opaque=True)
        for packet in source.demux(template):
            # A filter for each packet: one for all would say it at the first picture only.
            turning = av.BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", template)
            for changed in turning.filter(packet) if packet.size else ():
                changed.stream = stream
                output.mux(changed)
    return turned_path


@functools.cache
def later(path: Path, seconds: float) -> Path:
    """The same clip as a transport stream, with timestamps that begin so much later."""
    later_path = path.with_name(f"{path.stem}-{seconds}-later.ts")
    with av.open(str(path)) as source, av.open(str(later_path), "w") as output:
        template = source.streams.video[0]
        stream = output.add_stream_from_template(template, opaque=True)
        for packet in source.demux(template):
            if packet.pts is not None and packet.dts is not None and packet.time_base is not None:
                ticks = int(seconds / packet.time_base)
                packet.stream, packet.pts, packet.dts = stream, packet.pts + ticks, packet.dts + ticks
                output.mux(packet)
    return later_path


@functools.cache
def sound() -> Path:
    """Two seconds of a tone, without a picture."""
    path = Path(_DIRECTORY.name) / "tone.wav"
    with av.open(str(path), "w") as output, av.open("sine=duration=2", format="lavfi") as source:
        stream: Any = output.add_stream("pcm_s16le", rate=44_100)
        for frame in source.decode(audio=0):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@functools.cache
def sound_after_the_picture(seconds: float = 12.0) -> Path:
    """A multiplex whose picture ends after three seconds, while its sound goes on."""
    path = Path(_DIRECTORY.name) / f"sound-{seconds}.ts"
    with (
        av.open(str(clip(gop=12))) as video,
        av.open(f"sine=duration={seconds}", format="lavfi") as tone,
        av.open(str(path), "w") as output,
    ):
        template = video.streams.video[0]
        pictures = output.add_stream_from_template(template, opaque=True)
        audio: Any = output.add_stream("mp2", rate=44_100)
        packets: list[Any] = [packet for packet in video.demux(template) if packet.size]
        for packet in packets:
            packet.stream = pictures
        packets += [packet for frame in tone.decode(audio=0) for packet in audio.encode(frame)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return path


@functools.cache
def playlist(seconds: float = 6.0) -> Path:
    """A recorded HLS playlist of one-second segments; the live playlists of the tests show parts of it."""
    path = Path(_DIRECTORY.name) / f"hls-{seconds}" / "index.m3u8"
    path.parent.mkdir()
    options = {"hls_time": "1", "hls_list_size": "0", "hls_playlist_type": "vod", "hls_segment_type": "fmp4"}
    with (
        av.open(str(clip(seconds=seconds))) as source,
        av.open(str(path), "w", format="hls", options=options) as output,
    ):
        template = source.streams.video[0]
        stream = output.add_stream_from_template(template, opaque=True)
        for packet in source.demux(template):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return path


@functools.cache
def without_timestamps() -> Path:
    """A bare H.264 byte stream: its packets have no time of their own."""
    path = Path(_DIRECTORY.name) / "bare.h264"
    with av.open(str(clip())) as source:
        template = source.streams.video[0]
        filtered = av.BitStreamFilterContext("h264_mp4toannexb", template)
        data = b"".join(bytes(q) for p in source.demux(template) if p.size for q in filtered.filter(p))
    path.write_bytes(data)
    return path


@functools.cache
def jpegs(count: int = 5) -> tuple[bytes, ...]:
    """Pictures as a camera's MJPEG page sends them."""
    with av.open(str(clip("mjpeg"))) as source:
        return tuple(bytes(packet) for packet in source.demux(video=0) if packet.size)[:count]
