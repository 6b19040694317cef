"""A real HTTP server of a folder, as `python -m http.server` is: it lists folders as links and knows no ranges."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """The URL of a running server of `folder`; what is named forbidden.* is refused (403)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def send_head(self) -> Any:
        if "/forbidden." in self.path:
            self.send_error(403)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are no news."""
