"""Layouts of a manifest: enumerated by algebra, worked out to memory and prediction, and compared."""

from moe_plan.search.choice import (
    Choice,
    Domain,
    Draft,
    Forecast,
    choices,
    forecast,
    forecasts,
    free_domain,
    merit,
    room,
    shortfall,
    work_out,
)

__all__ = [
    "Choice",
    "Domain",
    "Draft",
    "Forecast",
    "choices",
    "forecast",
    "forecasts",
    "free_domain",
    "merit",
    "room",
    "shortfall",
    "work_out",
]
