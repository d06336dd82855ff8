"""The layout as pictures: a pod's ranks in a grid, coloured by coordinate, those that rank 0 talks with marked."""

from collections.abc import Iterable
from dataclasses import dataclass

from moe_operator.report.material import Material
from moe_operator.report.scales import hue
from moe_plan.layout import DIMENSIONS, Coordinate, Dimension

_ROW_PX, _GAP_PX, _EDGE_PX = 38, 4, 8
_LETTER_PX, _NARROWEST_PX = 6.2, 44
_MARKS = {"tp": "T", "ep": "E", "pp": "P"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One rank."""

    rank: int
    x: float
    y: float
    label: str
    """Its coordinate, without the dimensions of degree 1."""
    mark: str
    """T, E or P where it is in the group of that dimension with rank 0; 0 for rank 0 itself."""
    hues: tuple[tuple[Dimension, int], ...]
    text: str


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod, which is one node's share of a replica."""

    slot: int
    width: float
    height: float
    cell: float
    """Width of a cell."""
    title: str
    description: str
    cells: tuple[Cell, ...]
    row: tuple[str, ...]
    """The same for the table: pod, ranks, stages, ep, tp, experts."""


def pods(material: Material) -> tuple[Pod, ...]:
    """Every pod of a replica."""
    world = material.layout.world
    longest = max(len(str(world - 1)), *(len(_label(material, rank)) for rank in range(world)))
    cell = max(_NARROWEST_PX, longest * _LETTER_PX + 8)
    return tuple(_pod(material, slot, cell) for slot in range(material.plan.slots))


def shown_dimensions(material: Material) -> tuple[Dimension, ...]:
    """The dimensions with more than one coordinate, outermost first; ep where there is none."""
    order = material.layout.rank_order
    return tuple(dimension for dimension in order if material.layout.degree(dimension) > 1) or ("ep",)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers for people: '0–3, 8–11'; the first six runs of them."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}–{last}" for first, last in runs[:6]]
    return ", ".join(shown) + (", …" if len(runs) > 6 else "")


def _pod(material: Material, slot: int, cell: float) -> Pod:
    each = material.plan.ranks_per_slot
    ranks = range(slot * each, (slot + 1) * each)
    columns = 4 if each <= 16 else 8
    used, rows = min(columns, each), -(-each // columns)
    cells = tuple(
        _cell(material, rank, (i % columns) * (cell + _GAP_PX), (i // columns) * (_ROW_PX + _GAP_PX))
        for i, rank in enumerate(ranks)
    )
    row = _row(material, slot, ranks)
    return Pod(
        slot,
        used * (cell + _GAP_PX) - _GAP_PX + 2 * _EDGE_PX,
        rows * (_ROW_PX + _GAP_PX) - _GAP_PX + 2 * _EDGE_PX,
        cell,
        f"Pod {slot}: ranks {row[1]}",
        f"stages {row[2]}; ep {row[3]}; tp {row[4]}; experts {row[5]} of {material.told_layers}",
        cells,
        row,
    )


def _row(material: Material, slot: int, ranks: range) -> tuple[str, ...]:
    here = [material.coordinates[rank] for rank in ranks]
    experts = {expert for ep in {point.ep for point in here} for expert in material.held_experts[ep]}
    return (
        str(slot),
        ranges(ranks),
        ranges(point.pp for point in here),
        ranges(point.ep for point in here),
        ranges(point.tp for point in here),
        ranges(experts),
    )


def _cell(material: Material, rank: int, x: float, y: float) -> Cell:
    here = material.coordinates[rank]
    experts = ranges(material.held_experts[here.ep])
    return Cell(
        rank,
        _EDGE_PX + x,
        _EDGE_PX + y,
        _label(material, rank),
        _mark(here, material.coordinates[0]),
        tuple((dimension, hue(getattr(here, dimension))) for dimension in DIMENSIONS),
        f"rank {rank}: pp {here.pp}, ep {here.ep}, tp {here.tp}; experts {experts}",
    )


def _label(material: Material, rank: int) -> str:
    here = material.coordinates[rank]
    return " ".join(f"{dimension[0]}{getattr(here, dimension)}" for dimension in shown_dimensions(material))


def _mark(here: Coordinate, first: Coordinate) -> str:
    """The dimension along which alone a rank differs from rank 0."""
    apart = [dimension for dimension in DIMENSIONS if getattr(here, dimension) != getattr(first, dimension)]
    if not apart:
        return "0"
    return _MARKS[apart[0]] if len(apart) == 1 else ""
