"""What can be wrong with a manifest: data first, one exception for the edge."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason why a manifest is not acceptable."""

    field: str
    """Path of the field, such as spec.parallelism.tp."""
    code: str
    """What a machine reads, such as HeadsNotDivisible. CamelCase, stable."""
    message: str
    """What a person reads: what is wrong, with the numbers."""
    remedy: str = ""
    """What to do; empty when the message says it."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


class PlanError(Exception):
    """Base of what moe_plan raises for a person to act upon."""


class ManifestError(PlanError):
    """The manifest is not acceptable. `violations` has every reason; `nearest` the nearest layouts that are."""

    def __init__(self, violations: tuple[Violation, ...], nearest: tuple[str, ...] = ()) -> None:
        self.violations = violations
        self.nearest = nearest
        super().__init__("\n".join(str(violation) for violation in violations))
