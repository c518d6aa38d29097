"""Log lines, as text or JSON, with every secret removed on the way out: ours, and those of the libraries."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

from streamwatch.redact import redact


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Takes over the root logger, on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # They log each request and each candidate: at info that drowns what an operator needs.
    for noisy in (
        "aioice",
        "aiortc",
        "httpx",
        "httpcore",
        "alembic",
        "libav",
        "uvicorn",
        "asyncio",
        "matplotlib",
        "PIL",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
