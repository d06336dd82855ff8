"""Checkpoints in S3, or in a store that speaks its protocol and that AWS_ENDPOINT_URL names.

Requests are signed with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or not signed where there are none.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import quote, urlencode
from urllib.request import Request
from xml.etree import ElementTree as ET

from moe_runtime.fetch.errors import FetchError, Missing
from moe_runtime.fetch.signature import Credentials, signed_headers
from moe_runtime.fetch.source import File
from moe_runtime.fetch.web import read

REGION: Final = "us-east-1"
_MD5_DIGITS: Final = 32
_SHA256_BYTES: Final = 32


class S3:
    """The objects below one prefix of a bucket."""

    def __init__(self, path: str, environment: Mapping[str, str]) -> None:
        """`path` is BUCKET/PREFIX. Raises FetchError when there is no bucket in it."""
        self.name = f"s3://{path}"
        bucket, _, prefix = path.partition("/")
        if not bucket:
            raise FetchError(f"{self.name} names no bucket; s3://BUCKET/PREFIX does")
        self._bucket, self._prefix = bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or REGION
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        self._endpoint = (endpoint or f"https://s3.{self._region}.amazonaws.com").rstrip("/")
        self._credentials = Credentials.of(environment)
        self.refused = {
            403: f"{self.name}: access is refused; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be of one who may read it",
            404: f"{self.name}: there is no such bucket or object",
        }

    def files(self) -> dict[str, File]:
        """See Source."""
        files: dict[str, File] = {}
        more: str | None = ""
        while more is not None:
            query = {"list-type": "2", "prefix": self._prefix, **({"continuation-token": more} if more else {})}
            listed, more = _listed(self.name, read(self._request("", query, {}), self.refused))
            for key, size, etag in listed:
                name = key.removeprefix(self._prefix)
                if name and "/" not in name:
                    files[name] = _file(name, size, etag)
        if not files:
            raise Missing(f"{self.name}: there is nothing below this prefix")
        return files

    def request(self, file: File) -> Request:
        """See Source."""
        return self._request(f"/{quote(self._prefix + file.name)}", {}, {"x-amz-checksum-mode": "ENABLED"})

    def verified(self, file: File, headers: dict[str, str]) -> File:
        """See Source: a SHA-256 of the whole object is told only with its content."""
        # A composite checksum ends in -PARTS and is a hash of hashes.
        try:
            digest = base64.b64decode(headers.get("x-amz-checksum-sha256", ""), validate=True)
        except binascii.Error:
            return file
        return replace(file, algorithm="sha256", digest=digest.hex()) if len(digest) == _SHA256_BYTES else file

    def _request(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Request:
        where = f"{self._endpoint}/{quote(self._bucket)}{path}"
        # Sorted, and with %20 for a space, as the signature wants it.
        asked = urlencode(sorted(query.items()), quote_via=quote, safe="-_.~")
        signed = signed_headers(self._credentials, self._region, where, asked, headers)
        return Request(f"{where}?{asked}" if asked else where, headers=signed)  # noqa: S310  # as configured


def _listed(name: str, answer: bytes) -> tuple[list[tuple[str, int, str]], str | None]:
    """Key, size and ETag of each object, and the token for the rest of the list."""
    try:
        root = ET.fromstring(answer)  # noqa: S314  # expat since 2.4.1 bounds what entities may grow to
        space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        objects = [
            tuple(_text(entry, f"{space}{part}") for part in ("Key", "Size", "ETag"))
            for entry in root.iter(f"{space}Contents")
        ]
        more = root.findtext(f"{space}NextContinuationToken")
        return [(key, int(size), etag.strip('"')) for key, size, etag in objects], more or None
    except (ET.ParseError, ValueError) as error:
        raise FetchError(f"{name}: the endpoint does not answer as S3 does: {error}") from None


def _text(entry: ET.Element, part: str) -> str:
    text = entry.findtext(part)
    if text is None:
        raise ValueError(f"an object without {part}")
    return text


def _file(name: str, size: int, etag: str) -> File:
    """ETags of objects uploaded in one part are their MD5; others tell nothing that can be checked."""
    is_md5 = len(etag) == _MD5_DIGITS and all(digit in "0123456789abcdef" for digit in etag)
    return File(name, size, "md5", etag) if is_md5 else File(name, size, "", "")
