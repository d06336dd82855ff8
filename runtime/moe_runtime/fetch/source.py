"""What a place that holds a checkpoint must tell: its files, how large they are, and what verifies them."""

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.request import Request

from moe_runtime.fetch.errors import FetchError, Missing

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
TEXT_SUFFIXES: Final = (".json", ".jinja")
MOST_TEXT_BYTES: Final = 256 << 20
"""Files of text larger than this are none that a runtime reads."""


class Hash(Protocol):
    """A running hash."""

    def update(self, data: bytes, /) -> None:
        """Take more of the file."""

    def hexdigest(self) -> str:
        """The hash so far."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a checkpoint."""

    name: str
    size: int
    algorithm: str
    """sha256, md5, git (SHA-1 as git takes it of a blob), or empty where the place tells no hash."""
    digest: str
    """Hexadecimal."""

    def hash(self) -> Hash | None:
        """A running hash of the file's content, before its first byte."""
        if not self.algorithm:
            return None
        if self.algorithm == "git":
            # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
            return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        return hashlib.new(self.algorithm, usedforsecurity=False)


class Source(Protocol):
    """Where a checkpoint comes from."""

    name: str
    """As the plan writes it."""
    refused: dict[int, str]
    """What to say for a status of HTTP."""

    def files(self) -> dict[str, File]:
        """Files at the top of the checkpoint, by name. Raises FetchError."""

    def request(self, file: File) -> Request:
        """The request for a file's content."""

    def verified(self, file: File, headers: dict[str, str]) -> File:
        """The file, with what the response to its request tells beyond the list; names of headers in lower case."""


def texts(files: dict[str, File]) -> list[File]:
    """Configuration, tokenizer, template, index."""
    return [file for file in files.values() if file.name.endswith(TEXT_SUFFIXES) and file.size <= MOST_TEXT_BYTES]


def weights(source: str, files: dict[str, File], index: object) -> list[File]:
    """The safetensors files that the index names, or the only one. Raises FetchError when some are not there."""
    names = {SINGLE}
    if index is not None:
        mapped = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(mapped, dict) or not all(isinstance(name, str) for name in mapped.values()):
            raise FetchError(f"{source}: {INDEX} does not map tensors to files")
        names = set(mapped.values())
    missing = sorted(names - files.keys())
    if missing:
        raise Missing(f"{source}: {missing[0]} is not there; only safetensors checkpoints are served")
    return [files[name] for name in sorted(names)]
