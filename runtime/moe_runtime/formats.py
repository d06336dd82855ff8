"""Number formats that the runtime computes and caches in, by the names that plans have for them."""

from typing import NamedTuple

import torch

from moe_plan.plan import Plan
from moe_runtime.errors import UnsupportedModel

COMPUTE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KV_CACHE = {**COMPUTE, "float8": torch.float8_e4m3fn}


class Formats(NamedTuple):
    """A plan's formats."""

    compute: torch.dtype
    kv_cache: torch.dtype


def formats_of(plan: Plan) -> Formats:
    """A plan's formats. Raises UnsupportedModel for one that the runtime does not execute, weights' included."""
    model = plan.model
    for field, name, known in (
        ("model.dtype", model.dtype, COMPUTE),
        ("model.compute_dtype", model.compute_dtype, COMPUTE),
        ("model.kv_cache_dtype", model.kv_cache_dtype, KV_CACHE),
    ):
        if name not in known:
            raise UnsupportedModel(f"plan: {field}: {name} is not executed by this runtime ({', '.join(known)} are)")
    return Formats(COMPUTE[model.compute_dtype], KV_CACHE[model.kv_cache_dtype])
