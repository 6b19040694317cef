"""A real S3 server over HTTP (moto), one request at a time: like S3, it decides a conditional put atomically."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from typing import Any

import pytest
import s3fs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"
INCOMPLETE = b"<Error><Code>IncompleteBody</Code><Message>less than its length has come</Message></Error>"
CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>another one is under way</Message></Error>"


class S3Server:
    """The server; `conflicts_left` conditional puts are answered 409, as AWS does while another one is under way."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._one_at_a_time = Lock()  # moto itself looks first and puts later, so that two racing puts could both win
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.conflicts_left = 0
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["S3Server"]:
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        body = _whole_body(environ)
        with self._one_at_a_time:
            if body is None:
                start_response("400 Bad Request", [("Content-Type", "application/xml")])
                return [INCOMPLETE]
            if self.conflicts_left and environ.get("HTTP_IF_NONE_MATCH"):
                self.conflicts_left -= 1
                start_response("409 Conflict", [("Content-Type", "application/xml")])
                return [CONFLICT]
            return self._app(environ, start_response)


def _whole_body(environ: dict[str, Any]) -> bytes | None:
    """The request's body, which moto then reads from memory; None where its sender has gone before the end."""
    if environ.get("wsgi.input_terminated"):  # chunked: its end is told in it
        return b""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body: bytes = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)
    return body if len(body) == length else None


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing: requests are no news."""


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running server with a bucket BUCKET; the AWS_* environment points to it meanwhile."""
    with S3Server().running() as server, bucket_at(server.url, access_key="test", secret_key="test"):
        yield server


@contextmanager
def bucket_at(url: str, *, access_key: str, secret_key: str) -> Iterator[None]:
    """A bucket BUCKET that anyone may list at the server `url`; the AWS_* environment points to it meanwhile."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", access_key)
        environment.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_ENDPOINT_URL", url)
        s3fs.S3FileSystem.clear_instance_cache()  # instances remember the endpoint of their making
        with suppress(FileExistsError):  # moto keeps its buckets as long as the process lives
            s3fs.S3FileSystem().mkdir(BUCKET, acl="public-read")  # for the tests without credentials
        try:
            yield
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
