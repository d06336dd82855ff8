"""The webhook beside a real API server, as the people behind it see it."""

import base64
import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from cryptography import x509
from reviews import Object, example
from served_webhook import HOSTS, NAMESPACE, NOW, home, settings, until, until_asked, webhook

from moe_operator.reconcile.objects import MANAGER
from moe_operator.webhook import service
from moe_operator.webhook.certificates import LIFETIME, Bundle, issue
from moe_operator.webhook.configuration import configuration

IMPOSSIBLE = example("seed-s2-as-written")


@pytest.fixture
def plane_with_home(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    monkeypatch.setattr(service, "LOOK_AGAIN_S", 0.2)
    monkeypatch.setattr(service, "RETRY_S", 0.2)
    home(plane)
    yield plane
    plane.kubectl("delete", "secret", "--all", "--namespace", NAMESPACE)
    plane.kubectl("delete", "moed", "--all", "--namespace", NAMESPACE)


def apply(plane: ControlPlane, manifest: Object, *options: str) -> Any:
    return plane.kubectl("apply", "--namespace", NAMESPACE, "-f", "-", *options, stdin=json.dumps(manifest))


def found(plane: ControlPlane, *what: str) -> Any:
    done = plane.kubectl("get", *what, "--namespace", NAMESPACE, "-o", "json")
    return json.loads(done.stdout) if done.returncode == 0 else None


@pytest.mark.slow
def test_labels_and_deletion_of_what_is_not_valid_are_nobodys_business(plane_with_home: ControlPlane) -> None:
    plane = plane_with_home
    assert apply(plane, IMPOSSIBLE).returncode == 0
    with webhook(plane, settings()):
        until_asked(plane, IMPOSSIBLE)
        done = plane.kubectl("label", "moed", "seed-s2", "team=a", "--namespace", NAMESPACE)
        assert (done.returncode, done.stderr) == (0, "")
        scaled = plane.kubectl("scale", "moed", "seed-s2", "--replicas=2", "--namespace", NAMESPACE)
        assert (scaled.returncode, scaled.stderr) == (0, "")
        edited = apply(plane, {**IMPOSSIBLE, "spec": {**IMPOSSIBLE["spec"], "replicas": 3}})
        assert edited.returncode == 0
        assert "Warning: not valid, as before this change: spec.parallelism.ep: ep 64 over 16 experts" in edited.stderr
        assert plane.kubectl("delete", "moed", "seed-s2", "--namespace", NAMESPACE).returncode == 0


@pytest.mark.slow
def test_the_certificate_is_rotated_and_nobody_notices(plane_with_home: ControlPlane) -> None:
    plane, behind = plane_with_home, [LIFETIME * 0.7]
    chosen = settings()
    with webhook(plane, chosen, lambda: datetime.now(UTC) - behind[0]):
        until_asked(plane, IMPOSSIBLE)
        old = served(chosen.port)
        behind[0] = timedelta()
        until(lambda: refused(plane) and served(chosen.port) != old)
        assert all(refused(plane) for _ in range(5))
        hook, secret = trusted(plane), found(plane, "secret", "moe-operator-webhook")
        assert hook == secret["data"]["ca.crt"]
        assert len(x509.load_pem_x509_certificates(base64.b64decode(hook))) == 2


def refused(plane: ControlPlane) -> bool:
    assert apply(plane, IMPOSSIBLE, "--dry-run=server").returncode == 1, "the webhook was not asked"
    return True


@pytest.mark.slow
def test_a_configuration_that_is_deleted_or_edited_comes_back(plane_with_home: ControlPlane) -> None:
    plane = plane_with_home
    with webhook(plane, settings()):
        until_asked(plane, IMPOSSIBLE)
        plane.kubectl("delete", "validatingwebhookconfiguration", MANAGER)
        until_asked(plane, IMPOSSIBLE)
        plane.kubectl(
            "patch",
            "validatingwebhookconfiguration",
            MANAGER,
            "--type=json",
            '--patch=[{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"}]',
        )
        until(lambda: policy(plane) == "Ignore")


def policy(plane: ControlPlane) -> Any:
    return found(plane, "validatingwebhookconfiguration", MANAGER)["webhooks"][0]["failurePolicy"]


@pytest.mark.slow
def test_two_operators_that_start_at_once_agree_on_one_certificate(plane_with_home: ControlPlane) -> None:
    plane, chosen = plane_with_home, settings()
    second = settings(url=chosen.url)
    with webhook(plane, chosen), webhook(plane, second):
        until_asked(plane, IMPOSSIBLE)
        secret = found(plane, "secret", "moe-operator-webhook")
        until(lambda: served(chosen.port) and served(chosen.port) == served(second.port))
        looks = len(audited(plane, "get"))
        until(lambda: len(audited(plane, "get")) > looks + 8)
        assert found(plane, "secret", "moe-operator-webhook")["metadata"] == secret["metadata"]


def served(port: int) -> str | None:
    try:
        return ssl.get_server_certificate(("127.0.0.1", port))
    except OSError:
        return None


@pytest.mark.slow
def test_nothing_is_written_while_nothing_changes(plane_with_home: ControlPlane) -> None:
    plane = plane_with_home
    with webhook(plane, settings()):
        until_asked(plane, IMPOSSIBLE)
        before = written(plane)
        looks = len(audited(plane, "get"))
        until(lambda: len(audited(plane, "get")) > looks + 6)
        assert written(plane) == before


def written(plane: ControlPlane) -> int:
    return sum(len(audited(plane, verb)) for verb in ("create", "patch", "update"))


def audited(plane: ControlPlane, verb: str) -> list[Object]:
    """Requests for the webhook's own objects."""
    lines = (plane.folder / "audit.log").read_text().splitlines()
    entries = [json.loads(line) for line in lines if '"validatingwebhookconfigurations"' in line or '"secrets"' in line]
    return [entry for entry in entries if entry["verb"] == verb and entry["userAgent"] == "moe-operator"]


@pytest.mark.slow
def test_a_secret_of_somebody_else_is_left_alone_and_told(
    plane_with_home: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    plane = plane_with_home
    metadata = {"name": "moe-operator-webhook", "namespace": NAMESPACE}
    plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"password": "x"}})
    with webhook(plane, settings()):
        sentence = f"Secret {NAMESPACE}/moe-operator-webhook is not this operator's; delete it, or mount it"
        until(lambda: sentence in caplog.text)
        looks = len(audited(plane, "get"))
        until(lambda: len(audited(plane, "get")) > looks + 3)
        assert caplog.text.count(sentence) == 1
        assert list(found(plane, "secret", "moe-operator-webhook")["data"]) == ["password"]
        plane.kubectl("delete", "secret", "moe-operator-webhook", "--namespace", NAMESPACE)
        until_asked(plane, IMPOSSIBLE)


@pytest.mark.slow
def test_certificates_of_cert_manager_are_taken_from_their_folder_and_renewed_with_it(
    plane_with_home: ControlPlane, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plane = plane_with_home
    with webhook(plane, settings(certificates=tmp_path)):
        until(
            lambda: f"{tmp_path / 'ca.crt'}: No such file or directory; mount the certificate's Secret" in caplog.text
        )
        first = issue(HOSTS, datetime.now(UTC))
        write(tmp_path, first)
        until_asked(plane, IMPOSSIBLE)
        write(tmp_path, issue(HOSTS, datetime.now(UTC), first.authorities))
        before = trusted(plane)
        until(lambda: trusted(plane) != before)
        assert apply(plane, IMPOSSIBLE, "--dry-run=server").returncode == 1
        assert found(plane, "secret", "moe-operator-webhook") is None


def trusted(plane: ControlPlane) -> Any:
    return found(plane, "validatingwebhookconfiguration", MANAGER)["webhooks"][0]["clientConfig"]["caBundle"]


def write(folder: Path, bundle: Bundle) -> None:
    for name, content in (("tls.key", bundle.key), ("tls.crt", bundle.certificate), ("ca.crt", bundle.authorities)):
        (folder / name).write_bytes(content)


@pytest.mark.slow
def test_an_operator_that_is_down_keeps_nobody_from_deploying(plane_with_home: ControlPlane) -> None:
    plane = plane_with_home
    plane.apply(configuration(settings(), issue(HOSTS, NOW).authorities))
    try:
        assert apply(plane, IMPOSSIBLE).returncode == 0
    finally:
        plane.kubectl("delete", "validatingwebhookconfiguration", MANAGER)
