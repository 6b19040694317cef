"""Locations as they may be shown: errors and logs travel further than the credentials that a URL can carry."""

import re

# fsspec chains protocols: simplecache::s3://bucket/key
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://")
_IN_TEXT = re.compile(_SCHEME.pattern + r"[^\s'\"<>`]+")
# An unescaped secret may hold what ends an authority: a colon that begins no port gives it away.
_UNESCAPED_SECRET = re.compile(r"[^/?#@:\[]*:(?!\d*(?:[/?#]|$)).*@", re.DOTALL)


def redacted(uri: str) -> str:
    """`uri` without its user and password, query and fragment; what has no scheme (`data/a.tar#512-2048`) stays."""
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return uri
    secret = _UNESCAPED_SECRET.match(uri, scheme.end())
    rest = uri[secret.end() if secret else scheme.end() :]
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme.group()}{authority.rpartition('@')[2]}{slash}{path}"


def redacted_text(text: str) -> str:
    """`text` with every URL in it redacted, as botocore and aiohttp quote signed ones in their messages."""
    return _IN_TEXT.sub(lambda match: redacted(match.group()), text)
