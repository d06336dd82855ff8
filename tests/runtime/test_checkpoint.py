"""A checkpoint is read as it was written, or refused in one sentence that names what is wrong with it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TinyModel, make_tiny
from tiny_plans import tiny_plan

from moe_runtime.checkpoint import CheckpointError, open_weights
from moe_runtime.errors import UnsupportedModel
from moe_runtime.models import parse_config
from moe_runtime.synthetic import SyntheticWeights

ROUTER = "model.layers.1.block_sparse_moe.gate.weight"


@pytest.fixture
def copy(mixtral: TinyModel, tmp_path: Path) -> Path:
    """A copy of the checkpoint for a test to spoil."""
    return Path(shutil.copytree(mixtral.path, tmp_path / "copy"))


@pytest.fixture
def refused(mixtral: TinyModel) -> Callable[[Path], str]:
    """What opening a spoiled checkpoint says."""

    def sentence(path: Path, error: type[Exception] = CheckpointError) -> str:
        with pytest.raises(error) as caught:
            open_weights(tiny_plan(mixtral.config), path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return sentence


def change_tensors(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def change_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def change_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    raw = (path / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    made = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(made).to_bytes(8, "little") + made + raw[8 + length :])


def test_slices_are_those_of_the_stored_tensor(mixtral: TinyModel) -> None:
    weights = open_weights(tiny_plan(mixtral.config), mixtral.path)
    stored = load_file(mixtral.path / "model.safetensors")
    for name, tensor in stored.items():
        assert torch.equal(weights.read(name), tensor)
    name = "model.layers.0.self_attn.o_proj.weight"
    assert torch.equal(weights.read(name, slice(3, 9), slice(8, 16)), stored[name][3:9, 8:16])


def test_a_checkpoint_in_several_files_is_read_whole(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path, "mixtral", shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    weights = open_weights(tiny_plan(tiny.config), tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert torch.equal(weights.read(name), tensor)


def test_a_missing_tensor_is_named(copy: Path, refused: Callable[[Path], str]) -> None:
    change_tensors(copy, lambda tensors: tensors.pop(ROUTER))
    assert refused(copy) == f"{copy}: tensor {ROUTER} [8, 32] is missing"


def test_several_missing_tensors_are_counted(copy: Path, refused: Callable[[Path], str]) -> None:
    change_tensors(copy, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.1." in name])
    assert re.search(r"tensor model\.layers\.1\.\S+ \[.*\] is missing \(and 30 more\)", refused(copy))


def test_an_extra_tensor_is_named(copy: Path, refused: Callable[[Path], str]) -> None:
    change_tensors(copy, lambda tensors: tensors.update({"model.layers.9.x.weight": torch.ones(2)}))
    assert refused(copy).endswith("model.safetensors: tensor model.layers.9.x.weight is not part of the model")


def test_a_misshapen_tensor_is_named_with_both_shapes(copy: Path, refused: Callable[[Path], str]) -> None:
    change_tensors(copy, lambda tensors: tensors.update({ROUTER: torch.ones(4, 32)}))
    assert refused(copy).endswith(f"model.safetensors: tensor {ROUTER} has shape [4, 32], expected [8, 32]")


def test_a_truncated_file_is_told_with_its_sizes(copy: Path, refused: Callable[[Path], str]) -> None:
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    found = re.search(r"truncated: its header describes (\d+) bytes of data, it holds (\d+)$", refused(copy))
    assert found
    assert int(found[1]) - int(found[2]) == 1000


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 8 + b"{}", (9).to_bytes(8, "little") + b'{"a": 1}'])
def test_a_file_too_short_for_its_header_is_refused(copy: Path, refused: Callable[[Path], str], content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    assert "model.safetensors: truncated or not safetensors" in refused(copy)


@pytest.mark.parametrize(
    "header", [b"not json", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_header_that_is_none_is_refused(copy: Path, refused: Callable[[Path], str], header: bytes) -> None:
    (copy / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"data")
    assert "corrupt: its header is not that of a safetensors file" in refused(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_offsets": [0, 8]}, "has 8 bytes, its shape needs 1024"),
        ({"shape": [-8, 32]}, "has shape [-8, 32]"),
        ({"shape": [8, "32"]}, "has shape [8, '32']"),
        ({"shape": [8.0, 32]}, "has shape [8.0, 32]"),
        ({"data_offsets": [1_000_000, 1_001_024]}, "begins at byte"),
        ({"data_offsets": [0, 1024]}, "begins at byte"),
    ],
)
def test_a_header_at_odds_with_itself_is_refused(
    copy: Path, refused: Callable[[Path], str], change: dict[str, Any], said: str
) -> None:
    change_header(copy, lambda header: header[ROUTER].update(change))
    assert "corrupt: tensor " in (sentence := refused(copy))
    assert said in sentence


def test_a_quantised_tensor_is_not_read_as_something_else(copy: Path, refused: Callable[[Path], str]) -> None:
    change_tensors(copy, lambda tensors: tensors.update({ROUTER: tensors[ROUTER].to(torch.float8_e4m3fn)}))
    assert f"tensor {ROUTER} is stored as F8_E4M3; quantised checkpoints are not supported yet" in refused(copy)


def test_a_quantised_checkpoint_is_told_before_its_tensors(copy: Path, refused: Callable[[Path], str]) -> None:
    change_config(copy, quantization_config={"quant_method": "fp8"})
    assert "config.json: fp8 checkpoints are not supported yet" in refused(copy)
    change_config(copy, quantization_config="fp8")
    assert "config.json: quantised checkpoints are not supported yet" in refused(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 4}, "num_hidden_layers is 4, the plan has 3"),
        ({"num_experts_per_tok": 3}, "num_experts_per_tok is 3, the plan has 2"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "rotary embedding is"),
        ({"model_type": "qwen3_moe", "num_experts": 8, "moe_intermediate_size": 48}, "the plan has another family"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    copy: Path, refused: Callable[[Path], str], change: dict[str, Any], said: str
) -> None:
    change_config(copy, **change)
    assert said in refused(copy)


def test_files_that_are_not_there_are_named(copy: Path, refused: Callable[[Path], str]) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert refused(copy).endswith(
        "holds neither model.safetensors nor model.safetensors.index.json; only safetensors are read"
    )
    (copy / "config.json").unlink()
    assert refused(copy).endswith("config.json: there is no such file")
    assert refused(copy / "nowhere").endswith("config.json: there is no such file")


def test_a_file_of_the_index_that_is_not_there_is_named(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    make_tiny(tmp_path, "mixtral", shard_size="30KB")
    lost = max(tmp_path.glob("*.safetensors"))
    lost.unlink()
    assert refused(tmp_path) == f"{lost}: there is no such file, though model.safetensors.index.json names it"


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"weight_map": []}', "weight_map does not map tensors to files"),
        ('{"weight_map": {"a": 1}}', "weight_map does not map tensors to files"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "lies outside of the checkpoint"),
        ('{"weight_map": {"a": ".."}}', "lies outside of the checkpoint"),
        ('{"weight_map": {"a": ""}}', "lies outside of the checkpoint"),
    ],
)
def test_an_index_that_is_none_is_refused(copy: Path, refused: Callable[[Path], str], index: str, said: str) -> None:
    (copy / "model.safetensors.index.json").write_text(index)
    assert said in refused(copy)


def test_a_copy_of_a_shared_head_is_harmless(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path, "mixtral", tie_word_embeddings=True)
    change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    open_weights(tiny_plan(tiny.config), tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_read_in_the_format_they_are_stored_in(copy: Path, mixtral: TinyModel, dtype: torch.dtype) -> None:
    change_tensors(copy, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
    weights = open_weights(tiny_plan(mixtral.config), copy)
    assert torch.equal(weights.read(ROUTER), load_file(copy / "model.safetensors")[ROUTER])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not executed by this runtime (mixtral, qwen3_moe are)"),
        ({"model_type": ["mixtral"]}, "is not executed by this runtime"),
        ({"model_type": None}, "is not executed by this runtime"),
        ({"hidden_act": "gelu"}, "config.json: hidden_act: Input should be 'silu', not 'gelu'"),
        ({"hidden_size": "32"}, "config.json: hidden_size: Input should be a valid integer, not '32'"),
        ({"num_hidden_layers": 0}, "config.json: num_hidden_layers: Input should be greater than 0, not 0"),
        ({"num_experts_per_tok": 9}, "config.json: num_experts_per_tok is 9, but there are 8 experts"),
        ({"num_key_value_heads": 3}, "config.json: 8 attention heads cannot share 3 KV heads evenly"),
        ({"head_dim": 5}, "config.json: rotary positions need heads of an even width, not 5"),
        ({"hidden_size": 36}, "config.json: rotary positions need heads of an even width, not 4.5"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_type 'dynamic' is not executed"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "2"}}, "RoPE's factor must be a number"),
    ],
)
def test_a_model_that_the_runtime_does_not_execute_is_refused(
    mixtral: TinyModel, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        parse_config({**mixtral.config, **config}).spec()
    assert said in str(caught.value)


def test_synthetic_weights_are_the_same_however_they_are_cut(qwen3_moe: TinyModel) -> None:
    weights = SyntheticWeights(parse_config(qwen3_moe.config).spec())
    name = "model.embed_tokens.weight"
    whole = weights.read(name)
    assert torch.equal(weights.read(name, slice(40, 99), slice(3, 17)), whole[40:, 3:17])
    assert torch.equal(weights.read(name, slice(7, 8)), whole[7:8])
    assert not torch.equal(weights.read("lm_head.weight"), whole)
    assert whole.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(whole.mean().item()) < 0.002
    assert torch.equal(weights.read("model.norm.weight"), torch.ones(32))
    correlation = np.corrcoef(whole.numpy())[np.triu_indices(len(whole), 1)]
    assert np.abs(correlation).mean() < 0.2, "rows have nothing to do with each other"
