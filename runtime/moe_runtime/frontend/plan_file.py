"""The plan, as the operator or `moe plan -o json` wrote it."""

from pathlib import Path

from pydantic import ValidationError

from moe_plan.plan import Plan
from moe_runtime.errors import RuntimeFailure


class PlanFileError(RuntimeFailure):
    """The file holds no plan that this runtime can execute."""


def read_plan(path: Path) -> Plan:
    """The plan of a file, for this runtime to execute. Raises PlanFileError; OSError when the file cannot be read."""
    plan = parse_plan(path)
    if plan.engine != "moe":
        raise PlanFileError(f"{path} is a plan for the engine {plan.engine}, which this runtime is not")
    return plan


def parse_plan(path: Path) -> Plan:
    """The plan of a file, for whatever engine. Raises likewise."""
    try:
        return Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise PlanFileError(f"{path} is not a plan: {where + ': ' if where else ''}{first['msg']}") from error
