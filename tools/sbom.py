"""Write the CycloneDX bill of materials of an image, from inside of it: what Python and Debian say is installed.

Runs while an image is built, with the standard library alone. The same image gives the same bytes: no time, and a serial
number made of the content. Format: https://cyclonedx.org/docs/1.6/json/.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

Component = dict[str, Any]
PERMITTED = "moe-operator:locked-hash"
"""Property of a component: its wheel has this hash or another that is named so."""
_FIELDS = ("binary:Package", "Version", "Architecture", "Source")


def main() -> None:
    """Print the bill of materials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="name of the image")
    parser.add_argument("version", help="version of the image")
    parser.add_argument("lock", type=Path, help="what pip was told to install, with hashes")
    given = parser.parse_args()
    hashes = locked(given.lock.read_text())
    print(json.dumps(bill(given.name, given.version, [*python(hashes), *interpreter(), *debian()]), indent=1))


def bill(name: str, version: str, components: Iterable[Component]) -> dict[str, Any]:
    """The document for an image of components, in the order of their package URLs."""
    listed = sorted(components, key=lambda component: component["purl"])
    image = {"type": "container", "bom-ref": "image", "name": name, "version": version}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, json.dumps([image, listed]))}",
        "version": 1,
        "metadata": {"lifecycles": [{"phase": "build"}], "component": image},
        "components": listed,
    }


def locked(lock: str) -> dict[str, list[str]]:
    """Hashes in a lock file, by package URL: of each platform's wheel, of which pip has taken one."""
    blocks = re.findall(r"^([\w.-]+)==(\S+)(.*?)(?=^\w|\Z)", lock, re.MULTILINE | re.DOTALL)
    return {f"pkg:pypi/{name}@{version}": sorted(re.findall(r"--hash=(\S+)", rest)) for name, version, rest in blocks}


def python(hashes: dict[str, list[str]]) -> Iterator[Component]:
    """Each Python distribution, with the hashes of which one is its wheel's."""
    for found in distributions():
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        purl = f"pkg:pypi/{name}@{found.version}"
        component = {"type": "library", "bom-ref": purl, "name": found.metadata["Name"], "version": found.version}
        permitted = [{"name": PERMITTED, "value": one} for one in hashes.get(purl, ())]
        yield component | {"purl": purl, **_licensed(found), **({"properties": permitted} if permitted else {})}


def interpreter() -> Iterator[Component]:
    """Python itself, where it is no package of Debian."""
    if Path(sys.base_prefix) != Path("/usr"):
        version = ".".join(map(str, sys.version_info[:3]))
        purl = f"pkg:generic/python@{version}"
        yield {"type": "platform", "bom-ref": purl, "name": "python", "version": version, "purl": purl}


def debian() -> Iterator[Component]:
    """Each package of Debian, where the base is made of them."""
    if which("dpkg-query") is None:
        return
    shown = "".join(f"${{{field}}}\\t" for field in _FIELDS) + "\n"
    command = ["dpkg-query", "-W", "-f", shown]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for line in told.splitlines():
        qualified, version, architecture, source = line.split("\t")[:4]
        name = qualified.partition(":")[0]
        purl = f"pkg:deb/{_distribution()}/{quote(name)}@{quote(version, safe='')}?arch={architecture}"
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        if source:
            component["properties"] = [{"name": "debian:source", "value": source}]
        yield component


def _distribution() -> str:
    found = re.search(r'^ID="?(\w+)', Path("/etc/os-release").read_text(), re.MULTILINE)
    return found[1] if found else "debian"


def _licensed(distribution: Distribution) -> dict[str, Any]:
    """Its licence as it says itself: an SPDX expression, or a short name."""
    expression, name = distribution.metadata.get("License-Expression"), distribution.metadata.get("License")
    if expression:
        return {"licenses": [{"expression": expression}]}
    return {"licenses": [{"license": {"name": name}}]} if name and "\n" not in name and len(name) < 80 else {}


if __name__ == "__main__":
    main()
