"""What of a manifest its engine cannot do beside the layout: told before any child is written."""

from collections.abc import Iterator

from moe_operator.engines.engine import Engine, Images, default_image, engine
from moe_plan.bundled import ENGINE as BUNDLED
from moe_plan.bundled import unexecuted_family
from moe_plan.errors import Violation
from moe_plan.plan import Plan
from moe_plan.spec import Spec

_COMPUTED = ("auto", "float32", "bfloat16", "float16")


def violations(plan: Plan, spec: Spec, images: Images = ()) -> Iterator[Violation]:
    """Image, format, weights, key and arguments that the engine of the plan does not take."""
    described = engine(plan.engine)
    yield from _image(described, plan, spec, images)
    yield from _arguments(described, spec)
    if plan.engine == BUNDLED:
        yield from _family(plan)
    else:
        yield from _format(described, plan, spec)
        yield from _cache(described, plan)
        yield from _source(described, plan)
    if spec.serving.api_key_secret_ref is not None and described.api_key is None:
        message = f"{described.title} checks no API key"
        yield Violation(
            "spec.serving.apiKeySecretRef", "EngineWithoutApiKey", message, "remove it, or check keys before it"
        )


def _image(described: Engine, plan: Plan, spec: Spec, images: Images) -> Iterator[Violation]:
    if spec.runtime.image is None and default_image(plan.engine, plan.hardware.device, images) is None:
        message = f"no image of {described.title} for {plan.hardware.device} is known"
        yield Violation("spec.runtime.image", "EngineImageNeeded", message, "name one")


def _arguments(described: Engine, spec: Spec) -> Iterator[Violation]:
    for argument in spec.runtime.args:
        flag = argument.partition("=")[0]
        if flag in described.fixed:
            message = f"{flag} follows from the plan"
            yield Violation("spec.runtime.args", "OwnedByOperator", message, "remove it")


def _family(plan: Plan) -> Iterator[Violation]:
    if message := unexecuted_family(plan.model.config):
        yield Violation("spec.runtime.engine", "EngineFamily", message, "set it to sglang or vllm")


def _format(described: Engine, plan: Plan, spec: Spec) -> Iterator[Violation]:
    dtype = spec.model.dtype
    if dtype in _COMPUTED or dtype in described.quantization or dtype == plan.model.dtype == _published(plan):
        return
    message = f"{described.title} is not told to turn the weights into {dtype}"
    yield Violation(
        "spec.model.dtype", "EngineFormat", message, "set dtype to auto and source to a checkpoint in that format"
    )


def _cache(described: Engine, plan: Plan) -> Iterator[Violation]:
    """Engines keep the KV cache in the compute dtype, or in 8 bits."""
    dtype = plan.model.kv_cache_dtype
    if dtype not in ("float8", plan.model.compute_dtype):
        message = f"{described.title} keeps its KV cache in {plan.model.compute_dtype} or float8, not in {dtype}"
        yield Violation("spec.model.kvCacheDtype", "EngineFormat", message, "set it to auto or float8")


def _published(plan: Plan) -> str | None:
    return plan.model.dtype if "quantization_config" in plan.model.config else None


def _source(described: Engine, plan: Plan) -> Iterator[Violation]:
    if plan.model.source == "random" and described.random_weights == "no":
        message = f"{described.title} needs a checkpoint, but the weights are random"
        yield Violation(
            "spec.model.source", "EngineNeedsCheckpoint", message, "name one: hf://, s3://, pvc:// or file://"
        )
