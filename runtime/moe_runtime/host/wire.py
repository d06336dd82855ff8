"""A step as 64-bit words, so that each of 128 ranks reads only its own shard's part of it, and each slot gets its own.

    number, micro-batches, then for each micro-batch: tokens of each shard [ep], chunks of each shard [ep],
    first word of each shard's chunks [ep]; then the chunks, each of
    request, start, tokens, pages, draws, temperature, top_p, top_k, seed, the tokens, the pages.

Micro-batches without any tokens are left out: no rank has anything to do in them.
"""

import struct
from array import array
from collections.abc import Collection, Iterator
from typing import TypeAlias

from moe_runtime.step import Chunk, Sampling, ShardBatch, Step

WORD_BYTES = 8
CHUNK_WORDS = 9
"""Words of a chunk before its tokens and pages."""
HEADER_WORDS = 2
_SEED_MASK = (1 << 63) - 1
_GREEDY = Sampling()
Words: TypeAlias = "array[int] | memoryview[int]"


def header_words(micro_batches: int, shards: int) -> int:
    """Words before the first chunk."""
    return HEADER_WORDS + 3 * micro_batches * shards


def encode_step(step: Step, included: Collection[int]) -> "array[int]":
    """The step as int64 words, with the chunks of the shards that are included; the others' tokens are counted only."""
    batches = [batch for batch in step.micro_batches if any(batch)]
    shards = len(step.micro_batches[0]) if step.micro_batches else 0
    head = array("q", (step.number, len(batches)))
    body = array("q")
    start = header_words(len(batches), shards)
    for batch in batches:
        head.extend(sum(len(chunk.tokens) for chunk in chunks) for chunks in batch)
        head.extend(len(chunks) if shard in included else 0 for shard, chunks in enumerate(batch))
        for shard, chunks in enumerate(batch):
            head.append(start + len(body))
            for chunk in chunks if shard in included else ():
                _append_chunk(body, chunk)
    return head + body


def decode_shard(words: memoryview, shard: int, shards: int) -> list[ShardBatch]:
    """One shard's part of each micro-batch of an encoded step. `words` are int64."""
    batches = []
    at = HEADER_WORDS
    for _ in range(words[1]):
        chunks = _chunks(words, words[at + 2 * shards + shard], words[at + shards + shard])
        batches.append(ShardBatch(tuple(words[at : at + shards]), tuple(chunks)))
        at += 3 * shards
    return batches


def busy_shards(step: Step) -> set[int]:
    """Shards that have tokens in a step: each answers."""
    return {shard for batch in step.micro_batches for shard, chunks in enumerate(batch) if chunks}


def _append_chunk(body: "array[int]", chunk: Chunk) -> None:
    sampling = chunk.sampling or _GREEDY
    body.extend((chunk.request, chunk.start, len(chunk.tokens), len(chunk.pages), chunk.sampling is not None))
    body.extend((_bits(sampling.temperature), _bits(sampling.top_p), sampling.top_k, sampling.seed & _SEED_MASK))
    body.extend(chunk.tokens)
    body.extend(chunk.pages)


def _chunks(words: memoryview, at: int, count: int) -> Iterator[Chunk]:
    for _ in range(count):
        request, start, tokens, pages, draws, temperature, top_p, top_k, seed = words[at : at + CHUNK_WORDS]
        first_page = at + CHUNK_WORDS + tokens
        yield Chunk(
            request=request,
            tokens=tuple(words[at + CHUNK_WORDS : first_page]),
            start=start,
            pages=tuple(words[first_page : first_page + pages]),
            sampling=Sampling(_float(temperature), _float(top_p), top_k, seed) if draws else None,
        )
        at = first_page + pages


def _bits(value: float) -> int:
    return int(struct.unpack("q", struct.pack("d", value))[0])


def _float(bits: int) -> float:
    return float(struct.unpack("d", struct.pack("q", bits))[0])
