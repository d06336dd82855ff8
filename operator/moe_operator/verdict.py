"""What a person reads of a manifest that is not acceptable: the same text from the webhook and in the status."""

from moe_plan.errors import ManifestError


def verdict(error: ManifestError) -> str:
    """Every violation on a line, then the nearest layouts that work, if there are any."""
    lines = [str(violation) for violation in error.violations]
    if error.nearest:
        lines += ["nearest layouts that work:", *(f"  {layout}" for layout in error.nearest)]
    return "\n".join(lines)


def reason(error: ManifestError) -> str:
    """One word for machines: the code of the first violation, such as HeadsNotDivisible."""
    return error.violations[0].code
