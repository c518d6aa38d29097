from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamwatch.domain import FailureReason
from streamwatch.errors import ConfigError, SourceUnavailable, StreamWatchError
from streamwatch.redact import display_url, redact


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("rtsp://u:hunter2@host:554/live", "rtsp://***@host:554/live"),
        ("open rtsp://u:hun@ter2@host/x failed", "open rtsp://***@host/x failed"),
        ("'https://h/a?token=hunter2&x=1'", "'https://h/a?token=***&x=1'"),
        ("http://h/a?user=me&api_key=hunter2", "http://h/a?user=me&api_key=***"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: Bearer ***"),
        ("plain text, a@b stays", "plain text, a@b stays"),
        ("rtsp://host/no/secret", "rtsp://host/no/secret"),
    ],
)
def test_redact(text: str, clean: str) -> None:
    assert redact(text) == clean


@given(st.text(alphabet=st.characters(exclude_characters=" \t\r\n\"'<>", exclude_categories=["Z", "C"]), min_size=4))
def test_no_password_survives(password: str) -> None:
    marked = f"S3CR3T{password}"
    assert "S3CR3T" not in redact(f"cannot open rtsp://admin:{marked}@camera.lan:554/live: refused")


@given(st.text(alphabet=st.characters(exclude_characters=" \t\r\n\"'<>", exclude_categories=["Z", "C"]), min_size=1))
def test_no_password_is_displayed(password: str) -> None:
    assert "S3CR3T" not in display_url(f"rtsp://admin:{password}S3CR3T@camera.lan:554/live")


def test_display_url_shows_neither_user_nor_query() -> None:
    assert display_url("rtsp://u:p@h:1/live?token=x#y") == "rtsp://h:1/live"
    assert display_url("lavfi:testsrc2") == "lavfi:testsrc2"
    assert "p@ss" not in display_url("rtsp://u:p@ss@[bad/live")


def test_errors_redact_what_they_say() -> None:
    for error in (
        StreamWatchError("rtsp://u:hunter2@h/"),
        ConfigError("a: rtsp://u:hunter2@h/"),
        SourceUnavailable("rtsp://u:hunter2@h/", FailureReason.TIMEOUT),
    ):
        assert "hunter2" not in str(error)
        assert "hunter2" not in repr(error)
