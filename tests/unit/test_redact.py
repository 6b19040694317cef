"""What a URL says of its credentials is not shown; all else is."""

import pytest

from kd_ray.storage import FsspecStorage, redacted, redacted_text

SIGNED = "https://host/a%20b/x.jpg?X-Amz-Signature=5ecret&X-Amz-Expires=60"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/a/b.jpg", "s3://bucket/a/b.jpg"),
        ("https://user:5ecret@host:8080/a", "https://host:8080/a"),
        ("https://5ecret@host/a", "https://host/a"),
        ("https://user:p@5ecret@host/a", "https://host/a"),
        ("s3://AKIA:5ecret/with/slashes+?#@bucket/a", "s3://bucket/a"),
        ("ftp://user:5ecret@host", "ftp://host"),
        ("http://127.0.0.1:9000/images@2x/a.png", "http://127.0.0.1:9000/images@2x/a.png"),
        ("http://[::1]:9000/images@2x/a.png", "http://[::1]:9000/images@2x/a.png"),
        ("s3://bucket/people/a@b.jpg", "s3://bucket/people/a@b.jpg"),
        (SIGNED, "https://host/a%20b/x.jpg"),
        ("https://host?sig=5ecret", "https://host"),
        ("https://host/a#access_token=5ecret", "https://host/a"),
        ("simplecache::s3://user:5ecret@bucket/a?x=1", "simplecache::s3://bucket/a"),
        ("gs+x.y-z://bucket/a?x", "gs+x.y-z://bucket/a"),
    ],
)
def test_a_url_keeps_where_it_points_and_loses_what_opens_it(uri, shown):
    assert redacted(uri) == shown


@pytest.mark.parametrize(
    "path", ["", "/data/a?b#c.jpg", "data/a.tar#512-2048", "C:\\images\\a.jpg", "user:pw@host", "a//b@c", "://x@y"]
)
def test_paths_without_a_scheme_stay(path):
    assert redacted(path) == path


def test_urls_are_redacted_wherever_a_message_quotes_them():
    text = f"cannot GET <{SIGNED}>, then '{SIGNED}' and\nurl=(https://u:5ecret@host/a b) at 10:30 of a.tar#1-2?"
    assert redacted_text(text) == (
        "cannot GET <https://host/a%20b/x.jpg>, then 'https://host/a%20b/x.jpg' and\n"
        "url=(https://host/a b) at 10:30 of a.tar#1-2?"
    )


def test_redacting_twice_changes_nothing_more():
    assert redacted(redacted(SIGNED)) == redacted(SIGNED)


def test_storage_names_its_location_without_the_secret():
    storage = FsspecStorage("memory://user:5ecret@bucket/a?sig=5ecret")
    with pytest.raises(Exception, match="no conditional create") as caught:
        storage.create("b", b"")
    assert "5ecret" not in str(caught.value)
