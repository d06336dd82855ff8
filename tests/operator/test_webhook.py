"""The webhook as the API server and the people behind it see it: verdicts, warnings, certificates, trouble."""

import asyncio
import base64
import io
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from control_plane import ControlPlane
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from served_webhook import NAMESPACE, home, settings, until, until_asked, webhook

from moe_operator.reconcile.compare import within
from moe_operator.reconcile.objects import MANAGER
from moe_operator.verdict import verdict
from moe_operator.webhook import Settings, service
from moe_operator.webhook.certificates import LIFETIME, Bundle, is_due, issue
from moe_operator.webhook.configuration import configuration
from moe_operator.webhook.review import ReviewError, review, unreviewed
from moe_operator.webhook.server import LARGEST_REVIEW, Desk, load, serving
from moe_operator.webhook.settings import PATH
from moe_operator.webhook.store import CertificateError
from moe_plan.errors import ManifestError
from moe_plan.manifest import parse_deployment
from moe_plan.planner import make_plan

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTS = ("localhost", "127.0.0.1")

Object = dict[str, Any]


def example(name: str, **parallelism: Any) -> Object:
    manifest: Object = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    manifest["spec"]["parallelism"] |= parallelism
    return manifest


def asked(new: Any, old: Any = None) -> Object:
    operation = "CREATE" if old is None else "UPDATE"
    request = {"uid": "42", "operation": operation, "object": new, "oldObject": old}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def answer(new: Any, old: Any = None) -> Object:
    whole = review(asked(new, old))
    assert (whole["apiVersion"], whole["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: Object = whole["response"]
    assert response["uid"] == "42"
    return response


def refusal_of(manifest: Object) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        make_plan(parse_deployment(manifest))
    return caught.value


# --- verdicts


@pytest.mark.parametrize("seed", ["seed-s1", "seed-s2", "qwen3-235b"])
def test_a_manifest_that_works_is_admitted(seed: str) -> None:
    assert answer(example(seed)) == {"uid": "42", "allowed": True}


@pytest.mark.parametrize("seed", ["seed-s3", "seed-s4"])
def test_what_the_plan_warns_of_is_a_warning_of_kubectl(seed: str) -> None:
    response = answer(example(seed))
    assert response["allowed"]
    assert response["warnings"] == list(make_plan(parse_deployment(example(seed))).warnings)
    assert response["warnings"]


def test_a_refusal_has_the_verdict_for_all_and_its_parts_for_kubectl() -> None:
    manifest = example("seed-s1", ep=48, tp=3)
    error, status = refusal_of(manifest), answer(manifest)["status"]
    assert (status["code"], status["reason"], status["message"]) == (422, "Invalid", verdict(error))
    *causes, nearest = status["details"]["causes"]
    assert [f"{cause['field']}: {cause['message']}" for cause in causes] == [str(v) for v in error.violations]
    assert [cause["reason"] for cause in causes] == [violation.code for violation in error.violations]
    assert nearest["message"].split("\n  ")[1:] == list(error.nearest)


def test_a_change_is_not_refused_for_what_was_wrong_before_it() -> None:
    old = example("seed-s2-as-written")
    new = example("seed-s2-as-written")
    new["spec"]["replicas"] = 0
    response = answer(new, old)
    assert response["allowed"]
    assert response["warnings"][0].startswith("not valid, as before this change: spec.parallelism.ep: ep 64 over 16")


def test_a_change_is_refused_for_what_it_adds() -> None:
    old, new = example("seed-s2-as-written"), example("seed-s2-as-written", tp=3)
    assert not answer(new, old)["allowed"]
    assert not answer(example("seed-s2-as-written"), example("seed-s2"))["allowed"]


def test_what_an_older_operator_accepted_can_still_be_repaired_and_edited() -> None:
    old = example("seed-s1")
    old["spec"]["parallelism"]["virtualStages"] = 2
    edited = json.loads(json.dumps(old))
    edited["spec"]["replicas"] = 2
    assert answer(example("seed-s1"), old)["allowed"]
    assert answer(edited, old)["allowed"]
    assert answer(old, example("seed-s1"))["allowed"] is False


def from_config_map(**hardware: Any) -> Object:
    manifest = example("seed-s1")
    manifest["spec"]["model"] = {"configFrom": {"configMapKeyRef": {"name": "models", "key": "config.json"}}}
    manifest["spec"]["hardware"] |= hardware
    return manifest


def test_a_model_in_a_config_map_is_left_to_the_operator_and_that_is_said() -> None:
    assert answer(from_config_map()) == {
        "uid": "42",
        "allowed": True,
        "warnings": [
            "spec.model.configFrom: the operator checks degrees and memory when it reads ConfigMap models; "
            "see condition ParallelismValid of seed-s1"
        ],
    }


def test_what_can_be_told_without_the_config_map_is_told() -> None:
    causes = answer(from_config_map(accelerator="h200"))["status"]["details"]["causes"]
    assert [cause["field"] for cause in causes] == ["spec.hardware.accelerator"]


def test_a_refusal_of_a_thousand_mistakes_stays_readable() -> None:
    manifest = example("seed-s1")
    manifest["spec"] |= {f"unknown{number}": "x" * 5000 for number in range(1000)}
    status = answer(manifest)["status"]
    assert len(json.dumps(status)) < 100_000
    assert len(status["details"]["causes"]) < 50


def test_warnings_are_single_lines_as_http_headers_must_be() -> None:
    manifest = example("seed-s2-as-written")
    manifest["spec"]["model"]["architecture"] = "a\r\nb\x00c"
    for line in answer(manifest, manifest)["warnings"]:
        assert line.isprintable()


@pytest.mark.parametrize(
    "question",
    [None, [], {}, {"request": None}, {"request": {}}, asked(None), asked("text"), asked({}), asked({"metadata": 1})],
)
def test_what_is_no_review_is_said_to_be_none(question: Any) -> None:
    with pytest.raises(ReviewError):
        review(question)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["model", "hardware", "parallelism", "workload", "scheduling", "runtime"]), junk, junk)
def test_no_object_makes_a_review_fail(section: str, value: Any, metadata: Any) -> None:
    manifest = example("seed-s1")
    manifest["spec"][section] = value
    manifest["metadata"]["labels"] = metadata
    response = answer(manifest)
    assert response["allowed"] or response["status"]["message"]
    json.dumps(response).encode()


# --- certificates


def test_a_certificate_is_due_when_a_third_of_its_life_is_left() -> None:
    bundle = issue(HOSTS, NOW)
    assert not is_due(bundle, HOSTS, NOW)
    assert not is_due(bundle, HOSTS, NOW + LIFETIME * 0.66)
    assert is_due(bundle, HOSTS, NOW + LIFETIME * 0.67)


@pytest.mark.parametrize("damage", ["authorities", "certificate", "key"])
def test_a_damaged_certificate_is_due(damage: str) -> None:
    sound, other = issue(HOSTS, NOW), issue(HOSTS, NOW)
    for content in (b"", b"-----BEGIN", getattr(other, damage)):
        parts = {name: getattr(sound, name) for name in ("authorities", "certificate", "key")}
        assert is_due(Bundle(**{**parts, damage: content}), HOSTS, NOW)


def test_a_certificate_for_other_hosts_is_due() -> None:
    assert is_due(issue(HOSTS, NOW), ("moe.example.org",), NOW)


def test_authorities_are_trusted_until_they_end_and_no_more_than_three() -> None:
    def trusted(bundle: Bundle) -> int:
        return len(x509.load_pem_x509_certificates(bundle.authorities))

    first = issue(HOSTS, NOW)
    second = issue(HOSTS, NOW + LIFETIME / 2, first.authorities)
    assert trusted(second) == 2
    assert trusted(issue(HOSTS, NOW + LIFETIME * 1.1, second.authorities)) == 2
    for _ in range(5):
        second = issue(HOSTS, NOW, second.authorities)
    assert trusted(second) == 3


def test_the_configuration_is_in_place_whatever_the_api_server_adds() -> None:
    wanted = configuration(Settings("moe"), b"ca")
    observed = json.loads(json.dumps(wanted))
    observed["metadata"]["uid"] = "1"
    observed["webhooks"][0] |= {"matchPolicy": "Equivalent", "namespaceSelector": {}}
    assert within(wanted, observed)
    assert not within(configuration(Settings("moe"), b"another"), observed)
    assert not within(wanted, {**observed, "webhooks": []})


# --- the server, over real HTTPS


def context_of(bundle: Bundle) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, bundle)
    return context


@asynccontextmanager
async def endpoint(desk: Desk, context: ssl.SSLContext, authorities: bytes) -> AsyncIterator[tuple[str, Any]]:
    """URL of a served desk, and a client that trusts its authorities."""
    chosen = settings(url=None)
    trusting = ssl.create_default_context(cadata=authorities.decode())
    async with serving(chosen, context, desk), aiohttp.ClientSession() as client:

        async def post(body: bytes | Object) -> tuple[int, Any]:
            data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
            url = f"https://127.0.0.1:{chosen.port}{PATH}"
            async with client.post(url, data=data, ssl=trusting, headers={"Connection": "close"}) as got:
                text = await got.text()
                return got.status, json.loads(text) if got.status == 200 else text

        yield f"https://127.0.0.1:{chosen.port}", post


def test_a_review_of_an_object_of_megabytes_is_answered() -> None:
    async def story() -> None:
        bundle = issue(HOSTS, datetime.now(UTC))
        manifest = example("seed-s1")
        manifest["metadata"]["annotations"] = {"notes": "n" * 3_000_000}
        async with endpoint(Desk(), context_of(bundle), bundle.authorities) as (_, post):
            status, said = await post(asked(manifest, manifest))
            assert (status, said["response"]["allowed"]) == (200, True)
            assert (await post(b"x" * (LARGEST_REVIEW + 1)))[0] == 413

    asyncio.run(story())


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[" * 100_000, b"\xff\xfe", b"{}", b'"text"', b"1" * 5000])
def test_what_is_no_review_is_a_bad_request(body: bytes) -> None:
    async def story() -> None:
        bundle = issue(HOSTS, datetime.now(UTC))
        async with endpoint(Desk(), context_of(bundle), bundle.authorities) as (_, post):
            status, text = await post(body)
            assert status == 400
            assert "Traceback" not in text

    asyncio.run(story())


def test_a_verdict_that_takes_too_long_is_given_up_and_others_are_not_held_up() -> None:
    released = threading.Event()

    def judge(question: Object) -> Object:
        if question["request"]["object"]["metadata"]["name"] == "endless":
            assert released.wait(60)
        return review(question)

    async def story() -> None:
        bundle = issue(HOSTS, datetime.now(UTC))
        endless = example("seed-s1") | {"metadata": {"name": "endless"}}
        async with endpoint(Desk(judge, 1.0), context_of(bundle), bundle.authorities) as (_, post):
            waiting = asyncio.create_task(post(asked(endless)))
            assert not (await post(asked(example("seed-s2-as-written"))))[1]["response"]["allowed"]
            said = (await waiting)[1]["response"]
        assert said["allowed"]
        assert said["warnings"] == ["not checked before it was stored (no verdict within 1 s); see its status"]

    try:
        asyncio.run(story())
    finally:
        released.set()


def test_a_fault_of_ours_admits_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def judge(question: Object) -> Object:
        raise ZeroDivisionError(str(question["request"]["uid"]))

    async def story() -> None:
        bundle = issue(HOSTS, datetime.now(UTC))
        async with endpoint(Desk(judge), context_of(bundle), bundle.authorities) as (_, post):
            assert (await post(asked(example("seed-s1"))))[1] == unreviewed(
                asked(example("seed-s1")), "the operator's webhook failed; its log says why"
            )

    asyncio.run(story())
    assert "ZeroDivisionError" in caplog.text


def test_a_new_certificate_is_served_without_closing_the_port() -> None:
    async def story() -> None:
        now = datetime.now(UTC)
        old = issue(HOSTS, now)
        new = issue(HOSTS, now, old.authorities)
        context = context_of(old)
        async with endpoint(Desk(), context, new.authorities) as (url, post):
            assert (await post(asked(example("seed-s1"))))[0] == 200
            load(context, new)
            assert (await post(asked(example("seed-s1"))))[0] == 200
            served = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", int(url.rsplit(":")[-1])))
        assert x509.load_pem_x509_certificate(served.encode()) == x509.load_pem_x509_certificate(new.certificate)

    asyncio.run(story())


def test_a_key_that_is_not_the_certificates_is_told(tmp_path: Path) -> None:
    first, second = issue(HOSTS, NOW), issue(HOSTS, NOW)
    with pytest.raises(CertificateError, match="are no certificate and its key"):
        context_of(Bundle(first.authorities, first.certificate, second.key))
    with pytest.raises(CertificateError, match="are no certificate and its key"):
        context_of(Bundle(b"", tmp_path.name.encode(), b""))


# --- with a real API server


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
