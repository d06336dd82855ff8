"""The webhook's certificates and its HTTPS server: renewed in time, and every question answered."""

import asyncio
import io
import json
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from reviews import Object, asked, example
from served_webhook import HOSTS, NOW, settings

from moe_operator.reconcile.compare import within
from moe_operator.webhook import Settings
from moe_operator.webhook.certificates import LIFETIME, Bundle, is_due, issue
from moe_operator.webhook.configuration import configuration
from moe_operator.webhook.review import review, unreviewed
from moe_operator.webhook.server import LARGEST_REVIEW, Desk, load, serving
from moe_operator.webhook.settings import PATH
from moe_operator.webhook.store import CertificateError

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
