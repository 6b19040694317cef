"""A proxy in front of an S3 server that does to some requests what networks and servers do."""

import http.client
import math
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal[
    "error_500",  # the server says so, and has done nothing
    "slow_down",  # 503, and has done nothing
    "no_answer",  # nothing comes for longer than clients wait, and nothing was done
    "reset",  # before anything was done
    "lost_answer",  # the work was done, then a reset
    "truncated",  # half of the body, then the end of the connection
    "short",  # half of the body, and a Content-Length that says it is all
]
CUTS = ("truncated", "short")
FAULTS: tuple[Fault, ...] = ("error_500", "slow_down", "no_answer", "reset", "lost_answer", "truncated", "short")
HOP_BY_HOP = ("connection", "content-length", "transfer-encoding", "keep-alive")
ERRORS = {"error_500": (500, "InternalError"), "slow_down": (503, "SlowDown")}


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to `backend`; `rate` of them, drawn from `seed`, meet one of `faults`, `limit` at most.

    `met` counts the faults that requests have met. Of bodies only those of GET are cut.
    """

    daemon_threads = True

    def __init__(
        self,
        backend: str,
        *,
        rate: float,
        silence_s: float,
        seed: int = 0,
        limit: float = math.inf,
        faults: Sequence[Fault] = FAULTS,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend = urlsplit(backend).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.rate, self.limit, self.faults, self.silence_s = rate, limit, faults, silence_s
        self.met: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._lock = Lock()

    def fault(self, method: str) -> Fault | None:
        """What the next request is to meet."""
        with self._lock:
            possible = [each for each in self.faults if method == "GET" or each not in CUTS]
            if not possible or self.met.total() >= self.limit or self._chance.random() >= self.rate:
                return None
            fault = self._chance.choice(possible)
            self.met[fault] += 1
            return fault

    @contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that were killed are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault(self.command)
        match fault:
            case "error_500" | "slow_down":
                status, code = ERRORS[fault]
                error = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
                self._send(status, {"Content-Type": "application/xml"}, error, num_bytes=len(error))
            case "no_answer":
                time.sleep(self.server.silence_s)
                self._reset()
            case "reset":
                self._reset()
            case _:
                self._pass_on(body, fault)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

    def _pass_on(self, body: bytes, fault: Fault | None) -> None:
        backend = http.client.HTTPConnection(self.server.backend)
        # with the host as the client has signed it
        backend.request(self.command, self.path, body=body, headers=dict(self.headers))
        answer = backend.getresponse()
        data = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
        backend.close()
        if fault == "lost_answer":
            self._reset()
            return
        length = int(answer.headers.get("Content-Length") or len(data))
        half = data[: len(data) // 2] if fault in CUTS else data
        self._send(answer.status, headers, half, num_bytes=len(half) if fault == "short" else length)
        self.close_connection |= fault in CUTS

    def _send(self, status: int, headers: dict[str, str], data: bytes, *, num_bytes: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(num_bytes))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
