"""Fetching a checkpoint: whole, verified, resumed, once for all who share a directory, and plain about what is wrong."""

import base64
import errno
import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hub_and_s3 import BUCKET, COMMIT, PREFIX, REPOSITORY, Place, serving
from tiny_plans import tiny_plan

from moe_plan.plan import Plan
from moe_runtime.cli import main
from moe_runtime.fetch import store as store_module
from moe_runtime.fetch import web
from moe_runtime.fetch.errors import FetchError
from moe_runtime.fetch.fetch import fetch
from moe_runtime.fetch.signature import Credentials, signed_headers
from moe_runtime.fetch.store import Store, telling_why

CONFIG = {"model_type": "qwen3_moe", "vocab_size": 96, "num_hidden_layers": 2, "num_experts": 8}
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[0]}}).encode()
FILES = {
    "config.json": b'{"model_type": "qwen3_moe"}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": INDEX,
    SHARDS[0]: bytes(range(256)) * 5000,
    SHARDS[1]: bytes(reversed(range(256))) * 3000,
}
OTHERS = {"README.md": b"# hello", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"no"}
HUB, S3 = f"hf://{REPOSITORY}", f"s3://{BUCKET}/{PREFIX}"


def plan_of(source: str, revision: str = "main") -> Plan:
    plan = tiny_plan(CONFIG)
    return plan.model_copy(update={"model": plan.model.model_copy(update={"source": source, "revision": revision})})


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSE_S", 0.0)


@pytest.fixture
def place() -> Iterator[Place]:
    with serving(Place({**FILES, **OTHERS}, frozenset(SHARDS))) as served:
        yield served


def environment(place: Place) -> dict[str, str]:
    return {
        "HF_ENDPOINT": place.url,
        "AWS_ENDPOINT_URL": place.url,
        **({"HF_TOKEN": place.token} if place.token else {}),
    }


def fetched(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("source", [HUB, S3])
def test_all_that_a_rank_or_the_frontend_reads_is_fetched_and_nothing_else(
    tmp_path: Path, place: Place, source: str
) -> None:
    place.files = {name: content for name, content in place.files.items() if source == HUB or "/" not in name}
    fetch(plan_of(source), tmp_path / "m", environment(place))
    assert fetched(tmp_path / "m") == FILES
    if source == HUB:
        assert {path.split("/")[4] for _, path, _ in place.asked if "/resolve/" in path} == {COMMIT}


@pytest.mark.parametrize("source", [HUB, S3])
def test_what_is_there_is_not_fetched_again(tmp_path: Path, place: Place, source: str) -> None:
    fetch(plan_of(source), tmp_path, environment(place))
    place.asked.clear()
    fetch(plan_of(source), tmp_path, environment(place))
    assert place.asked == []
    (tmp_path / SHARDS[0]).unlink()
    fetch(plan_of(source), tmp_path, environment(place))
    assert fetched(tmp_path) == FILES
    assert place.sent("tokenizer.json") == []


@pytest.mark.parametrize("source", [HUB, S3])
def test_a_file_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path, place: Place, source: str) -> None:
    place.break_off[SHARDS[0]] = 1_000_000
    fetch(plan_of(source), tmp_path, environment(place))
    assert fetched(tmp_path) == FILES
    assert place.sent(SHARDS[0]) == ["", "bytes=1000000-"]


def test_a_fetch_that_was_killed_goes_on_where_it_stopped(tmp_path: Path, place: Place) -> None:
    work = tmp_path / ".fetch"
    work.mkdir()
    (work / f"{SHARDS[1]}.part").write_bytes(FILES[SHARDS[1]][:4096])
    fetch(plan_of(HUB), tmp_path, environment(place))
    assert fetched(tmp_path) == FILES
    assert place.sent(SHARDS[1]) == ["bytes=4096-"]


def test_a_place_that_does_not_resume_sends_the_whole_file(tmp_path: Path, place: Place) -> None:
    place.ignores_ranges = True
    place.break_off[SHARDS[0]] = 1000
    fetch(plan_of(HUB), tmp_path, environment(place))
    assert fetched(tmp_path) == FILES


@pytest.mark.parametrize("source", [HUB, S3])
@pytest.mark.parametrize("name", [SHARDS[0], "config.json"])
def test_a_corrupt_file_is_fetched_anew_and_then_refused(tmp_path: Path, place: Place, source: str, name: str) -> None:
    place.corrupt[name] = 1
    fetch(plan_of(source), tmp_path / "once", environment(place))
    assert fetched(tmp_path / "once") == FILES
    place.corrupt[name] = 2
    with pytest.raises(FetchError, match=rf"{name} is corrupt: its \w+ is \w+ instead of \w+"):
        fetch(plan_of(source), tmp_path / "twice", environment(place))
    assert not (tmp_path / "twice" / name).exists()


def test_an_object_in_parts_is_verified_by_its_checksum(tmp_path: Path, place: Place) -> None:
    place.etags[SHARDS[0]] = "0" * 32 + "-7"
    place.checksums[SHARDS[0]] = base64.b64encode(hashlib.sha256(FILES[SHARDS[0]]).digest()).decode()
    place.corrupt[SHARDS[0]] = 2
    with pytest.raises(FetchError, match="its sha256 is"):
        fetch(plan_of(S3), tmp_path, environment(place))
    fetch(plan_of(S3), tmp_path, environment(place))
    assert fetched(tmp_path) == FILES


def test_an_object_without_any_hash_is_told(tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.etags[SHARDS[0]] = "0" * 32 + "-7"
    place.checksums[SHARDS[0]] = "c29tZXRoaW5n-7"
    with caplog.at_level(logging.WARNING):
        fetch(plan_of(S3), tmp_path, environment(place))
    assert f"{SHARDS[0]}: the store tells no hash of it; only its size is checked" in caplog.text


def test_troubles_that_pass_are_waited_out(tmp_path: Path, place: Place) -> None:
    place.statuses = {"list": [503, 429], SHARDS[0]: [500], "config.json": [504]}
    fetch(plan_of(HUB), tmp_path, environment(place))
    assert fetched(tmp_path) == FILES


def test_a_token_is_shown_to_the_hub_alone(tmp_path: Path, place: Place) -> None:
    place.token = "secret"
    fetch(plan_of(HUB), tmp_path, environment(place))
    assert fetched(tmp_path) == FILES


@pytest.mark.parametrize(
    ("source", "status", "sentence"),
    [
        (HUB, 401, "hf://tiny/moe: there is no such repository, or it is not public; set HF_TOKEN"),
        (HUB, 403, "hf://tiny/moe: access is refused; accept the model's terms and set HF_TOKEN"),
        (HUB, 404, "hf://tiny/moe: there is no such repository, or it has no revision main"),
        (S3, 403, "s3://models/tiny/moe: access is refused; AWS_ACCESS_KEY_ID"),
        (S3, 404, "s3://models/tiny/moe: there is no such bucket or object"),
        (HUB, 410, "answers 410"),
    ],
)
def test_a_refusal_is_one_line_and_exit_status_1(
    tmp_path: Path,
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    status: int,
    sentence: str,
) -> None:
    place.statuses["list"] = [status]
    (tmp_path / "plan.json").write_text(plan_of(source).model_dump_json())
    for name, value in environment(place).items():
        monkeypatch.setenv(name, value)
    assert main(["fetch", "--plan", str(tmp_path / "plan.json"), "--slot", "0", "--into", str(tmp_path / "m")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_a_host_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"http://127.0.0.1:9/api/\S+ cannot be reached: .*refused"):
        fetch(plan_of(HUB), tmp_path, {"HF_ENDPOINT": "http://127.0.0.1:9"})


def test_a_checkpoint_without_safetensors_is_told(tmp_path: Path, place: Place) -> None:
    place.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(FetchError, match=r"model\.safetensors is not there; only safetensors"):
        fetch(plan_of(HUB), tmp_path, environment(place))


@pytest.mark.parametrize(
    "index", [b"{", b"[]", b'{"weight_map": {"a": 1}}', b'{"weight_map": {"a": "../../etc/passwd"}}']
)
def test_an_index_that_is_none_or_leads_elsewhere_is_told(tmp_path: Path, place: Place, index: bytes) -> None:
    place.files["model.safetensors.index.json"] = index
    with pytest.raises(FetchError, match="hf://tiny/moe: "):
        fetch(plan_of(HUB), tmp_path, environment(place))


def test_a_directory_with_another_checkpoint_is_left_alone(tmp_path: Path, place: Place) -> None:
    fetch(plan_of(HUB), tmp_path, environment(place))
    with pytest.raises(FetchError, match="holds hf://tiny/moe at main already"):
        fetch(plan_of(S3), tmp_path, environment(place))


def test_two_at_once_fetch_once(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_POLL_S", 0.01)
    with ThreadPoolExecutor() as pool:
        for job in [pool.submit(fetch, plan_of(HUB), tmp_path, environment(place)) for _ in range(3)]:
            job.result()
    assert fetched(tmp_path) == FILES
    assert all(len(place.sent(name)) == 1 for name in FILES)


def test_a_disk_too_small_is_told_before_the_weights_come(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(
        FetchError, match=r"0\.0 GB are to be fetched, and 0\.0 GB are free; give the pod a larger volume"
    ):
        fetch(plan_of(HUB), tmp_path, environment(place))
    assert place.sent(SHARDS[0]) == []


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, "the disk is full; give the pod a larger volume"),
        (errno.EACCES, "no permission to write there"),
        (errno.EROFS, "it must be writable for user"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_trouble_with_the_disk_is_one_sentence(tmp_path: Path, code: int, sentence: str) -> None:
    with pytest.raises(FetchError, match=sentence), telling_why(tmp_path):
        raise OSError(code, "Input/output error")


def test_a_path_that_is_no_directory_is_told(tmp_path: Path, place: Place) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="Not a directory"):
        fetch(plan_of(HUB), tmp_path / "file" / "m", environment(place))


@pytest.mark.parametrize("source", ["random", "file:///models/x", "pvc://claim/x"])
def test_what_needs_no_fetching_is_not_fetched(tmp_path: Path, source: str) -> None:
    fetch(plan_of(source), tmp_path / "m", {})
    assert not (tmp_path / "m").exists()


def test_a_lock_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOCK_DEADLINE_S", 0.0)
    monkeypatch.setattr(store_module, "_POLL_S", 0.001)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with Store(tmp_path, HUB, "main").locked():
            held.set()
            done.wait(60)

    with ThreadPoolExecutor() as pool:
        holding = pool.submit(hold)
        assert held.wait(60)
        with (
            pytest.raises(FetchError, match="another process has fetched into it"),
            Store(tmp_path, HUB, "main").locked(),
        ):
            pass
        done.set()
        holding.result()


SIGNING = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "")
MOMENT = datetime(2013, 5, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("path", "query", "headers", "signature"),
    [
        ("/test.txt", "", {"Range": "bytes=0-9"}, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("/", "max-keys=2&prefix=J", {}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_signatures_are_those_of_amazons_examples(
    path: str, query: str, headers: dict[str, str], signature: str
) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html."""
    where = f"https://examplebucket.s3.amazonaws.com{path}"
    signed = signed_headers(SIGNING, "us-east-1", where, query, headers, MOMENT)
    assert signed["Authorization"].endswith(f"Signature={signature}")
