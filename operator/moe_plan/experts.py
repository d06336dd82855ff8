"""Physical experts: copies of logical experts, dealt over ep in contiguous blocks.

Without load data physical expert p is a copy of logical expert p % logical. A block of per_rank <= logical
neighbours then never holds one expert twice, and the lower-numbered experts have the extra copies.
"""

from moe_plan.plan import ExpertMap


def deal(logical: int, redundant: int, ep: int) -> ExpertMap:
    """The map that deals copies evenly, from expert 0 on. The counts must have passed the rules."""
    physical = logical + redundant
    assert physical % ep == 0
    assert redundant <= logical * (ep - 1)
    return ExpertMap(logical=logical, redundant=redundant, per_rank=physical // ep)


def physical_to_logical(experts: ExpertMap, layer: int) -> tuple[int, ...]:
    """Logical expert of each physical expert of a layer, `[logical + redundant]`."""
    exception = experts.exceptions.get(layer)
    if exception is not None:
        return exception
    return tuple(p % experts.logical for p in range(experts.logical + experts.redundant))


def copies_of(experts: ExpertMap, layer: int) -> tuple[tuple[int, ...], ...]:
    """Physical experts that are copies of each logical expert, ascending, `[logical][copies]`."""
    copies: list[list[int]] = [[] for _ in range(experts.logical)]
    for physical, logical in enumerate(physical_to_logical(experts, layer)):
        copies[logical].append(physical)
    return tuple(tuple(of_one) for of_one in copies)


def owner(experts: ExpertMap, physical: int) -> int:
    """ep coordinate that holds a physical expert."""
    return physical // experts.per_rank
