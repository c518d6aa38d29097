"""A real HTTP server that takes webhooks, on a thread of its own: what it answers and how slowly can be set."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    at: float
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def told(self) -> list[tuple[str, str]]:
        """(alert id, status) of each alert."""
        return [(a["labels"]["alert_id"], a["status"]) for a in self.json["alerts"]]


@dataclass
class Receiver:
    url: str = ""
    status: int = 200
    delay: float = 0.0
    refused: str = ""
    """a body with this in it is answered 422"""
    requests: list[Received] = field(default_factory=list)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [pair for request in list(self.requests) for pair in request.told]


@contextmanager
def webhook_receiver(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if len(body) < length:  # the sender died in mid-sentence
                return
            time.sleep(receiver.delay)
            status = 422 if receiver.refused and receiver.refused.encode() in body else receiver.status
            if status < 300:
                receiver.requests.append(Received(time.time(), self.path, dict(self.headers), body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
