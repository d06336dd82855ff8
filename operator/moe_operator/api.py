"""The only module that speaks to the API server: reads, server-side applies and deletes, each with a deadline.

It does not repeat calls: whoever asked does, from what is known then. Only a refused token is read anew once.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import aiohttp

from moe_operator.access import Access
from moe_operator.reconcile.model import Event, Object
from moe_operator.reconcile.objects import MANAGER, name, namespace
from moe_operator.resources import Resource, resource, resource_of

CALL_DEADLINE_S = 10.0
LIST_DEADLINE_S = 60.0
PAGE = 500
CONNECTIONS = 16
KEEP_ALIVE_S = 60.0
AGAIN_AFTER_401_S = 0.5
AGAIN_AFTER_403_S = 5.0
WATCH_PACE_S = 0.5
log = logging.getLogger(__name__)

_APPLY = {"Content-Type": "application/apply-patch+yaml"}
_OWN = {"fieldManager": MANAGER, "force": "true"}
_SHOWN = 512


class ApiError(Exception):
    """The API server did not do what it was asked; `status` is the HTTP status, 0 when no answer came."""

    def __init__(self, status: int, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class NotFoundError(ApiError):
    """404: there is no such object."""


class ConflictError(ApiError):
    """409: the object is not the one that was meant, or exists already."""


class RefusedError(ApiError):
    """400, 403, 405, 413, 415, 422: the same call will be refused again."""


class UnavailableError(ApiError):
    """429, 5xx, 401, or no answer in time: the same call may succeed later."""


class Api:
    """Calls as one identity."""

    def __init__(self, access: Access, connections: int = CONNECTIONS) -> None:
        self._access = access
        self.answered_at = time.monotonic()
        """When the API server last answered, whatever it said."""
        self._session = session(access, connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> Object | None:
        """One object; None where there is none."""
        row = resource(kind, api_version.rpartition("/")[0])
        try:
            return await self._call("GET", row.path(namespace, name))
        except NotFoundError:
            return None

    async def read(self, obj: Object) -> Object | None:
        """What is there under the kind and name of an object; None where there is nothing."""
        return await self.get(obj["apiVersion"], obj["kind"], namespace(obj), name(obj))

    async def list(self, row: Resource, namespace: str | None = None) -> tuple[list[Object], int]:
        """All objects that are watched of a resource, or those in a namespace, and the version that they are of."""
        items: list[Object] = []
        parameters = {"limit": str(PAGE), **({"labelSelector": row.selector} if row.selector else {})}
        async with asyncio.timeout(LIST_DEADLINE_S):
            while True:
                page = await self._call("GET", row.path(namespace), parameters=parameters)
                items += ({"apiVersion": row.api_version, "kind": row.kind, **item} for item in page["items"])
                following = page["metadata"].get("continue")
                if not following:
                    return items, int(page["metadata"]["resourceVersion"])
                parameters["continue"] = following

    async def apply(self, obj: Object) -> Object:
        """Make an object as given, whether it exists or not; the object as it is then."""
        path = resource_of(obj).path(namespace(obj), name(obj))
        return await self._call("PATCH", path, body=obj, parameters=_OWN, headers=_APPLY)

    async def apply_status(self, deployment: Object, status: Mapping[str, Any]) -> Object:
        """Set the whole status of a deployment; the deployment as it is then. ConflictError for a successor of it."""
        metadata = {key: deployment["metadata"][key] for key in ("name", "namespace", "uid")}
        body = {"apiVersion": deployment["apiVersion"], "kind": deployment["kind"], "metadata": metadata}
        path = resource_of(body).path(metadata["namespace"], metadata["name"]) + "/status"
        return await self._call("PATCH", path, body={**body, "status": status}, parameters=_OWN, headers=_APPLY)

    async def delete(self, reference: Object) -> Object | None:
        """Delete the object of a uid; the object while it is still terminating, None when it is gone.

        Raises ConflictError when the object of that name is another.
        """
        metadata = reference["metadata"]
        options: dict[str, Any] = {"propagationPolicy": "Background", "preconditions": {"uid": metadata["uid"]}}
        if "gracePeriodSeconds" in reference:
            options["gracePeriodSeconds"] = reference["gracePeriodSeconds"]
        path = resource_of(reference).path(metadata["namespace"], metadata["name"])
        try:
            answer = await self._call("DELETE", path, body=options)
        except NotFoundError:
            return None
        if answer.get("kind") != reference["kind"]:
            return None
        held = answer["metadata"].get("deletionGracePeriodSeconds") or answer["metadata"].get("finalizers")
        return answer if held else None

    async def create(self, obj: Object) -> Object:
        """Create an object. ConflictError when there is one of that name."""
        path = resource_of(obj).path(namespace(obj))
        return await self._call("POST", path, body=obj, parameters={"fieldManager": MANAGER})

    async def update(self, obj: Object) -> Object:
        """Replace the version of an object that was read. ConflictError when it has changed since."""
        path = resource_of(obj).path(namespace(obj), name(obj))
        return await self._call("PUT", path, body=obj, parameters={"fieldManager": MANAGER})

    async def post_event(self, deployment: Object, event: Event, event_name: str, at: str, reporter: str) -> None:
        """Post an event on a deployment; one of that name that exists already is that event."""
        row, where = resource("Event"), namespace(deployment)
        regarding = {key: deployment["metadata"].get(key) for key in ("name", "namespace", "uid", "resourceVersion")}
        regarding |= {"apiVersion": deployment["apiVersion"], "kind": deployment["kind"]}
        body = {
            "apiVersion": row.api_version,
            "kind": row.kind,
            "metadata": {"name": event_name, "namespace": where},
            "eventTime": at,
            "reportingController": f"{MANAGER}.dev/{MANAGER}",
            "reportingInstance": reporter,
            "action": "Reconcile",
            "regarding": regarding,
            "type": event.type,
            "reason": event.reason,
            "note": event.message if len(event.message) <= 1024 else f"{event.message[:1023]}…",
        }
        try:
            await self.create(body)
        except ConflictError:
            return

    async def pod_warnings(self, namespace: str) -> tuple[Object, ...]:
        """Warning events about the pods of a namespace, the first so many."""
        chosen = {"limit": str(PAGE), "fieldSelector": "regarding.kind=Pod,type=Warning"}
        return tuple((await self._call("GET", resource("Event").path(namespace), parameters=chosen))["items"])

    async def groups(self) -> frozenset[str]:
        """API groups that are served, bare and with each of their versions."""
        listed = (await self._call("GET", "/apis"))["groups"]
        versions = {version["groupVersion"] for group in listed for version in group["versions"]}
        return frozenset({group["name"] for group in listed} | versions)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        sent = {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}
        try:
            async with self._session.request(
                method, f"{self._access.server}{path}", data=data, params=parameters, headers=sent
            ) as answer:
                self.answered_at = time.monotonic()
                return await _read(answer, f"{method} {path}")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            why = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise UnavailableError(0, f"{method} {path}: {why}") from error


async def _read(answer: aiohttp.ClientResponse, what: str) -> dict[str, Any]:
    content = await answer.read()
    if answer.status < 300:
        read: dict[str, Any] = json.loads(content)
        return read
    try:
        said = str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        said = content[:_SHOWN].decode(errors="replace")
    message = f"{what}: HTTP {answer.status}: {said}"
    kinds = {404: NotFoundError, 409: ConflictError, 401: UnavailableError, 408: UnavailableError}
    kind = kinds.get(answer.status, UnavailableError if answer.status in (410, 429) or answer.status >= 500 else None)
    raise (kind or RefusedError)(answer.status, message, _seconds(answer.headers.get("Retry-After")))


def _seconds(text: str | None) -> float:
    return min(60.0, float(text)) if text is not None and text.isascii() and text.isdigit() else 0.0


def session(access: Access, connections: int, listed: Callable[[], None] | None = None) -> aiohttp.ClientSession:
    """HTTP as the operator's identity, over at most so many connections (0: any number), for calls and for watches.

    A refused token is read anew and tried once more; watches of one path keep a distance. `listed` is told of lists.
    A watch that one of several namespaces refuses is asked for again and again, since the others must not end with it.
    """
    pace = _Pace()

    async def authorize(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if request.url.query.get("watch") == "true":
            await pace.wait(request.url.path)
        request.headers.update(access.authorization())
        answer = await handler(request)
        while answer.status == 403 and listed is not None and "/namespaces/" in request.url.path:
            log.warning("%s is refused; is the operator's Role in that namespace?", request.url.path)
            answer.release()
            await asyncio.sleep(AGAIN_AFTER_403_S)
            answer = await handler(request)
        if listed is not None and "limit" in request.url.query:
            listed()
        if answer.status != 401:
            return answer
        answer.release()
        access.refuse()
        await asyncio.sleep(AGAIN_AFTER_401_S)
        request.headers.update(access.authorization())
        return await handler(request)

    connector = aiohttp.TCPConnector(ssl=access.tls, limit=connections, keepalive_timeout=KEEP_ALIVE_S)
    return aiohttp.ClientSession(
        connector=connector,
        middlewares=(authorize,),
        timeout=aiohttp.ClientTimeout(total=CALL_DEADLINE_S),
        headers={"User-Agent": MANAGER},
        raise_for_status=False,
    )


class _Pace:
    """Lets one watch of a path begin only some time after the last, however often the server ends them."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    async def wait(self, path: str) -> None:
        now = asyncio.get_running_loop().time()
        begins = max(now, self._next.get(path, now))
        self._next[path] = begins + WATCH_PACE_S
        await asyncio.sleep(begins - now)
