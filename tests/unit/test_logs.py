from __future__ import annotations

import json
import logging
import sys

import pytest

from streamwatch.logs import JsonFormatter, TextFormatter


def record(message: str, *args: object, error: bool = False) -> logging.LogRecord:
    info = None
    if error:
        try:
            raise ValueError("rtsp://u:hunter2@h/x")
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("streamwatch.test", logging.WARNING, __file__, 1, message, args, info)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_secrets_leave_no_log_line(formatter: logging.Formatter) -> None:
    said = formatter.format(record("opening %s", "rtsp://admin:hunter2@camera/1", error=True))
    assert "hunter2" not in said
    assert "camera/1" in said


def test_json_lines_can_be_read() -> None:
    line = json.loads(JsonFormatter().format(record("stream %s", "lobby", error=True)))
    assert line["message"] == "stream lobby"
    assert line["level"] == "warning"
    assert line["at"].endswith("Z")
    assert "ValueError" in line["exception"]
