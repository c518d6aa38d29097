"""One client of the camera: where its packets go, and what goes wrong with them on the way."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

# A client that does not read gets no more than this queued; what comes after is dropped.
_WRITE_LIMIT = 4 << 20


@dataclass(slots=True)
class Faults:
    """Probabilities per RTP packet."""

    loss: float = 0.0
    """dropped"""
    corrupt: float = 0.0
    """payload replaced by noise"""
    truncate: float = 0.0
    """payload cut in half"""
    junk: float = 0.0
    """TCP only: noise between two packets, outside their framing"""


@dataclass(slots=True)
class Session:
    """`rtp`, `rtcp` and `sound` (RTP too) are interleaved channels over TCP, the client's ports over UDP."""

    writer: asyncio.StreamWriter
    faults: Faults
    chance: random.Random
    rtp: int = 0
    rtcp: int = 1
    sound: int | None = None
    udp: tuple[asyncio.DatagramTransport, asyncio.DatagramTransport] | None = None
    playing: bool = False
    greeted: bool = False

    def send(self, packet: bytes) -> None:
        damaged = self._damaged(packet)
        if damaged is None:
            return
        if self.udp is not None:
            self.udp[0].sendto(damaged, (self._host(), self.rtp))
            return
        if self.chance.random() < self.faults.junk:
            self._write(self.chance.randbytes(64))
        self._write(_interleaved(self.rtp, damaged))

    def report(self, packet: bytes) -> None:
        if self.udp is not None:
            self.udp[1].sendto(packet, (self._host(), self.rtcp))
        else:
            self._write(_interleaved(self.rtcp, packet))

    def hear(self, packet: bytes) -> None:
        """A packet of sound, to a client that asked for it."""
        if self.sound is None:
            return
        if self.udp is not None:
            self.udp[0].sendto(packet, (self._host(), self.sound))
        else:
            self._write(_interleaved(self.sound, packet))

    def _damaged(self, packet: bytes) -> bytes | None:
        faults, header = self.faults, 12
        if self.chance.random() < faults.loss:
            return None
        if self.chance.random() < faults.truncate:
            packet = packet[: max(header + 1, len(packet) // 2)]
        if self.chance.random() < faults.corrupt:
            packet = packet[:header] + self.chance.randbytes(len(packet) - header)
        return packet

    def _write(self, data: bytes) -> None:
        if not self.writer.is_closing() and self.writer.transport.get_write_buffer_size() < _WRITE_LIMIT:
            self.writer.write(data)

    def _host(self) -> str:
        return str(self.writer.get_extra_info("peername")[0])


def _interleaved(channel: int, packet: bytes) -> bytes:
    return b"$" + bytes((channel,)) + len(packet).to_bytes(2, "big") + packet
