from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from moe_operator.figures import figures


def deployment(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "m", "namespace": "team"}, "spec": {"replicas": 3}, "status": status}


def samples(*deployments: dict[str, Any]) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(figures(deployments))
    found = (sample for family in families for sample in family.samples)
    return {(sample.name, sample.labels.get("type", "")): sample.value for sample in found}


def test_the_prediction_stands_beside_the_measurement() -> None:
    told = samples(
        deployment(
            plan={"gpus": 128, "ttft": "178 ms", "tpot": "900 µs", "tokensPerSecond": 11695},
            measured={"ttft": "1.2 s", "tpot": "25 ms", "tokensPerSecond": 9000},
        )
    )
    assert told["moe_deployment_gpus", ""] == 128
    assert told["moe_deployment_predicted_tokens_per_second", ""] == 11695
    assert told["moe_deployment_predicted_ttft_seconds", ""] == pytest.approx(0.178)
    assert told["moe_deployment_predicted_tpot_seconds", ""] == pytest.approx(0.0009)
    assert told["moe_deployment_measured_tokens_per_second", ""] == 9000
    assert told["moe_deployment_measured_ttft_seconds", ""] == pytest.approx(1.2)
    assert told["moe_deployment_measured_tpot_seconds", ""] == pytest.approx(0.025)


def test_replicas_and_conditions_are_told() -> None:
    conditions = [{"type": "Ready", "status": "False"}, {"type": "Stalled", "status": "True"}]
    told = samples(deployment(readyReplicas=2, conditions=conditions))
    assert told["moe_deployment_replicas", ""] == 3
    assert told["moe_deployment_ready_replicas", ""] == 2
    assert told["moe_deployment_condition", "Ready"] == 0
    assert told["moe_deployment_condition", "Stalled"] == 1


def test_a_deployment_without_status_has_no_figures_but_its_replicas() -> None:
    fresh = {"metadata": {"name": "m", "namespace": "team"}, "spec": {}}
    assert samples(fresh) == {("moe_deployment_replicas", ""): 1, ("moe_deployment_ready_replicas", ""): 0}


def test_figures_of_one_name_stand_together() -> None:
    text = figures([deployment(), deployment()])
    assert text.count("# TYPE moe_deployment_replicas gauge") == 1
    assert len(list(text_string_to_metric_families(text))) == text.count("# TYPE")
