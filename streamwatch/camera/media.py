"""Clips as an endless run of RTP packets, packed by FFmpeg's own muxer."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

SSRC = 0x57_41_54_43
CLOCK = 90_000
_NTP_EPOCH = 2_208_988_800
_PACKET_SIZE = 1_200
# FFmpeg's codec name -> name in the SDP, and the filter that makes Annex B of MP4's length-prefixed units (with the
# parameter sets repeated at each keyframe, since clients join in mid-stream).
_CODECS = {
    "h264": ("H264", "h264_mp4toannexb"),
    "hevc": ("H265", "hevc_mp4toannexb"),
    "vp8": ("VP8", None),
    "vp9": ("VP9", None),
    "av1": ("AV1", None),
    "mjpeg": ("JPEG", None),
}
_JPEG_TYPE = 26
_DYNAMIC_TYPE = 96
_PCMU_TYPE = 0
SOUND_SECONDS = 0.02
_SOUND_CLOCK = 8_000


@dataclass(frozen=True, slots=True)
class Unit:
    """One encoded picture of a clip. Times are seconds from the clip's start."""

    data: bytes
    dts: float
    pts: float
    key: bool


@dataclass(frozen=True, slots=True)
class Clip:
    codec: str
    units: tuple[Unit, ...]
    duration: float
    extradata: bytes


def read_clip(path: Path) -> Clip:
    """The first video stream of a file. Raises FFmpegError, and ValueError for a codec without an RTP payload."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context.codec.canonical_name
        if codec not in _CODECS:
            raise ValueError(f"{path}: {codec} cannot be served by RTSP (only {', '.join(_CODECS)})")
        extradata = stream.codec_context.extradata or b""
        filter_name = _CODECS[codec][1]
        bsf = av.BitStreamFilterContext(filter_name, stream) if filter_name and extradata[:1] == b"\x01" else None
        step = float(1 / (stream.average_rate or Fraction(25)))
        packets = [q for p in container.demux(stream) if p.size for q in (bsf.filter(p) if bsf else [p])]
        units = []
        for index, packet in enumerate(packets):
            base = float(packet.time_base)
            dts = packet.dts * base if packet.dts is not None else index * step
            pts = packet.pts * base if packet.pts is not None else dts
            units.append(Unit(bytes(packet), dts, pts, packet.is_keyframe))
    first = units[0].dts
    shifted = tuple(Unit(u.data, u.dts - first, u.pts - first, u.key) for u in units)
    return Clip(codec, shifted, shifted[-1].dts + step, extradata)


def looped(clips: Sequence[Clip]) -> Iterator[Unit]:
    """The clips one after another, for ever, on one time line."""
    offset = 0.0
    while True:
        for clip in clips:
            for unit in clip.units:
                yield Unit(unit.data, unit.dts + offset, unit.pts + offset, unit.key)
            offset += clip.duration


class Packetizer:
    """RTP packets of the units of one codec; one sequence for all clients of the camera."""

    def __init__(self, path: Path, codec: str) -> None:
        self._packets: list[bytes] = []
        self.payload_type = _JPEG_TYPE if codec == "mjpeg" else _DYNAMIC_TYPE
        options = {
            "packetsize": str(_PACKET_SIZE),
            "rtpflags": "skip_rtcp",
            "ssrc": str(SSRC),
            "strict": "experimental",
        }
        options["payload_type"] = str(self.payload_type)
        with av.open(str(path)) as container:
            template = container.streams.video[0]
            self._output: Any = av.open(self, "w", format="rtp", options=options)
            self._stream = self._output.add_stream_from_template(template, opaque=True)
            name = _CODECS[codec][1]
            if name and (template.codec_context.extradata or b"")[:1] == b"\x01":
                # Copies the filter's output parameters, or the muxer would take the units for length-prefixed ones.
                av.BitStreamFilterContext(name, template, self._stream)
            self._output.start_encoding()

    def write(self, data: bytes) -> int:
        """Called by the muxer, once for each packet."""
        self._packets.append(bytes(data))
        return len(data)

    def pack(self, unit: Unit) -> list[bytes]:
        """The packets of one unit. Times must rise from unit to unit."""
        packet = av.Packet(unit.data)
        packet.time_base = Fraction(1, CLOCK)
        packet.dts = round(unit.dts * CLOCK)
        packet.pts = round(unit.pts * CLOCK)
        packet.is_keyframe = unit.key
        packet.stream = self._stream
        self._output.mux(packet)
        packets, self._packets = self._packets, []
        return packets

    def close(self) -> None:
        self._output.close()


def shifted(packet: bytes, seconds: float) -> bytes:
    """The RTP packet with its timestamp moved."""
    moved = (int.from_bytes(packet[4:8], "big") + round(seconds * CLOCK)) & 0xFFFFFFFF
    return packet[:4] + moved.to_bytes(4, "big") + packet[8:]


def sender_report(rtp_time: int, wall: float, packets: int, octets: int) -> bytes:
    """An RTCP sender report (RFC 3550, 6.4.1): RTP time `rtp_time` was at Unix time `wall`."""
    seconds = int(wall)
    ntp = (seconds + _NTP_EPOCH, int((wall - seconds) * 2**32))
    counts = (packets & 0xFFFFFFFF, octets & 0xFFFFFFFF)
    return struct.pack("!BBHIIIIII", 0x80, 200, 6, SSRC, *ntp, rtp_time & 0xFFFFFFFF, *counts)


def silence(number: int) -> bytes:
    """The RTP packet `number` of a track of mu-law sound (RFC 3551, 4.5.14), `SOUND_SECONDS` long."""
    samples = round(SOUND_SECONDS * _SOUND_CLOCK)
    header = struct.pack("!BBHII", 0x80, _PCMU_TYPE, number & 0xFFFF, number * samples & 0xFFFFFFFF, SSRC + 1)
    return header + b"\xff" * samples


def sdp(clip: Clip, payload_type: int, *, sound: bool = False) -> str:
    """The session description of one video track, and one of sound."""
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "c=IN IP4 0.0.0.0", "t=0 0"]
    lines += [f"m=video 0 RTP/AVP {payload_type}", f"a=rtpmap:{payload_type} {_CODECS[clip.codec][0]}/{CLOCK}"]
    parameters = _parameters(clip)
    if parameters:
        lines.append(f"a=fmtp:{payload_type} {parameters}")
    lines.append("a=control:track0")
    if sound:
        lines += [f"m=audio 0 RTP/AVP {_PCMU_TYPE}", "a=control:track1"]
    return "\r\n".join([*lines, ""])


def _parameters(clip: Clip) -> str:
    nals = _nal_units(next(unit.data for unit in clip.units if unit.key))
    if clip.codec == "h264":
        sets = [nal for nal in nals if nal[0] & 0x1F in (7, 8)]
        profile = next((nal[1:4].hex() for nal in sets if nal[0] & 0x1F == 7), "42e01f")
        encoded = ",".join(base64.b64encode(nal).decode() for nal in sets)
        return f"packetization-mode=1;profile-level-id={profile};sprop-parameter-sets={encoded}"
    if clip.codec == "hevc":
        kinds = {32: "sprop-vps", 33: "sprop-sps", 34: "sprop-pps"}
        found = {(nal[0] >> 1) & 0x3F: base64.b64encode(nal).decode() for nal in nals}
        return ";".join(f"{name}={found[kind]}" for kind, name in kinds.items() if kind in found)
    return ""


def _nal_units(annexb: bytes) -> list[bytes]:
    """The units of an Annex B byte stream, without start codes."""
    return [part.rstrip(b"\x00") for part in annexb.split(b"\x00\x00\x01")[1:] if part.rstrip(b"\x00")]
