"""Against gst-rtsp-server, which many cameras and NVRs are built on. Optional: skips where Debian's packages are not
installed (tests/fakes/gst_camera.py names them)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamwatch.domain import FailureReason
from tests.fakes.ingest import Watch
from tests.fakes.ports import free_port

pytestmark = pytest.mark.slow
PYTHON = Path("/usr/bin/python3")
SCRIPT = Path(__file__).parents[1] / "fakes" / "gst_camera.py"
NEEDED = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst; Gst.init(None); "
ENCODERS = "assert all(map(Gst.ElementFactory.find, ('x264enc', 'x265enc', 'vp8enc', 'jpegenc', 'alawenc')))"


@dataclass(frozen=True, slots=True)
class Ports:
    open: int
    locked: int


@pytest.fixture(scope="module")
def ports() -> Iterator[Ports]:
    probe = [str(PYTHON), "-c", NEEDED + ENCODERS]
    if not PYTHON.exists() or subprocess.run(probe, check=False, capture_output=True, timeout=60).returncode:
        pytest.skip("needs gst-rtsp-server with x264, x265, VP8, JPEG and A-law encoders for /usr/bin/python3")
    chosen = Ports(free_port(), free_port())
    command = [str(PYTHON), str(SCRIPT), str(chosen.open), str(chosen.locked)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().strip() == "READY"
            yield chosen
        finally:
            server.kill()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(("path", "codec"), [("h264", "h264"), ("h265", "hevc"), ("vp8", "vp8"), ("jpeg", "mjpeg")])
async def test_another_server_is_watched(ports: Ports, path: str, codec: str, transport: str) -> None:
    async with Watch(f"rtsp://127.0.0.1:{ports.open}/{path}", transport=transport) as watch:
        await watch.live(4)
        info = watch.sink.infos[-1]
        assert (info.codec, info.width, info.height, info.transport) == (codec, 320, 240, transport)


async def test_its_digest_is_answered_and_its_refusals_are_named(ports: Ports) -> None:
    async with Watch(f"rtsp://me:secret@127.0.0.1:{ports.locked}/h264") as watch:
        await watch.live()
    async with Watch(f"rtsp://me:wrong@127.0.0.1:{ports.locked}/h264") as watch:
        await watch.failed(FailureReason.AUTH_FAILED)
    async with Watch(f"rtsp://127.0.0.1:{ports.open}/nowhere") as watch:
        await watch.failed(FailureReason.NOT_FOUND)
    async with Watch(f"rtsp://127.0.0.1:{ports.open}/sound") as watch:
        status = await watch.failed(FailureReason.NO_VIDEO)
        assert "audio" in str(status)
