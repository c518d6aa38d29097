"""FFmpeg's errors in our words: one table from what was raised to a reason. Only `unavailable` may look up a host."""

from __future__ import annotations

import errno
import os
import socket
from urllib.parse import urlsplit

import av

from streamwatch.domain import FailureReason
from streamwatch.errors import SourceUnavailable
from streamwatch.redact import redact

R = FailureReason

# Most specific first; the first that fits wins.
_BY_TYPE: tuple[tuple[type[BaseException], FailureReason, str], ...] = (
    (av.error.HTTPUnauthorizedError, R.AUTH_FAILED, "the user name or password is wrong or missing (401)"),
    (av.error.HTTPForbiddenError, R.AUTH_FAILED, "access is forbidden (403)"),
    (av.error.HTTPNotFoundError, R.NOT_FOUND, "nothing is there under this path (404)"),
    (av.error.HTTPBadRequestError, R.CONNECTION_FAILED, "the server calls the request bad (400)"),
    (av.error.HTTPTooManyRequestsError, R.CONNECTION_FAILED, "the server has too many requests (429)"),
    (av.error.HTTPOtherClientError, R.CONNECTION_FAILED, "the server refuses the request (4xx)"),
    (av.error.HTTPServerError, R.CONNECTION_FAILED, "the server failed (5xx)"),
    (av.error.DecoderNotFoundError, R.CODEC_UNSUPPORTED, "no decoder for its codec"),
    (av.error.DemuxerNotFoundError, R.NOT_FOUND, "this build of FFmpeg cannot open such a source"),
    (av.error.ProtocolNotFoundError, R.NOT_ALLOWED, "the protocol is not available"),
    (av.error.PatchWelcomeError, R.CODEC_UNSUPPORTED, "FFmpeg does not know this variant"),
    (av.error.ExitError, R.TIMEOUT, "it did not answer in time"),
    (av.error.EOFError, R.CONNECTION_FAILED, "the peer closed the connection"),
    (av.error.InvalidDataError, R.CONNECTION_FAILED, "what it sends is not a video stream"),
)
_BY_ERRNO: dict[int, tuple[FailureReason, str]] = {
    errno.ECONNREFUSED: (R.CONNECTION_FAILED, "the connection was refused"),
    errno.ECONNRESET: (R.CONNECTION_FAILED, "the connection was reset"),
    errno.EPIPE: (R.CONNECTION_FAILED, "the peer closed the connection"),
    errno.EHOSTUNREACH: (R.CONNECTION_FAILED, "the host cannot be reached"),
    errno.ENETUNREACH: (R.CONNECTION_FAILED, "the network cannot be reached"),
    errno.EADDRNOTAVAIL: (R.CONNECTION_FAILED, "the address is not available"),
    errno.ETIMEDOUT: (R.TIMEOUT, "it did not answer in time"),
    errno.EAGAIN: (R.TIMEOUT, "it did not answer in time"),
    errno.ENOENT: (R.NOT_FOUND, "there is no such file or device"),
    errno.EISDIR: (R.NOT_FOUND, "it is a directory"),
    errno.ENODEV: (R.DEVICE_MISSING, "there is no such device"),
    errno.ENXIO: (R.DEVICE_MISSING, "there is no such device"),
    errno.EBUSY: (R.DEVICE_MISSING, "the device is in use"),
    errno.EACCES: (R.NOT_ALLOWED, "permission denied"),
    errno.EPERM: (R.NOT_ALLOWED, "not permitted"),
    errno.EPROTONOSUPPORT: (R.CONNECTION_FAILED, "it offers none of the transports asked for"),
    errno.ENOSYS: (R.CODEC_UNSUPPORTED, "a feature of it is not supported"),
    errno.EIO: (R.CONNECTION_FAILED, "the connection failed, or the host's name cannot be resolved"),
}
_TLS_SCHEMES = ("rtsps", "https", "rtmps")


def classify(error: BaseException, scheme: str = "") -> tuple[FailureReason, str]:
    """Why opening or reading failed, and the sentence for an operator."""
    for kind, reason, sentence in _BY_TYPE:
        if isinstance(error, kind):
            return reason, sentence
    code = getattr(error, "errno", None)
    if code == errno.EIO and scheme in _TLS_SCHEMES:
        return R.TLS, "the TLS connection failed (certificate, or no TLS there)"
    if code == errno.ENOENT and scheme == "webcam":
        return _BY_ERRNO[errno.ENODEV]
    if code in _BY_ERRNO:
        return _BY_ERRNO[code]
    if isinstance(code, int) and 0 < code < 200:
        return R.CONNECTION_FAILED, os.strerror(code)
    return R.CONNECTION_FAILED, redact(str(getattr(error, "strerror", None) or type(error).__name__))


def unavailable(error: BaseException, display: str, *, timed_out: bool = False) -> SourceUnavailable:
    """The same as an error of ours; raise it `from` the library's. Blocks where it has to look a host up.

    `timed_out`: the attempt took as long as it was allowed to. FFmpeg calls an answer that never came invalid data.
    """
    reason, sentence = classify(error, display.partition(":")[0].lower())
    if timed_out and reason is R.CONNECTION_FAILED:
        reason, sentence = R.TIMEOUT, "it did not answer in time"
    # FFmpeg has one and the same error for TLS that fails and for a name that is not found.
    if reason is R.TLS and not _resolves(urlsplit(display).hostname or ""):
        reason, sentence = R.CONNECTION_FAILED, "the host's name cannot be resolved"
    return SourceUnavailable(f"{display}: {sentence}", reason)


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False
