"""A small RTSP camera: the demo's source and the tests' double.

    async with Camera([Path("clip.mp4")]) as camera:
        ...  # camera.url is live

It loops its clips with timestamps that only rise, serves every client from the live position (not each from its own
keyframe), over TCP interleaved and UDP, and misbehaves on demand: `stall`, `drop`, `silent`, `faults`.
"""

from streamwatch.camera.server import Camera, Credentials
from streamwatch.camera.session import Faults

__all__ = ["Camera", "Credentials", "Faults"]
