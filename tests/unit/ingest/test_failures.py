from __future__ import annotations

import errno

import av
import pytest

from streamwatch.domain import FailureReason as R
from streamwatch.ingest.failures import classify, unavailable


def error(kind: type[BaseException], code: int = 1, text: str = "text") -> BaseException:
    return kind(code, text)


@pytest.mark.parametrize(
    ("raised", "scheme", "reason"),
    [
        (error(av.error.HTTPUnauthorizedError), "rtsp", R.AUTH_FAILED),
        (error(av.error.HTTPForbiddenError), "http", R.AUTH_FAILED),
        (error(av.error.HTTPNotFoundError), "rtsp", R.NOT_FOUND),
        (error(av.error.HTTPServerError), "http", R.CONNECTION_FAILED),
        (error(av.error.DecoderNotFoundError), "file", R.CODEC_UNSUPPORTED),
        (error(av.error.ExitError), "rtsp", R.TIMEOUT),
        (error(av.error.InvalidDataError), "file", R.CONNECTION_FAILED),
        (error(av.error.ConnectionRefusedError, errno.ECONNREFUSED), "rtsp", R.CONNECTION_FAILED),
        (error(av.error.TimeoutError, errno.ETIMEDOUT), "rtsp", R.TIMEOUT),
        (error(av.error.FileNotFoundError, errno.ENOENT), "file", R.NOT_FOUND),
        (error(av.error.OSError, errno.ENODEV), "webcam", R.DEVICE_MISSING),
        (error(av.error.OSError, errno.EBUSY), "webcam", R.DEVICE_MISSING),
        (error(av.error.OSError, errno.EIO), "rtsp", R.CONNECTION_FAILED),
        (error(av.error.OSError, errno.EIO), "rtsps", R.TLS),
        (ValueError("odd"), "rtsp", R.CONNECTION_FAILED),
    ],
)
def test_reasons(raised: BaseException, scheme: str, reason: R) -> None:
    found, sentence = classify(raised, scheme)
    assert found is reason
    assert sentence


def test_an_answer_that_never_came_is_a_timeout() -> None:
    raised = error(av.error.InvalidDataError)
    assert unavailable(raised, "rtsp://host/x", timed_out=True).reason is R.TIMEOUT
    assert unavailable(error(av.error.HTTPNotFoundError), "rtsp://host/x", timed_out=True).reason is R.NOT_FOUND


@pytest.mark.parametrize("scheme", ["rtsps", "https", "rtmps"])
@pytest.mark.parametrize(
    ("host", "reason", "words"),
    [
        ("no-such-host.invalid", R.CONNECTION_FAILED, "cannot be resolved"),
        (f"{'x' * 64}.invalid", R.CONNECTION_FAILED, "cannot be resolved"),  # no name at all: too long
        ("127.0.0.1:322", R.TLS, "TLS"),
        ("[::1]:322", R.TLS, "TLS"),
    ],
)
def test_a_name_that_does_not_resolve_is_no_failure_of_tls(scheme: str, host: str, reason: R, words: str) -> None:
    told = unavailable(error(av.error.OSError, errno.EIO), f"{scheme}://{host}/x")
    assert told.reason is reason
    assert words in str(told)


def test_no_text_of_the_library_with_a_secret_gets_through() -> None:
    raised = error(av.error.UnknownError, 0x7FFF, "cannot open rtsp://me:secret@host/x?token=hidden")
    told = str(unavailable(raised, "rtsp://host/x"))
    assert "secret" not in told
    assert "hidden" not in told
