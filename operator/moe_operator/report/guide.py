"""implementation_guide.md: how to deploy exactly this plan, and every figure that a reader needs beside it."""

from moe_operator.report.drawing import ranges
from moe_operator.report.material import Material
from moe_operator.report.page import MEMORY_NAMES, TIME_MEANINGS
from moe_operator.report.rendering import markdown


def guide(material: Material) -> str:
    """The text of implementation_guide.md."""
    fullest = max(material.plan.memory, key=lambda stage: stage.total)
    parts = [(name, getattr(fullest, part)) for part, name in MEMORY_NAMES.items() if getattr(fullest, part)]
    context = {
        "m": material,
        "plan": material.plan,
        "spec": material.subject.spec,
        "shape": material.subject.shape,
        "fullest": fullest,
        "parts": parts,
        "times": tuple(TIME_MEANINGS),
        "alternatives": material.alternatives,
        "ranges": ranges,
    }
    return markdown("implementation_guide.md.j2", context)
