from typing import Any

import pytest

from moe_plan import spec
from moe_plan.catalogue.hardware import hardware_names, hardware_sources, resolve_hardware
from moe_plan.errors import ManifestError
from moe_plan.hardware import Hardware
from moe_plan.units import parse_quantity

NAMES = (
    "a100-sxm-40gb",
    "a100-sxm-80gb",
    "b200-sxm",
    "b300-sxm",
    "cpu",
    "gb200-nvl72",
    "gb300-nvl72",
    "h100-sxm",
    "h20-sxm",
    "h200-sxm",
    "l40s",
    "mi300x",
    "mi325x",
    "mi355x",
    "seed-64gb",
)


def of(name: str, **fields: Any) -> Hardware:
    return resolve_hardware(spec.Hardware(accelerator=name, **fields))


def described(**figures: Any) -> Hardware:
    whole = {"memory": "64Gi", "flops": {"bfloat16": "400e12"}, "memoryBandwidth": "1.8e12", "links": [CLUSTER, NODE]}
    return resolve_hardware(spec.Hardware.model_validate({"spec": whole | figures}))


NODE = {"scope": "node", "bandwidth": "450e9", "latency": "3us"}
CLUSTER = {"scope": "cluster", "bandwidth": "50e9", "latency": "5us"}
DOMAIN = {"scope": "domain", "bandwidth": "450e9", "latency": "3us", "gpus": 32}


def test_the_catalogue_names_the_accelerators_of_the_documentation() -> None:
    assert hardware_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_source(name: str) -> None:
    figures = {"memory_bytes", "memory_bandwidth", "flops", "links", "gpus_per_node"}
    sources = hardware_sources(name)
    assert set(sources) == figures
    assert all(len(source) > 20 for source in sources.values())


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_in_base_units_and_tiers_widen(name: str) -> None:
    hardware = of(name)
    rates = [rate for _, rate in hardware.flops]
    assert rates == sorted(rates)
    assert 1e9 <= hardware.memory_bytes < 1e12
    assert 1e9 < hardware.memory_bandwidth_bytes_per_s < 1e13
    widths = [tier.gpus for tier in hardware.links]
    assert widths == sorted(widths)
    assert widths[0] == hardware.gpus_per_node
    assert widths[-1] > 10**6
    for narrow, wide in zip(hardware.links, hardware.links[1:], strict=False):
        assert narrow.bandwidth_bytes_per_s >= wide.bandwidth_bytes_per_s
        assert narrow.latency_s <= wide.latency_s
    assert all(1e-6 <= tier.latency_s < 1e-3 for tier in hardware.links)


def test_memory_is_as_sold_less_the_reserve() -> None:
    assert of("h200-sxm").memory_bytes == 141e9
    assert of("h200-sxm", memoryReserve="20%").usable_bytes == pytest.approx(112.8e9)


def test_a_node_has_as_many_gpus_as_the_manifest_says() -> None:
    assert of("seed-64gb").gpus_per_node == 8
    hardware = of("seed-64gb", gpusPerNode=16)
    assert (hardware.gpus_per_node, hardware.links[0].gpus) == (16, 16)


def test_nvl72_has_four_gpus_a_node_and_72_a_domain() -> None:
    assert [(tier.scope, tier.gpus) for tier in of("gb200-nvl72").links[:2]] == [("node", 4), ("domain", 72)]


@pytest.mark.parametrize(
    ("name", "number_format", "rate"),
    [
        ("h100-sxm", "float8", 1978.9e12),
        ("h100-sxm", "mxfp4", 989.4e12),
        ("b200-sxm", "mxfp4", 9000e12),
        ("a100-sxm-80gb", "float8", 312e12),
        ("a100-sxm-80gb", "int4", 312e12),
        ("cpu", "float32", 50e9),
    ],
)
def test_a_format_that_the_gpu_lacks_computes_at_the_bfloat16_rate(name: str, number_format: str, rate: float) -> None:
    assert of(name).flops_per_s(number_format) == rate


def test_an_accelerator_of_one_format_computes_all_formats_at_that_rate() -> None:
    assert described(flops={"float8": "400e12"}).flops_per_s("bfloat16") == 400e12


def test_an_accelerator_described_by_its_figures_is_read_with_its_tiers_in_order() -> None:
    hardware = described(links=[CLUSTER, DOMAIN, NODE])
    assert hardware.memory_bytes == parse_quantity("64Gi") == 68719476736
    assert [(tier.scope, tier.gpus) for tier in hardware.links[:2]] == [("node", 8), ("domain", 32)]
    assert hardware.links[0].latency_s == pytest.approx(3e-6)
    assert hardware.links[2].bandwidth_bytes_per_s == 50e9


@pytest.mark.parametrize(
    ("typed", "meant"), [("h200", "h200-sxm"), ("H200-SXM", "h200-sxm"), ("gb200", "gb200-nvl72"), ("mi300", "mi300x")]
)
def test_an_unknown_name_is_answered_with_the_nearest_one(typed: str, meant: str) -> None:
    with pytest.raises(ManifestError, match=f"the nearest is {meant}") as caught:
        of(typed)
    (violation,) = caught.value.violations
    assert (violation.field, violation.code) == ("spec.hardware.accelerator", "UnknownAccelerator")


def test_a_name_like_no_other_is_answered_with_all_of_them() -> None:
    with pytest.raises(ManifestError, match=r"known are a100-sxm-40gb, .*, seed-64gb"):
        of("zzzzzz")
