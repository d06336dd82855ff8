"""What a real kubelet, scheduler and container runtime say when something is wrong, and what a person reads of it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helm_chart import Helm
from narrowed import narrowed
from operator_process import eventually
from terminal import Deployed, Figures, Terminal, install, uninstall

WITHIN_S = 30.0
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


@pytest.fixture(scope="module")
def told(terminal: Terminal, helm: Helm, checkpoint: Path) -> Iterator[dict[str, Deployed]]:
    """All deployments, applied at once."""
    install(helm, terminal)
    every = {name: Deployed(terminal, changed(checkpoint, name, case)) for name, (case, _, _) in CASES.items()}
    for deployed in every.values():
        deployed.apply()
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
def test_the_cause_is_named(told: dict[str, Deployed], name: str, figures: Figures) -> None:
    _, reason, words = CASES[name]
    began = time.monotonic()
    eventually(lambda: reads(told[name])[0] == reason, f"{reason}: {told[name].status()}", WITHIN_S, every_s=0.5)
    figures[f"cause named: {reason}"] = f"within {time.monotonic() - began + 1:.0f} s"
    assert words in reads(told[name])[1]
    why = told[name].moe("why")
    assert f", {reason}\n" in why
    assert f"docs/troubleshooting.md#{reason.lower()}" in why


def test_a_slot_without_dns_says_which_name_it_cannot_resolve(
    told: dict[str, Deployed], terminal: Terminal, checkpoint: Path, figures: Figures
) -> None:
    for other in told.values():
        terminal.kubectl("delete", "moed", other.name)
    deployed = Deployed(terminal, changed(checkpoint, "no-dns", {"runtime": {"podTemplate": {"spec": NO_DNS}}}))
    began = time.monotonic()
    deployed.apply()
    eventually(lambda: reads(deployed)[0] == "NameUnknown", f"{deployed.status()}", STARTED_WITHIN_S, every_s=1)
    figures["cause named: NameUnknown, from the apply on"] = f"{time.monotonic() - began:.0f} s"
    message = reads(deployed)[1]
    assert "slot 1 on e2e: the frontend at no-dns-0-0.no-dns-0.default port 29500 has not taken it in: DNS " in message
