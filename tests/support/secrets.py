"""Looking for planted secrets in whatever a user, a log or a colleague could come to see."""

import base64
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq

SECRET_KEY = "wJalr5ecretXUtnFEMI/K7MDENG+bPxRfiCY"  # a key that opens the servers of the tests


def assert_no_secret(seen: str | bytes | Path, secrets: Collection[str]) -> None:
    """Fail where a secret occurs in a text, or in the name or content of any file below a folder.

    Found as it is, quoted for URLs and in Base64; in Parquet files also behind their compression.
    """
    for secret in secrets:
        for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")):
            for where, content in _contents(seen):
                assert form.encode() not in content, f"{where} holds the secret {secret!r}"


def _contents(seen: str | bytes | Path) -> Iterator[tuple[str, bytes]]:
    if not isinstance(seen, Path):
        yield "the text", seen.encode() if isinstance(seen, str) else seen
        return
    for path in [seen] if seen.is_file() else sorted(seen.rglob("*")):
        yield f"the name of {path}", str(path.relative_to(seen)).encode()
        if path.is_file():
            yield str(path), path.read_bytes()
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                yield f"the table of {path}", repr([table.schema.metadata, table.to_pylist()]).encode()
