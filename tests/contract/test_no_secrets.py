"""Credentials appear in no message, no traceback, no pickled error, no log and no file that kd_ray writes."""

import http.server
import json
import logging
import pickle
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from PIL import Image

from kd_ray.config.corpus import ListingCorpus
from kd_ray.config.load import load_recipe
from kd_ray.corpus.packing.pack import pack
from kd_ray.errors import CorpusError, KdRayError, RecipeError, StorageError
from kd_ray.storage import FsspecStorage
from tests.support.s3 import BUCKET, S3Server
from tests.support.secrets import SECRET_KEY, assert_no_secret
from tests.support.web import web_server

PASSWORD = "pw5ecret"
SIGNATURE = "5ecret0fabcdef"
SECRETS = (SECRET_KEY, PASSWORD, SIGNATURE)
SIGNED_QUERY = f"X-Amz-Credential=AKIAEXAMPLE&X-Amz-Signature={SIGNATURE}"
QUICKSTART = Path(__file__).parents[2] / "conf/quickstart.yaml"


class Denied(http.server.BaseHTTPRequestHandler):
    """Answers 403, and quotes in it what a presigned request looks like."""

    def do_GET(self) -> None:
        url = f"https://user:{PASSWORD}@bucket.example/a.jpg?{SIGNED_QUERY}".replace("&", "&amp;")
        body = f"<Error><Code>AccessDenied</Code><Message>not signed as {url}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests are no news."""


@pytest.fixture
def denying_endpoint() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Denied) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def secret_key(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def assert_shows_no_secret(error: BaseException) -> None:
    assert_no_secret(str(error), SECRETS)
    assert_no_secret("".join(traceback.format_exception(error)), SECRETS)
    assert_no_secret(pickle.dumps(error), SECRETS)


def failures_of(uri: str) -> Iterator[Exception]:
    """What each use of a location ends in."""
    storage = FsspecStorage(uri)
    for use in (
        lambda: storage.read("a"),
        lambda: storage.read_range("a", offset=0, length=1),
        lambda: storage.size_bytes("a"),
        lambda: storage.exists("a"),
        lambda: storage.list("b"),
        lambda: storage.folders("b"),
        lambda: storage.write("a", b"x"),
        lambda: storage.create("a", b"x"),
        lambda: storage.remove("b"),
    ):
        try:
            use()
        except (KdRayError, FileNotFoundError) as error:
            yield error


class TestStorage:
    def test_a_bucket_that_is_not_there(self, caplog):
        caplog.set_level(logging.DEBUG, logger="kd_ray")
        failures = list(failures_of("s3://no-such-bucket/x"))
        assert len(failures) >= 3
        for failure in failures:
            assert_shows_no_secret(failure)
        assert_no_secret("".join(r.getMessage() for r in caplog.records if r.name.startswith("kd_ray")), SECRETS)

    def test_a_server_that_denies_and_quotes_a_signed_url(self, denying_endpoint, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{denying_endpoint}")
        failures = [error for error in failures_of(f"s3://{BUCKET}/x") if isinstance(error, StorageError)]
        assert any("not signed as https://bucket.example/a.jpg" in str(error) for error in failures)
        for failure in failures:
            assert_shows_no_secret(failure)

    def test_a_location_that_holds_credentials_itself(self, denying_endpoint):
        failures = list(failures_of(f"http://user:{PASSWORD}@{denying_endpoint}/x?{SIGNED_QUERY}"))
        assert len(failures) >= 3
        for failure in failures:
            assert_shows_no_secret(failure)


class TestRecipe:
    @pytest.mark.parametrize(
        "location",
        [
            f"s3://AKIAEXAMPLE:{PASSWORD}@bucket/x",
            f"s3://AKIAEXAMPLE:{SECRET_KEY}@bucket/x",
            f"https://user:{PASSWORD}@host/x",
            f"https://host/x?{SIGNED_QUERY}",
            f"https://storage.example/x?Expires=1&Signature={SIGNATURE}",
            f"gs://bucket/x?access_token={SIGNATURE}",
        ],
    )
    @pytest.mark.parametrize("key", ["corpus.packed_uri", "corpus.uri", "cache.uri", "corpus.overrides_uri"])
    def test_a_location_with_credentials_is_refused_without_quoting_them(self, key, location):
        with pytest.raises(RecipeError, match="holds credentials") as caught:
            load_recipe(QUICKSTART, [f"{key}={location}"])
        assert_shows_no_secret(caught.value)

    @pytest.mark.parametrize(
        "override",
        [
            "corpus.packed_uri=[{}]",
            "corpus.kind={}",
            "corpus.seed={}",
            "corpus={}",
            "corpus.unknown={}",
            "corpus.packed_uri={}/${{nope}}",
            "{}",
        ],
    )
    def test_credentials_in_a_wrong_place_are_refused_without_quoting_them(self, override):
        with pytest.raises(RecipeError) as caught:
            load_recipe(QUICKSTART, [override.format(f"s3://user:{PASSWORD}@bucket/x")])
        assert_shows_no_secret(caught.value)

    def test_credentials_in_a_recipe_file_are_refused_with_their_line(self, tmp_path):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"extends: {QUICKSTART}\ncorpus:\n  packed_uri: s3://user:{PASSWORD}@bucket/x\n")
        with pytest.raises(RecipeError, match=r"recipe\.yaml:3: corpus\.packed_uri: .*holds credentials") as caught:
            load_recipe(path)
        assert_shows_no_secret(caught.value)

    @pytest.mark.parametrize("location", ["http://127.0.0.1:9000/x", "s3://bucket/a@b", "/data/a=b?x", "s3://b/t=1/"])
    def test_a_location_without_credentials_is_taken(self, location):
        assert load_recipe(QUICKSTART, [f"corpus.uri={location}"]).corpus.uri == location

    def test_a_broken_line_is_named_and_not_quoted(self, tmp_path):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"name: x\nout: [s3://user:{PASSWORD}@bucket/x\ncorpus: }}\n")
        with pytest.raises(RecipeError, match=r"recipe\.yaml:3: is not valid YAML") as caught:
            load_recipe(path)
        assert_shows_no_secret(caught.value)


class TestPacking:
    def test_nothing_that_a_packing_writes_or_says_holds_one(self, tmp_path, s3, caplog, capfd):
        """Images by signed URLs, some of them bad; a bucket that the secret key opens."""
        caplog.set_level(logging.DEBUG, logger="kd_ray")
        for number in range(6):
            Image.fromarray(np.full((8, 8, 3), number * 40, np.uint8)).save(tmp_path / f"{number}.png")
        (tmp_path / "bad.png").write_bytes(b"no image")
        with web_server(tmp_path) as web:
            host = web.removeprefix("http://")
            names = [*(f"{number}.png" for number in range(6)), "bad.png", "gone.png"]
            rows = [{"image": f"http://user:{PASSWORD}@{host}/{name}?{SIGNED_QUERY}"} for name in names]
            (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
            config = ListingCorpus(
                kind="listing",
                uri=str(tmp_path / "list.jsonl"),
                label_column=None,
                packed_uri=f"s3://{BUCKET}/no-secrets",
                max_bad_fraction=0.5,
            )
            result = pack(config)
            assert result.num_packed == 6
            assert sum(result.left_out.values()) == 2
            with pytest.raises(CorpusError) as refused:
                pack(config.model_copy(update={"max_bad_fraction": 0.0}))
        assert_shows_no_secret(refused.value)
        copied = tmp_path / "copied"
        s3fs.S3FileSystem().get(f"{BUCKET}/no-secrets/", str(copied) + "/", recursive=True)
        assert len(list(copied.rglob("*.parquet"))) >= 2
        assert_no_secret(copied, SECRETS)
        assert_no_secret("".join(record.getMessage() for record in caplog.records), SECRETS)
        printed = capfd.readouterr()
        assert_no_secret(printed.out + printed.err, SECRETS)


class TestTheSearchItself:
    @pytest.mark.parametrize("secret", ["a/b+c", "plain"])
    @pytest.mark.parametrize("form", ["key={}", "key=%s", "name.parquet"])
    def test_it_finds_a_secret_in_texts_and_behind_compression(self, tmp_path, secret, form):
        if form == "name.parquet":
            pq.write_table(pa.table({"x": [f"url {secret}"] * 100}), tmp_path / form, compression="zstd")
            seen: str | Path = tmp_path
        else:
            seen = form.format(secret) if "{" in form else form % secret.replace("/", "%2F").replace("+", "%2B")
        with pytest.raises(AssertionError, match="holds the secret"):
            assert_no_secret(seen, [secret])
        assert_no_secret(seen, ["other"])
