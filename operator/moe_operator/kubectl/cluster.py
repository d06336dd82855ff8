"""The plugin's only module that speaks to the API server: reads, each with a deadline, as the kubeconfig's user.

The operator has its own (`moe_operator.api`). This is a person's program, and takes a person's credentials: whatever
the kubernetes package reads of a kubeconfig, programs that log in to a cloud included.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, list_kube_config_contexts, load_kube_config
from urllib3.exceptions import HTTPError

from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import DEPLOYMENT_LABEL
from moe_operator.resources import resource
from moe_plan.errors import PlanError
from moe_plan.spec import API_VERSION, KIND

CONNECT_DEADLINE_S = 5.0
READ_DEADLINE_S = 15.0
MOST_LISTED = 2048
"""Objects of one answer; a replica has at most 1,024 pods."""


class ClusterError(PlanError):
    """The cluster did not give what it was asked for; the text says why, and what to do."""


class ForbiddenError(ClusterError):
    """The kubeconfig's user may not do this."""


class MissingError(ClusterError):
    """There is no such object."""


class Cluster:
    """A cluster as the user of a kubeconfig sees it, in one namespace."""

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
        """Raises ClusterError where there is no usable kubeconfig."""
        configuration = Configuration()
        try:
            load_kube_config(kubeconfig, context, client_configuration=configuration)  # type: ignore[no-untyped-call]  # as published
            contexts, active = list_kube_config_contexts(kubeconfig)  # type: ignore[no-untyped-call]  # as published
        except (ConfigException, OSError, ValueError, TypeError) as error:
            raise ClusterError(f"no cluster to ask: {_one_line(error)}; set KUBECONFIG or give --kubeconfig") from error
        configuration.retries = False
        chosen = next((one for one in contexts if one["name"] == context), active)
        self.namespace = namespace or str(chosen["context"].get("namespace") or "default")
        self._server = str(configuration.host)
        self._client = ApiClient(configuration)

    def deployment(self, name: str) -> Object:
        """A MoEDeployment. Raises MissingError where there is none of that name, or none of any name."""
        try:
            return self._get(resource(KIND).path(self.namespace, name))
        except MissingError as error:
            known = self.deployment_names()
            there = f"there are {', '.join(known)}" if known else "there is none"
            raise MissingError(f"no MoEDeployment {name} in namespace {self.namespace}; {there}") from error

    def deployment_names(self) -> list[str]:
        """Names of the namespace's MoEDeployments. Raises MissingError where the cluster knows no MoEDeployments."""
        try:
            items = self._list(resource(KIND).path(self.namespace))
        except MissingError as error:
            message = f"the cluster does not serve {API_VERSION}; install the operator's CustomResourceDefinition"
            raise MissingError(message) from error
        return [str(item["metadata"]["name"]) for item in items]

    def pods(self, name: str) -> list[Object]:
        """Pods of a deployment."""
        return self._children("Pod", name)

    def config_maps(self, name: str) -> list[Object]:
        """ConfigMaps of a deployment: its plans, and a record for each replica."""
        return self._children("ConfigMap", name)

    def nodes(self) -> list[Object]:
        """All nodes. Raises ForbiddenError for users that may see their namespace alone."""
        return self._list(resource("Node").path())

    def log(self, pod: str, container: str, **options: str) -> Iterator[str]:
        """Lines of a container's log; with follow='true' until the container ends."""
        path = f"{resource('Pod').path(self.namespace, pod)}/log"
        endless = options.get("follow") == "true"
        answer = self._call(path, {"container": container, **options}, None if endless else READ_DEADLINE_S)
        rest = b""
        try:
            for chunk in answer.response.stream(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except (HTTPError, OSError) as error:
            raise ClusterError(f"the log of pod {pod} broke off: {_one_line(error)}") from error
        if rest:
            yield rest.decode(errors="replace")

    def through_proxy(self, pod: str, port: int, path: str) -> str:
        """GET of a pod's HTTP route, through the API server."""
        where = f"{resource('Pod').path(self.namespace, pod)}:{port}/proxy{path}"
        return _text(self._call(where, {}, READ_DEADLINE_S))

    def _children(self, kind: str, name: str) -> list[Object]:
        return self._list(resource(kind).path(self.namespace), {"labelSelector": f"{DEPLOYMENT_LABEL}={name}"})

    def _list(self, path: str, query: Mapping[str, str] | None = None) -> list[Object]:
        items: list[Object] = []
        following = ""
        while True:
            page = self._get(path, {**(query or {}), "limit": str(MOST_LISTED), "continue": following})
            items += page["items"]
            following = page["metadata"].get("continue") or ""
            if not following:
                return items

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_text(self._call(path, query or {}, READ_DEADLINE_S)))
        return found

    def _call(self, path: str, query: Mapping[str, str], deadline_s: float | None) -> Any:
        """The answer, whose body is not read yet. Raises ClusterError for any that is none."""
        given = [(key, value) for key, value in query.items() if value]
        try:
            request = self._client.param_serialize("GET", path, query_params=given, auth_settings=["BearerToken"])
            answer = self._client.call_api(*request, _request_timeout=(CONNECT_DEADLINE_S, deadline_s))
        except (HTTPError, ApiException, OSError) as error:
            raise ClusterError(f"{self._server} does not answer: {_one_line(error)}") from error
        if answer.status >= 300:
            raise _refusal(answer.status, _text(answer))
        return answer


def _text(answer: Any) -> str:
    try:
        return bytes(answer.read()).decode(errors="replace")
    except (HTTPError, OSError) as error:
        raise ClusterError(f"the answer broke off: {_one_line(error)}") from error


def _refusal(status: int, body: str) -> ClusterError:
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        said = body.strip()[:300] or f"HTTP {status}"
    if status == 404:
        return MissingError(said)
    if status in (401, 403):
        return ForbiddenError(f"not allowed: {said}")
    return ClusterError(f"the API server refuses (HTTP {status}): {said}")


def _one_line(error: Exception) -> str:
    """What went wrong, without the names of objects in memory."""
    text = str(getattr(error, "reason", None) or error).rpartition(">: ")[2] or str(error)
    return " ".join(text.split()) or type(error).__name__
