"""What /metrics tells of each deployment: the plan's prediction, what was measured, replicas and conditions.

All of it is read from their statuses, so that dashboards show what `kubectl get` shows.
"""

from collections.abc import Iterable, Iterator, Mapping

from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import name, namespace
from moe_operator.reconcile.summary import parse_seconds

_HELP = {
    "moe_deployment_replicas": "Replicas that the manifest asks for.",
    "moe_deployment_ready_replicas": "Replicas whose endpoint answers.",
    "moe_deployment_gpus": "GPUs of one replica.",
    "moe_deployment_condition": "1 where the condition of this type is True.",
    "moe_deployment_predicted_tokens_per_second": "Output tokens a second of the whole deployment, as planned.",
    "moe_deployment_predicted_ttft_seconds": "Time to first token, as planned.",
    "moe_deployment_predicted_tpot_seconds": "Time per output token, as planned.",
    "moe_deployment_measured_tokens_per_second": "Output tokens a second of the whole deployment, as last measured.",
    "moe_deployment_measured_ttft_seconds": "Median time to first token, as last measured.",
    "moe_deployment_measured_tpot_seconds": "Median time per output token, as last measured.",
}

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value."""


def figures(deployments: Iterable[Object]) -> str:
    """Figures of all deployments in the Prometheus text format, each name's together."""
    lines: dict[str, list[str]] = {metric: [] for metric in _HELP}
    for deployment in deployments:
        for metric, labels, value in _samples(deployment):
            lines[metric].append(f"{metric}{{{_labels(labels)}}} {value:.9g}\n")
    return "".join(
        f"# HELP {metric} {_HELP[metric]}\n# TYPE {metric} gauge\n{''.join(found)}" for metric, found in lines.items()
    )


def _samples(deployment: Object) -> Iterator[Sample]:
    labels = {"namespace": namespace(deployment), "deployment": name(deployment)}
    status = deployment.get("status") or {}
    yield "moe_deployment_replicas", labels, float((deployment.get("spec") or {}).get("replicas", 1))
    yield "moe_deployment_ready_replicas", labels, float(status.get("readyReplicas", 0))
    for condition in status.get("conditions") or ():
        holds = condition["status"] == "True"
        yield "moe_deployment_condition", {**labels, "type": condition["type"]}, float(holds)
    if status.get("plan"):
        yield "moe_deployment_gpus", labels, float(status["plan"]["gpus"])
    for part, told in (("predicted", status.get("plan")), ("measured", status.get("measured"))):
        if told:
            yield f"moe_deployment_{part}_tokens_per_second", labels, float(told["tokensPerSecond"])
            yield f"moe_deployment_{part}_ttft_seconds", labels, parse_seconds(told["ttft"])
            yield f"moe_deployment_{part}_tpot_seconds", labels, parse_seconds(told["tpot"])


def _labels(labels: Mapping[str, str]) -> str:
    """Names of Kubernetes objects and condition types need no escaping."""
    return ",".join(f'{key}="{value}"' for key, value in labels.items())
