"""Checkpoints of the Hugging Face Hub, or of a mirror that HF_ENDPOINT names.

One request lists the files of a revision with their sizes and hashes, and tells the commit that it stands for; all
files are then of that commit. https://huggingface.co/docs/hub/api
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from urllib.request import Request

from moe_runtime.fetch.errors import FetchError
from moe_runtime.fetch.source import File
from moe_runtime.fetch.web import read

ENDPOINT = "https://huggingface.co"


class HuggingFace:
    """One repository at one revision."""

    def __init__(self, repository: str, revision: str, environment: Mapping[str, str]) -> None:
        """`environment` may have HF_ENDPOINT and HF_TOKEN. Raises FetchError for what is no repository."""
        self.name = f"hf://{repository}"
        parts = repository.split("/")
        if len(parts) != 2 or not all(parts):
            raise FetchError(f"{self.name} is no repository; hf://ORGANISATION/NAME is one")
        self._repository, self._revision = repository, revision
        self._endpoint = (environment.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        token = environment.get("HF_TOKEN")
        self._headers = {"User-Agent": "moe-operator", **({"Authorization": f"Bearer {token}"} if token else {})}
        self._commit = ""
        self.refused = _refused(self.name, revision)

    def files(self) -> dict[str, File]:
        """See Source."""
        where = f"{self._endpoint}/api/models/{quote(self._repository)}/revision/{quote(self._revision, safe='')}"
        answer = read(Request(f"{where}?blobs=true", headers=self._headers), self.refused)  # noqa: S310  # as configured
        try:
            listed = json.loads(answer)
            self._commit = str(listed["sha"])
            files = [_file(entry) for entry in listed["siblings"] if "/" not in entry["rfilename"]]
        except (ValueError, KeyError, TypeError) as error:
            raise FetchError(f"{where} does not answer as the Hugging Face Hub does: {error}") from None
        return {file.name: file for file in files}

    def request(self, file: File) -> Request:
        """See Source."""
        where = f"{self._endpoint}/{quote(self._repository)}/resolve/{quote(self._commit, safe='')}/{quote(file.name)}"
        return Request(where, headers=self._headers)  # noqa: S310  # as configured

    def verified(self, file: File, headers: dict[str, str]) -> File:
        """See Source: the list has told everything."""
        del headers
        return file


def _file(entry: dict[str, Any]) -> File:
    large = entry.get("lfs")
    if large:
        return File(entry["rfilename"], int(large["size"]), "sha256", str(large["sha256"]))
    return File(entry["rfilename"], int(entry["size"]), "git", str(entry["blobId"]))


def _refused(name: str, revision: str) -> dict[int, str]:
    no_access = f"{name}: access is refused; accept the model's terms and set HF_TOKEN to a token that may read it"
    return {
        401: f"{name}: there is no such repository, or it is not public; set HF_TOKEN to a token that may read it",
        403: no_access,
        404: f"{name}: there is no such repository, or it has no revision {revision}",
    }
