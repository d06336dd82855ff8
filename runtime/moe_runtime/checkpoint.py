"""Weights of a model, read slice by slice: from Hugging Face safetensors, or generated where there is no checkpoint.

`open_weights` runs once, before ranks are forked: it parses and checks every header, so that a rank reads its bytes
from the inherited mapping at once. File format: https://huggingface.co/docs/safetensors (8 bytes of header length,
a JSON header, then the data without holes). Nothing is ever unpickled.
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from moe_plan.plan import Plan
from moe_runtime.errors import CheckpointError
from moe_runtime.formats import formats_of
from moe_runtime.models import parse_config
from moe_runtime.models.config import DecoderConfig
from moe_runtime.models.spec import ModelSpec
from moe_runtime.synthetic import SyntheticWeights

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound."""
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Shape = tuple[int, ...]


class Weights(Protocol):
    """Where the weights of one model come from."""

    @property
    def spec(self) -> ModelSpec:
        """The model; made once, and inherited by every rank."""

    def read(self, name: str, *slices: slice) -> Tensor:
        """A slice of a tensor that the model's spec names, on the CPU, in its stored dtype; not to be written to."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies."""

    file: Path
    shape: Shape
    dtype: torch.dtype
    data: mmap.mmap
    offset: int
    """Of its first byte in `data`."""

    def tensor(self) -> Tensor:
        """The tensor, as a view on the mapped file."""
        count = math.prod(self.shape)
        return torch.frombuffer(self.data, dtype=self.dtype, count=count, offset=self.offset).view(self.shape)


class Checkpoint:
    """A Hugging Face checkpoint whose names and shapes are known to be those of its spec."""

    def __init__(self, spec: ModelSpec, tensors: dict[str, StoredTensor]) -> None:
        self.spec = spec
        self._tensors = tensors

    def read(self, name: str, *slices: slice) -> Tensor:
        """A slice of a tensor, as a view on the mapped file."""
        tensor = self._tensors[name].tensor()
        return tensor[slices] if slices else tensor


def open_weights(plan: Plan, checkpoint: Path | None) -> Weights:
    """The weights of a plan's model; synthetic ones, the same for each layout, without a checkpoint.

    Raises UnsupportedModel for a model or number format that the runtime does not execute, and CheckpointError for a checkpoint that
    is incomplete, corrupt, or another model's.
    """
    formats_of(plan)
    config = parse_config(plan.model.config)
    if checkpoint is None:
        return SyntheticWeights(config.spec())
    return open_checkpoint(checkpoint, config)


def open_checkpoint(directory: Path, config: DecoderConfig) -> Checkpoint:
    """A checked checkpoint of the model that `config` describes. Raises CheckpointError."""
    _check_config(directory, config)
    spec = config.spec()
    tensors: dict[str, StoredTensor] = {}
    for file in _files(directory):
        for name, tensor in _read_header(file).items():
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name} is also in {tensors[name].file.name}")
            tensors[name] = tensor
    _check_tensors(directory, spec, tensors)
    return Checkpoint(spec, tensors)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{file}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{file}: holds no JSON object")
    return parsed


def _check_config(directory: Path, planned: DecoderConfig) -> None:
    """The checkpoint's config.json must ask for the numbers that the plan's asks for."""
    file = directory / CONFIG
    stored = _read_json(file)
    quantisation = stored.get("quantization_config")
    if quantisation is not None:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
        kind = method or "quantised"
        raise CheckpointError(f"{file}: {kind} checkpoints are not supported yet; give one in bfloat16 or float32")
    found = parse_config(stored)
    if type(found) is not type(planned):
        raise CheckpointError(f"{file}: model_type is {stored['model_type']}, the plan has another family")
    for field in type(planned).model_fields:
        ours, theirs = getattr(planned, field), getattr(found, field)
        if ours != theirs and not field.startswith("rope_") and field != "max_position_embeddings":
            raise CheckpointError(f"{file}: {field} is {theirs}, the plan has {ours}")
    if found.angles() != planned.angles():
        raise CheckpointError(f"{file}: rotary embedding is {found.angles()}, the plan has {planned.angles()}")


def _files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, each once."""
    if (directory / INDEX).exists():
        names = _read_json(directory / INDEX).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise CheckpointError(f"{directory / INDEX}: weight_map does not map tensors to files")
        files = [directory / name for name in sorted(set(names.values()))]
        outside = next((file for file in files if file.parent != directory or file.name in {"", ".."}), None)
        if outside is not None:
            raise CheckpointError(f"{directory / INDEX}: {outside} lies outside of the checkpoint")
        return files
    if not (directory / SINGLE).exists():
        raise CheckpointError(f"{directory}: holds neither {SINGLE} nor {INDEX}; only safetensors are read")
    return [directory / SINGLE]


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, by name. Raises CheckpointError unless the header and the file's size agree."""
    try:
        with file.open("rb") as opened:
            size = file.stat().st_size
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(f"{file}: truncated or not safetensors: {size} bytes, a header of {length}")
            header = opened.read(length)
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: there is no such file, though {INDEX} names it") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    entries = _parse_entries(file, header)
    _check_extent(file, entries, size - 8 - length)
    return {
        name: StoredTensor(file, shape, DTYPES[dtype], data, 8 + length + begin)
        for name, (dtype, shape, begin, _) in entries.items()
    }


Entry = tuple[str, Shape, int, int]
"""dtype, shape, first byte and end of a tensor."""


def _parse_entries(file: Path, header: bytes) -> dict[str, Entry]:
    try:
        parsed = json.loads(header)
        parsed.pop("__metadata__", None)
        return {name: _parse_entry(file, name, entry) for name, entry in parsed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{file}: corrupt: its header is not that of a safetensors file") from None


def _parse_entry(file: Path, name: str, entry: dict[str, Any]) -> Entry:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise CheckpointError(f"{file}: corrupt: tensor {name} has shape {list(shape)} and bytes {begin} to {end}")
    if dtype not in DTYPES:
        stored = f"{file}: tensor {name} is stored as {dtype}"
        raise CheckpointError(f"{stored}; quantised checkpoints are not supported yet, only {', '.join(DTYPES)}")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != expected:
        raise CheckpointError(f"{file}: corrupt: tensor {name} has {end - begin} bytes, its shape needs {expected}")
    return dtype, shape, begin, end


def _check_extent(file: Path, entries: dict[str, Entry], data_bytes: int) -> None:
    """Tensors must follow each other without holes, up to the end of the file."""
    reached = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != reached:
            raise CheckpointError(f"{file}: corrupt: tensor {name} begins at byte {begin}, not at {reached}")
        reached = end
    if reached != data_bytes:
        kind = "truncated" if reached > data_bytes else "corrupt"
        raise CheckpointError(f"{file}: {kind}: its header describes {reached} bytes of data, it holds {data_bytes}")


def _check_tensors(directory: Path, spec: ModelSpec, tensors: dict[str, StoredTensor]) -> None:
    """Exactly the spec's tensors must be there, each in the spec's shape."""
    expected = spec.tensors()
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            found = list(tensors[name].shape)
            raise CheckpointError(f"{tensors[name].file}: tensor {name} has shape {found}, expected {list(shape)}")
    missing = [name for name in expected if name not in tensors]
    if missing:
        name = missing[0]
        raise CheckpointError(f"{directory}: tensor {name} {list(expected[name])} is missing{_and_more(missing)}")
    extra = [name for name in tensors if name not in expected and not spec.may_hold(name)]
    if extra:
        raise CheckpointError(f"{tensors[extra[0]].file}: tensor {extra[0]} is not part of the model{_and_more(extra)}")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
