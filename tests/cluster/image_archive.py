"""An image of buildah's storage as an OCI archive without the layers that its reader has already: seconds, not minutes.

`buildah push` writes and compresses every layer anew, and PyTorch's has gigabytes. This puts the uncompressed layers
together again from buildah's storage (https://github.com/containers/storage: files, and tar-split for what is between
them), so the digests are those of the image that was built, and containerd takes it where it knows what is left out.
"""

import base64
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20
NAMED = "org.opencontainers.image.ref.name"
_SEGMENT = 2
"""Kind of a tar-split entry that is bytes between files; the others are files."""


def write_archive(tag: str, archive: IO[bytes], known: Collection[str] = ()) -> None:
    """Write an image, such as for `ctr images import -`, but not the blobs of known digests."""
    image, kept = _image(tag)
    manifest = (kept / "manifest").read_bytes()
    told = json.loads(manifest)
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    named = {"mediaType": told["mediaType"], "digest": digest, "size": len(manifest), "annotations": {NAMED: tag}}
    identities = {layer["diff-digest"]: layer["id"] for layer in _layers(image["layer"])}
    with tarfile.open(fileobj=archive, mode="w|", copybufsize=CHUNK) as out:
        _add(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(out, "index.json", json.dumps({"schemaVersion": 2, "manifests": [named]}).encode())
        _add(out, _path(digest), manifest)
        _add(out, _path(told["config"]["digest"]), (kept / _file_of(told["config"]["digest"])).read_bytes())
        for layer in told["layers"]:
            if layer["digest"] not in known:
                parts = _checked(_layer(identities[layer["digest"]]), layer["digest"])
                _add(out, _path(layer["digest"]), parts, layer["size"])


def layers(tag: str) -> list[str]:
    """Digests of an image's layers, the base's first."""
    manifest = json.loads((_image(tag)[1] / "manifest").read_bytes())
    return [layer["digest"] for layer in manifest["layers"]]


def _image(tag: str) -> tuple[dict[str, Any], Path]:
    """What is recorded of an image, and the folder with its manifest and configuration."""
    (image,) = (one for one in _records("images") if tag in one.get("names", ()))
    return image, _storage() / "overlay-images" / image["id"]


@cache
def _storage() -> Path:
    told = subprocess.run(["buildah", "info"], capture_output=True, text=True, check=True, timeout=60).stdout
    store = json.loads(told)["store"]
    assert store["GraphDriverName"] == "overlay", "layers are files below diff/ in this driver alone"
    return Path(store["GraphRoot"])


def _records(what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((_storage() / f"overlay-{what}" / f"{what}.json").read_text())
    return found


def _layers(top: str) -> Iterator[dict[str, Any]]:
    by_id = {layer["id"]: layer for layer in _records("layers")}
    while top:
        yield by_id[top]
        top = by_id[top].get("parent", "")


def _layer(identity: str) -> Iterator[bytes]:
    """The tar of a layer, as it was when it was committed."""
    root = _storage()
    files = root / "overlay" / identity / "diff"
    with gzip.open(root / "overlay-layers" / f"{identity}.tar-split.gz", "rt", encoding="utf-8") as entries:
        for line in entries:
            entry = json.loads(line)
            if entry["type"] == _SEGMENT:
                yield base64.b64decode(entry["payload"])
            elif entry.get("size"):
                with (files / entry["name"]).open("rb") as file:
                    while chunk := file.read(CHUNK):
                        yield chunk


def _checked(parts: Iterator[bytes], digest: str) -> Iterator[bytes]:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
        yield part
    assert f"sha256:{found.hexdigest()}" == digest, f"buildah's storage has another layer than {digest}"


def _add(out: tarfile.TarFile, name: str, content: bytes | Iterator[bytes], size: int | None = None) -> None:
    about = tarfile.TarInfo(name)
    if isinstance(content, bytes):
        content, size = iter([content]), len(content)
    about.size = size or 0
    out.addfile(about, _Joined(content))  # type: ignore[arg-type]


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _file_of(digest: str) -> str:
    return f"={base64.b64encode(digest.encode()).decode()}"


class _Joined(io.RawIOBase):
    """Parts, read one after the other."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest = parts, b""

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (part := next(self._parts, None)) is not None:
            self._rest += part
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
