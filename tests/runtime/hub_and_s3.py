"""A server that speaks as much of the Hugging Face Hub and of S3 as fetching asks for, with troubles on request.

It follows https://huggingface.co/docs/hub/api and the API reference of S3: lists, redirects of large files to another
host, ranges, ETags, errors.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from json import dumps
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from http_servers import http_server

COMMIT = "c0ffee" * 6 + "c0ff"
REPOSITORY, BUCKET, PREFIX = "tiny/moe", "models", "tiny/moe"


@dataclass
class Place:
    """What the server holds, what it was asked, and how it is to misbehave."""

    files: dict[str, bytes]
    large: frozenset[str] = frozenset()
    """Files in LFS: sent from another host."""
    token: str = ""
    """That requests of the hub must bear; none when empty."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Statuses of the next answers, by the name of the file or "list"."""
    break_off: dict[str, int] = field(default_factory=dict)
    """Bytes after which the next answer with a file breaks off."""
    corrupt: Counter[str] = field(default_factory=Counter)
    """Answers with a file whose first byte is to be wrong."""
    etags: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    ignores_ranges: bool = False
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Host, path and headers of every request."""
    url: str = ""
    other_url: str = ""

    def sent(self, name: str) -> list[str]:
        """Ranges that were asked of a file, "" for all of it."""
        return [
            headers.get("range", "")
            for _, path, headers in self.asked
            if path.endswith(f"/{name}") and not (name in self.large and "/resolve/" in path)
        ]


@contextmanager
def serving(place: Place, hosts: Sequence[str] = ("127.0.0.1", "127.0.0.2")) -> Iterator[Place]:
    """The server, at two addresses: that of the hub and S3, and that of large files."""
    handler = type("Handler", (_Handler,), {"place": place})
    with http_server(handler, hosts[0]) as server, http_server(handler, hosts[1]) as other:
        place.url, place.other_url = (f"http://{one.server_address[0]}:{one.server_port}" for one in (server, other))
        yield place


class _Handler(BaseHTTPRequestHandler):
    """The hub's and the bucket's answers for the place that a subclass names."""

    place: Place

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = unquote(where.path)
        self.place.asked.append((headers["host"], path, headers))
        if path.startswith("/api/models/"):
            self._hub_list(path, headers)
        elif "/resolve/" in path:
            self._hub_file(path, headers)
        elif path == f"/{BUCKET}":
            self._s3_list(parse_qs(where.query))
        elif path.startswith(f"/{BUCKET}/{PREFIX}/"):
            self._content(path.rpartition("/")[2], headers)
        elif path.startswith("/cdn/"):
            assert "authorization" not in headers, "credentials went to another host"
            self._content(path.rpartition("/")[2], headers)
        else:
            self._empty(404)

    def _hub_list(self, path: str, headers: dict[str, str]) -> None:
        if self._refuse("list", headers):
            return
        if path != f"/api/models/{REPOSITORY}/revision/main":
            self._empty(404)
            return
        siblings = [_entry(name, content, name in self.place.large) for name, content in self.place.files.items()]
        self._send(200, dumps({"sha": COMMIT, "siblings": siblings}).encode(), {})

    def _hub_file(self, path: str, headers: dict[str, str]) -> None:
        name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
        if self._refuse(name, headers):
            return
        if name in self.place.large:
            self._empty(302, {"Location": f"{self.place.other_url}/cdn/{name}"})
        else:
            self._content(name, headers)

    def _refuse(self, what: str, headers: dict[str, str]) -> bool:
        if self.place.statuses.get(what):
            self._empty(self.place.statuses[what].pop(0))
            return True
        if self.place.token and headers.get("authorization") != f"Bearer {self.place.token}":
            self._empty(401)
            return True
        return False

    def _s3_list(self, query: dict[str, list[str]]) -> None:
        """One object a page."""
        if self.place.statuses.get("list"):
            self._empty(self.place.statuses["list"].pop(0))
            return
        assert query["prefix"] == [f"{PREFIX}/"]
        names = sorted(self.place.files)
        at = int(query.get("continuation-token", ["0"])[0])
        entry = ""
        if names:
            etag = self.place.etags.get(names[at], hashlib.md5(self.place.files[names[at]]).hexdigest())
            size = len(self.place.files[names[at]])
            entry = (
                f"<Contents><Key>{escape(f'{PREFIX}/{names[at]}')}</Key><ETag>&quot;{etag}&quot;</ETag>"
                f"<Size>{size}</Size></Contents>"
            )
        more = f"<NextContinuationToken>{at + 1}</NextContinuationToken>" if at + 1 < len(names) else ""
        space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        self._send(200, f"<ListBucketResult {space}>{entry}{more}</ListBucketResult>".encode(), {})

    def _content(self, name: str, headers: dict[str, str]) -> None:
        if self.place.statuses.get(name):
            self._empty(self.place.statuses[name].pop(0))
            return
        content = self.place.files[name]
        if self.place.corrupt[name]:
            self.place.corrupt[name] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        extra = {"x-amz-checksum-sha256": self.place.checksums[name]} if name in self.place.checksums else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if wanted and not self.place.ignores_ranges:
            first = int(wanted[1])
            extra["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self._send(206, content[first:], extra, self.place.break_off.pop(name, None))
        else:
            self._send(200, content, extra, self.place.break_off.pop(name, None))

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", headers or {})

    def _send(self, status: int, body: bytes, headers: dict[str, str], most: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:most])

    def log_message(self, *_: object) -> None:
        pass


def _entry(name: str, content: bytes, large: bool) -> dict[str, Any]:  # noqa: FBT001  # a field of the answer
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    lfs = {"lfs": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}} if large else {}
    return {"rfilename": name, "size": len(content), "blobId": blob, **lfs}
