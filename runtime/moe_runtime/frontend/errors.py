"""Errors as a client sees them: an HTTP status and OpenAI's error body, one sentence that says what to do."""

import json
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from moe_runtime.errors import RuntimeFailure


class ApiError(RuntimeFailure):
    """A request that cannot be answered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Json(Response):
    """JSON in plain ASCII, so that no string of a client can spoil the encoding."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode("ascii")


def error_response(error: ApiError) -> Json:
    """The response that tells a client of an error."""
    return Json(error.body, status_code=error.status, headers=error.headers)


def bad_parameter(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A 400 that names the parameter."""
    return ApiError(400, f"{param}: {message}" if param else message, param=param, code=code)


def unavailable(message: str) -> ApiError:
    """A 503: nothing is wrong with the request."""
    return ApiError(503, message, kind="server_error", code="unavailable", headers={"Retry-After": "2"})


def from_validation(error: ValidationError) -> ApiError:
    """A 400 for a body that does not suit its schema: the first fault, by the parameter's name."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return bad_parameter(".".join(where), "there is no such parameter", "unknown_parameter")
    if first["type"] == "missing":
        return bad_parameter(".".join(where), "is required", "missing_required_parameter")
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return bad_parameter(".".join(where) or None, message[0].lower() + message[1:])
