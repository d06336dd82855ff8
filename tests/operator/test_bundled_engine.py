"""Which models the bundled runtime executes, and how a deployment learns that it does not execute one."""

import pytest
from rendered import in_engine, plan_of

from moe_operator.reconcile.revisions import prove
from moe_plan.catalogue.models import load_model
from moe_plan.errors import ManifestError


def test_a_model_that_the_bundled_runtime_cannot_execute_is_refused_before_pods() -> None:
    with pytest.raises(ManifestError) as refused:
        prove(in_engine("moe", model={"architecture": "gpt-oss-20b"}), None)
    (violation,) = refused.value.violations
    assert (violation.field, violation.code) == ("spec.runtime.engine", "EngineFamily")
    assert str(violation).endswith("executes mixtral and qwen3_moe models, not gpt_oss; set it to sglang or vllm")


def test_a_plan_of_such_a_model_warns_and_still_tells_its_figures() -> None:
    plan = plan_of(in_engine("moe", model={"architecture": "gpt-oss-20b"}))
    assert plan.warnings[0].startswith("runtime.engine: the bundled runtime executes mixtral and qwen3_moe models")
    assert plan.prediction.tpot > 0


def test_weights_in_a_format_that_the_bundled_runtime_does_not_load_are_warned_of() -> None:
    model = {"architecture": "mixtral-8x7b", "dtype": "float8"}
    (warning,) = plan_of(in_engine("moe", model=model)).warnings
    assert warning.startswith("model.dtype: the bundled runtime loads float32, bfloat16, float16 weights, not float8")
    assert plan_of(in_engine("vllm", model=model)).warnings == ()


def test_another_engine_serves_a_model_of_an_unknown_family_with_a_warning() -> None:
    config = dict(load_model("qwen3-30b-a3b").config)
    config["moe_num_experts"] = config.pop("num_experts")
    strange = {"config": config | {"model_type": "brand_new"}, "source": "hf://someone/brand-new"}
    plan = plan_of(in_engine("vllm", model=strange))
    assert plan.model.config["model_type"] == "brand_new"
    assert (
        plan.model.total_params
        == plan_of(in_engine("vllm", model={"architecture": "qwen3-30b-a3b"})).model.total_params
    )
    (warning,) = plan.warnings
    assert warning.startswith("model.config: the family 'brand_new' is not known; planned as if it were qwen3_moe")


def test_a_model_of_an_unknown_family_without_its_usual_fields_is_refused_with_their_names() -> None:
    config = {"model_type": "brand_new", "moe_num_experts": 8, "hidden_size": 64}
    with pytest.raises(ManifestError) as refused:
        plan_of(in_engine("vllm", model={"config": config}))
    (violation,) = refused.value.violations
    assert violation.code == "UnknownFamily"
    assert "vocab_size (or padded_vocab_size)" in violation.message
    assert "hidden_size (or" not in violation.message
