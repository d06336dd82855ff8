"""What a real kubelet, scheduler and container runtime say when something is wrong, and what a person reads of it."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helm_chart import Helm
from narrowed import narrowed
from operator_process import eventually
from terminal import Deployed, Figures, Terminal, install, uninstall

WITHIN_S = 45.0
"""30 s, and what this machine needs besides to start the containers of eight deployments at once."""
STARTED_WITHIN_S = 150.0
"""For what is only seen once a frontend and a slot have started, both on this machine's cores."""
NO_DNS = {
    "dnsPolicy": "None",
    "dnsConfig": {
        "nameservers": ["192.0.2.1"],
        "options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "1"}],
    },
}
NEVER = {"containers": [{"name": "runtime", "imagePullPolicy": "Never"}]}

CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "image-not-on-node": (
        {"runtime": {"image": "localhost/nope:1", "podTemplate": {"spec": NEVER}}},
        "ImageNotOnNode",
        "slot 0 on e2e: container runtime does not start: Container image",
    ),
    "registry-away": ({"runtime": {"image": "localhost:9/nope:1"}}, "RegistryUnreachable", "connection refused"),
    "image-misspelt": ({"runtime": {"image": "localhost/NOPE:1"}}, "InvalidImageName", "runtime does not start: "),
    "secret-missing": (
        {"serving": {"apiKeySecretRef": {"name": "absent", "key": "key"}}},
        "ReferenceMissing",
        'slot 0 on e2e: container runtime does not start: secret "absent" not found',
    ),
    "path-missing": (
        {"model": {"source": "file:///nowhere/at/all"}},
        "PathMissing",
        "hostPath type check failed: /nowhere/at/all is not a directory",
    ),
    "hub-away": (
        {
            "model": {"source": "hf://a/b"},
            "runtime": {"env": [{"name": "HF_ENDPOINT", "value": "http://nobody.example.invalid"}]},
        },
        "SourceUnreachable",
        "container fetch exited with 1: http://nobody.example.invalid/api/",
    ),
    "claim-missing": ({"model": {"source": "pvc://absent/model"}}, "ClaimMissing", '"absent" not found'),
    "memory-short": ({"runtime": {"resources": {"limits": {"memory": "24Mi"}}}}, "OOMKilled", "with a limit of 24Mi"),
}
"""Of deployments by name: what is changed in the manifest, the reason that a person reads, and some of the words."""


@dataclass
class Told:
    """A deployment in trouble, and when its cause was named."""

    deployed: Deployed
    applied_at: float
    after_s: float = math.inf


@pytest.fixture(scope="module")
def told(terminal: Terminal, helm: Helm, checkpoint: Path) -> Iterator[dict[str, Told]]:
    """All deployments, applied one after another and looked at until each has named its cause."""
    install(helm, terminal)
    every: dict[str, Told] = {}
    for name, (case, _, _) in CASES.items():
        deployed = Deployed(terminal, changed(checkpoint, name, case))
        deployed.apply()
        every[name] = Told(deployed, time.monotonic())
    while any(one.after_s == math.inf and time.monotonic() < one.applied_at + WITHIN_S for one in every.values()):
        for name, one in every.items():
            if one.after_s == math.inf and reads(one.deployed)[0] == CASES[name][1]:
                one.after_s = time.monotonic() - one.applied_at
    yield every
    terminal.kubectl("delete", "moed", "--all")
    uninstall(helm, terminal)


def changed(checkpoint: Path, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Two pods of 8 ranks, with parts of the spec as given."""
    manifest = narrowed(checkpoint, ep=8)
    manifest["metadata"]["name"] = name
    for part, fields in spec.items():
        manifest["spec"][part] = manifest["spec"].get(part, {}) | fields
    return manifest


def reads(deployed: Deployed) -> tuple[str, str]:
    """Reason and message of Ready."""
    found = {c["type"]: c for c in deployed.status().get("conditions") or ()}.get("Ready", {})
    return found.get("reason", ""), found.get("message", "")


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_named(told: dict[str, Told], name: str, figures: Figures) -> None:
    _, reason, words = CASES[name]
    one = told[name]
    assert one.after_s <= WITHIN_S, one.deployed.status()
    figures[f"cause named after the apply: {reason}"] = f"{one.after_s:.0f} s"
    assert words in reads(one.deployed)[1]
    why = one.deployed.moe("why")
    assert f", {reason}\n" in why
    assert f"docs/troubleshooting.md#{reason.lower()}" in why


def test_a_slot_without_dns_says_which_name_it_cannot_resolve(
    told: dict[str, Told], terminal: Terminal, checkpoint: Path, figures: Figures
) -> None:
    for other in told.values():
        terminal.kubectl("delete", "moed", other.deployed.name)
    deployed = Deployed(terminal, changed(checkpoint, "no-dns", {"runtime": {"podTemplate": {"spec": NO_DNS}}}))
    began = time.monotonic()
    deployed.apply()
    eventually(lambda: reads(deployed)[0] == "NameUnknown", f"{deployed.status()}", STARTED_WITHIN_S, every_s=1)
    figures["cause named after the apply: NameUnknown"] = f"{time.monotonic() - began:.0f} s"
    message = reads(deployed)[1]
    assert "slot 1 on e2e: the frontend at no-dns-0-0.no-dns-0.default port 29500 has not taken it in: DNS " in message
