"""An RTSP server that is not ours, gst-rtsp-server, as a process of the system's own Python.

    /usr/bin/python3 gst_camera.py PORT LOCKED_PORT

Debian's packages: gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base, -good, -ugly (x264) and -bad (x265).
Prints READY when PORT serves /h264, /h265, /vp8, /jpeg and /sound (audio alone), and LOCKED_PORT the same to `me` with
the password `secret`, by digest.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PICTURE = "videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=25/1 ! videoconvert ! "
PIPELINES = {
    "/h264": PICTURE
    + "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 threads=1 ! rtph264pay name=pay0 pt=96",
    "/h265": PICTURE + "x265enc speed-preset=ultrafast tune=zerolatency key-int-max=25 ! rtph265pay name=pay0 pt=96",
    "/vp8": PICTURE + "vp8enc deadline=1 keyframe-max-dist=25 ! rtpvp8pay name=pay0 pt=96",
    "/jpeg": PICTURE + "video/x-raw,format=I420 ! jpegenc ! rtpjpegpay name=pay0 pt=26",
    "/sound": "audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0 pt=8",
}


def serve(port: str, auth: object = None) -> object:
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    for path, pipeline in PIPELINES.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( {pipeline} )")
        factory.set_shared(True)
        if auth is not None:
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role("user", "media.factory.access", True)
            permissions.add_permission_for_role("user", "media.factory.construct", True)
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory(path, factory)
    if auth is not None:
        server.set_auth(auth)
    server.attach(None)
    return server


def digest() -> object:
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_digest("me", "secret", token)
    return auth


def main() -> None:
    Gst.init(None)
    servers = [serve(sys.argv[1]), serve(sys.argv[2], digest())]
    print("READY", flush=True)
    GLib.MainLoop().run()
    del servers


if __name__ == "__main__":
    main()
