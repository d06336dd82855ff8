"""Prefill and decode pools: formulas that hold for any figures, and a search that finds what looking at every pair finds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import SMALL_MODEL, manifest

from moe_plan.cost.constants import constants
from moe_plan.cost.pools import (
    Decode,
    Demand,
    Prefill,
    admission_s,
    decode_pool,
    decode_s,
    first_token,
    moved_bytes,
    network,
    prefill_pool,
    prefill_s,
    requests_per_s,
)
from moe_plan.cost.predict import make_case, make_setting, stage_classes
from moe_plan.errors import ManifestError
from moe_plan.hardware import LinkTier
from moe_plan.kv import ELEMENT_BYTES
from moe_plan.layout import DIMENSIONS, Layout
from moe_plan.loads import LOADS_VERSION, read_loads
from moe_plan.memory import kv_cache
from moe_plan.pools.compare import compare_pools
from moe_plan.pools.given import GivenPool
from moe_plan.pools.result import PoolPair, PoolsResult
from moe_plan.pools.single import Singles
from moe_plan.pools.workers import at_each_batch, decode_workers, holding_prompts, ladder, pool_rows
from moe_plan.rules import expert_rules, stage_rules, tensor_rules, world_rules
from moe_plan.search.choice import Choice, Draft, fits, work_out
from moe_plan.search.compare import compare
from moe_plan.search.copies import near_balance
from moe_plan.search.layouts import Layouts, requests_at_any_load
from moe_plan.search.space import space
from moe_plan.search.sweep import at_workload
from moe_plan.search.swept import sweep
from moe_plan.spec import MoEDeployment
from moe_plan.subject import Subject, resolve

LINK = LinkTier("cluster", 2**31, 50e9, 5e-6)
CLUSTER = {"scope": "cluster", "bandwidth": "25e9", "latency": "5us"}
NODE = {"scope": "node", "bandwidth": "200e9", "latency": "3us"}
GPUS = 5


def small(memory: str = "800Mi", links: tuple[dict[str, str], ...] = (NODE, CLUSTER), **workload: Any) -> MoEDeployment:
    figures = {"memory": memory, "flops": {"bfloat16": "100e12"}, "memoryBandwidth": "1e12", "links": list(links)}
    return manifest({"ep": 4}, {"config": SMALL_MODEL}, hardware={"spec": figures, "gpusPerNode": 2}, workload=workload)


def catalogue(name: str = "qwen3-30b-a3b", **workload: Any) -> MoEDeployment:
    return manifest({"ep": 4}, name, workload=workload)


def pair_of(result: PoolsResult) -> PoolPair:
    assert result.at_workload.pools is not None
    return result.at_workload.pools


class TestFormulas:
    prefills = st.builds(Prefill, st.floats(0.01, 1e4), st.floats(1e-4, 10), st.floats(1e-6, 1))
    decodes = st.builds(Decode, st.floats(0.01, 1e4), st.floats(1e-4, 1), st.floats(1e-6, 1))
    demands = st.builds(
        Demand,
        st.integers(2, 5000),
        st.floats(0, 1),
        st.one_of(st.just(math.inf), st.floats(0.01, 100)),
        st.one_of(st.just(math.inf), st.floats(1, 1e5)),
        st.just(constants()),
    )

    @given(prefills, decodes, demands)
    def test_the_rate_is_the_most_that_meets_the_target_and_the_requests_at_once(
        self, prefill: Prefill, decode: Decode, demand: Demand
    ) -> None:
        rate = requests_per_s(prefill, decode, LINK, demand)

        def allowed(per_s: float) -> bool:
            ttft = first_token(prefill, decode, per_s, LINK, demand).total
            at_once = per_s * (ttft + (demand.output_tokens - 1) * decode.tpot)
            busiest = constants().pools.prefill_utilisation * prefill.per_s
            return bool(per_s <= min(busiest, decode.per_s) and ttft <= demand.ttft and at_once <= demand.concurrency)

        assert rate == 0 or allowed(rate * (1 - 1e-6))
        assert not allowed(max(rate, 1e-9) * (1 + 1e-6))

    @given(prefills, decodes, demands, st.floats(1, 10), st.sampled_from(["link", "prefill", "step", "decode", "tpot"]))
    def test_nothing_that_gets_faster_makes_the_pools_slower(
        self, prefill: Prefill, decode: Decode, demand: Demand, by: float, what: str
    ) -> None:
        changed = {
            "link": (replace(prefill, sent_s=prefill.sent_s / by), replace(decode, received_s=decode.received_s / by)),
            "prefill": (replace(prefill, per_s=prefill.per_s * by), decode),
            "step": (replace(prefill, step_s=prefill.step_s / by), decode),
            "decode": (prefill, replace(decode, per_s=decode.per_s * by)),
            "tpot": (prefill, replace(decode, tpot=decode.tpot / by)),
        }[what]
        before, after = (requests_per_s(*pools, LINK, demand) for pools in ((prefill, decode), changed))
        assert after >= before * (1 - 1e-9)
        if 0 < before < prefill.per_s:
            waits = [first_token(*pools, before, LINK, demand).total for pools in ((prefill, decode), changed)]
            assert waits[1] <= waits[0] * (1 + 1e-9)

    @given(prefills, decodes, demands, st.floats(0.01, 0.9), st.floats(0.01, 0.9))
    def test_the_busier_the_prefill_pool_the_longer_the_first_token_takes(
        self, prefill: Prefill, decode: Decode, demand: Demand, some: float, other: float
    ) -> None:
        less, more = sorted((some, other))
        times = [first_token(prefill, decode, busy * prefill.per_s, LINK, demand).total for busy in (less, more)]
        assert times[0] <= times[1]

    def test_waiting_is_that_of_a_queue_of_equal_steps_and_of_a_tenth_of_the_burst(self) -> None:
        prefill, decode = Prefill(per_s=10.0, step_s=0.1, sent_s=0.02), Decode(per_s=8.0, tpot=0.01, received_s=0.03)
        demand = Demand(101, 0.05, math.inf, math.inf, constants())
        found = first_token(prefill, decode, 5.0, LINK, demand)
        assert found.transfer_s == pytest.approx(0.03 + 5e-6)
        steady = 0.5 / (2 * 0.5) * 0.1
        life = found.total + 100 * 0.01
        half_of_the_burst = 5.0 * life / 2 / 10.0
        assert found.queueing_s == pytest.approx(steady + half_of_the_burst / 10)

    def test_a_pool_of_more_workers_is_as_many_times_as_fast(self) -> None:
        one, three = (prefill_pool(n, 8, 2, 0.2, 0.01) for n in (1, 3))
        assert (one.per_s, three.per_s, three.step_s) == pytest.approx((80.0, 240.0, 0.2))
        alone, four = (decode_pool(n, 8, 16, 0.02, 0.01, 101) for n in (1, 4))
        assert (alone.per_s, four.per_s) == pytest.approx((64.0, 256.0))

    def test_a_slow_link_bounds_the_rate_of_either_pool(self) -> None:
        assert prefill_pool(1, 8, 2, 0.2, 0.4).per_s == pytest.approx(8 * 2 / 0.4)
        assert decode_pool(1, 8, 16, 0.02, 0.5, 101).per_s == pytest.approx(8 / 0.5)

    def test_with_one_token_a_decode_pool_is_idle(self) -> None:
        assert decode_pool(1, 8, 16, 0.02, 0.0, 1).per_s == math.inf

    @pytest.mark.parametrize(("name", "token_bytes"), [("qwen3-235b-a22b", 192_512), ("deepseek-v3", 70_272)])
    @pytest.mark.parametrize("tp", [1, 4, 8])
    def test_each_byte_of_the_prompts_cache_is_sent_once(self, name: str, token_bytes: int, tp: int) -> None:
        subject = resolve(catalogue(name), None)
        setting = make_setting(subject.shape, subject.hardware, "sglang", 2)
        stages = stage_classes(subject.shape, work_out(subject, Choice(Layout(8, tp, 1), 0)).stages)
        assert tp * moved_bytes(setting, tp, stages, 1000) == pytest.approx(1000 * token_bytes)


@dataclass(frozen=True)
class One:
    """A worker, worked out as a plan is."""

    gpus: int
    ep: int
    batch: int
    step_s: float
    moved_s: float

    @property
    def sent_s(self) -> float:
        return self.batch * self.moved_s

    @property
    def slowest_s(self) -> float:
        return max(self.step_s, self.sent_s)


def layouts_of(subject: Subject) -> Iterator[Layout]:
    """Every layout that the rules allow and that parts or fills nodes of two."""
    for ep, tp, pp in ((ep, tp, pp) for ep in range(1, GPUS) for tp in range(1, GPUS) for pp in range(1, 4)):
        if ep * tp * pp >= GPUS or any([*tensor_rules(subject, tp), *stage_rules(subject, pp)]):
            continue
        layouts = [Layout(ep, tp, pp, order) for order in permutations(DIMENSIONS)]
        yield from (layout for layout in layouts if not any(world_rules(subject, layout)))


def workers(subject: Subject, phase: str) -> Iterator[One]:
    """Every worker with every batch that it holds: the search's reference."""
    load, tokens = subject.spec.workload, subject.limits.max_batch_tokens
    element = ELEMENT_BYTES[subject.kv_cache_dtype]
    setting = make_setting(subject.shape, subject.hardware, "moe", element, tokens)
    share = constants().pools.transfer_bandwidth * subject.hardware.links[-1].bandwidth_bytes_per_s
    step = prefill_s if phase == "prefill" else decode_s
    for layout in layouts_of(subject):
        for draft in drafts(subject, layout):
            most = prompts_held(subject, draft) if phase == "prefill" else requests_held(subject, draft)
            held = max(stage.layers for stage in draft.stages) * 2 * 2 * 64 * element * load.input_tokens / layout.tp
            for batch in sorted({*ladder(most).tolist(), most} - {0, -1}):
                for micro in {1, *(min(n * layout.pp, tokens) for n in (1, 2, 4) if layout.pp > 1)}:
                    experts, stages = draft.experts, draft.stages
                    case = make_case(
                        subject.shape, layout, experts, stages, subject.hardware, load, 1, micro, kv_requests=1
                    )
                    seconds = float(step(setting, case, batch).total)
                    yield One(layout.world, layout.ep, batch, seconds, held / share)


def drafts(subject: Subject, layout: Layout) -> Iterator[Draft]:
    for redundant in copies(subject, layout.ep):
        assert not any(expert_rules(subject, layout.ep, redundant))
        draft = work_out(subject, Choice(layout, redundant))
        if fits(subject, draft):
            yield draft


def prompts_held(subject: Subject, draft: Draft) -> int:
    at_once = max(1, subject.limits.max_batch_tokens // subject.spec.workload.input_tokens)
    return min(at_once, held(subject, draft) // 2)


def requests_held(subject: Subject, draft: Draft) -> int:
    """Beside the logits of as many requests as a step takes."""
    load, tokens = subject.spec.workload, subject.limits.max_batch_tokens
    crowd = load.model_copy(update={"concurrency": max(load.concurrency, tokens)})
    of = replace(subject, deployment=with_workload(subject.deployment, crowd))
    return min(tokens, held(of, work_out(of, draft.choice)) - 1)


def held(subject: Subject, draft: Draft) -> int:
    shape, load = subject.shape, subject.spec.workload
    layout, stages = draft.choice.layout, draft.stages
    return kv_cache(
        shape, layout, stages, draft.memory, subject.limits, load, subject.kv_cache_dtype
    ).requests_per_shard


def copies(subject: Subject, ep: int) -> list[int]:
    fewest = -(-subject.experts // ep)
    column = np.asarray([ep])
    _, more = near_balance(subject, Layouts(column, column * 0 + 1, column * 0 + 1, column * 0 + fewest))
    return [ep * per_rank - subject.experts for per_rank in (fewest, *more.tolist())]


def with_workload(deployment: MoEDeployment, workload: Any) -> MoEDeployment:
    return deployment.model_copy(update={"spec": deployment.spec.model_copy(update={"workload": workload})})


def most_per_s(subject: Subject, gpus: int, concurrency: float) -> tuple[float, float]:
    """The highest rate of any pair, and the highest a GPU, by bisection of the constraints."""
    load, link = subject.spec.workload, subject.hardware.links[-1]
    output = load.output_tokens - 1
    prefill = [
        (one.gpus * n, n * one.ep * one.batch / one.slowest_s, one.sent_s, one.slowest_s)
        for one in set(workers(holding_prompts(subject), "prefill"))
        for n in range(1, gpus // one.gpus + 1)
    ]
    tpot = math.inf if load.tpot is None else load.tpot
    decode = np.array(
        [
            (one.gpus * n, n * one.ep / max(output * one.step_s / one.batch, one.moved_s), one.moved_s, one.step_s)
            for one in set(workers(subject, "decode"))
            if one.step_s <= tpot
            for n in range(1, gpus // one.gpus + 1)
        ]
    )
    assert len(prefill) > 20
    assert len(decode) > 100
    setting = make_setting(subject.shape, subject.hardware, "moe", 2, subject.limits.max_batch_tokens)
    alone = admission_s(setting) + link.latency_s
    best = [0.0, 0.0]
    for used, rate, sent, step in prefill:
        total = used + decode[:, 0]
        low, high = np.zeros(len(decode)), np.minimum(0.9 * rate, decode[:, 1])
        for _ in range(60):
            middle = (low + high) / 2
            busy = middle / rate
            own = step + alone + np.maximum(sent, decode[:, 2]) + busy / (2 * (1 - busy)) * step
            ttft = own
            for _ in range(30):  # the burst depends on the requests at once, and these on it
                ttft = own + middle * (ttft + output * decode[:, 3]) / rate / 2 / 10
            fine = (ttft <= (math.inf if load.ttft is None else load.ttft)) & (
                middle * (ttft + output * decode[:, 3]) <= concurrency
            )
            low, high = np.where(fine, middle, low), np.where(fine, high, middle)
        low = np.where(total <= gpus, low, 0.0)
        best = [max(best[0], low.max()), max(best[1], (low / total).max())]
    return best[0], best[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "workload",
    [
        {"concurrency": 12, "inputTokens": 300, "outputTokens": 60},
        {"concurrency": 200, "inputTokens": 900, "outputTokens": 30, "ttft": "900ms", "tpot": "30ms"},
        {"concurrency": 40, "inputTokens": 100, "outputTokens": 150, "ttft": "2s"},
    ],
    ids=str,
)
def test_the_best_pools_are_those_that_looking_at_every_pair_finds(workload: dict[str, Any]) -> None:
    deployment = small(**workload)
    subject = resolve(deployment, None)
    found = compare_pools(deployment, gpus=GPUS)
    for compared, concurrency, which in (
        (found.at_workload, workload["concurrency"], 0),
        (found.at_any_load, math.inf, 1),
    ):
        pair = compared.pools
        assert pair is not None
        expected = most_per_s(subject, GPUS, concurrency)[which]
        reached = pair.requests_per_s / (pair.gpus if which else 1)
        assert reached == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def deployment() -> MoEDeployment:
    return catalogue(concurrency=512, inputTokens=2000, outputTokens=200, ttft="1s", tpot="20ms")


@pytest.fixture(scope="module")
def result(deployment: MoEDeployment) -> PoolsResult:
    return compare_pools(deployment, gpus=16)


@pytest.mark.parametrize("targets", [{}, {"ttft": "1s", "tpot": "20ms"}, {"tpot": "9ms"}], ids=str)
@pytest.mark.parametrize("concurrency", [7, 3000])
def test_the_best_single_pools_are_those_that_every_layout_with_every_batch_gives(
    targets: dict[str, str], concurrency: int
) -> None:
    subject = resolve(catalogue(concurrency=concurrency, inputTokens=1500, outputTokens=300, **targets), None)
    pool = pool_rows(subject, space(subject, 24, ()))
    link = network(subject.hardware)
    assert link is not None
    found = Singles.of(pool, decode_workers(pool, link))
    densities, rates = [], []
    for rows in pool.rows:
        most = requests_at_any_load(subject, rows.layouts, rows.stages, rows.busiest)
        for held in (most, np.minimum(subject.limits.max_batch_tokens, most - 1)):
            swept = sweep(subject, pool.space, rows, at_each_batch(pool, rows, held))
            met = swept.shortfall == 0
            times = np.minimum(24 // swept.gpus, concurrency // swept.loads.concurrency)
            densities.append((swept.rate * met).max())
            rates.append((swept.times.tokens_per_s * times * met).max())
        swept = sweep(subject, pool.space, rows, at_workload(subject, pool.space, rows))
        rates.append((swept.times.tokens_per_s * (swept.shortfall == 0)).max(initial=0))
    densest, best = found.densest(), found.best()
    assert densest is not None
    assert best is not None
    assert densest.tokens_per_s_per_gpu == pytest.approx(max(densities), rel=1e-6)
    assert best.tokens_per_s == pytest.approx(max(rates), rel=1e-6)


class TestSearch:
    def test_pools_are_within_the_targets_the_gpus_and_the_requests(self, result: PoolsResult) -> None:
        for pair in (result.at_workload.pools, result.at_any_load.pools):
            assert pair is not None
            assert pair.ttft <= 1 + 1e-9
            assert pair.tpot <= 0.02
            assert pair.gpus == pair.prefill.gpus + pair.decode.gpus <= 16
            assert pair.tokens_per_s == pytest.approx(pair.requests_per_s * 200)
            life = pair.ttft + 199 * pair.tpot
            assert pair.concurrency == pytest.approx(pair.requests_per_s * life)
            assert pair.ttft == pytest.approx(sum(pair.ttft_parts.model_dump().values()))
        assert pair_of(result).concurrency <= 512 * (1 + 1e-9)

    def test_the_slower_pool_sets_the_rate(self, result: PoolsResult) -> None:
        pair = pair_of(result)
        assert 0 < pair.prefill.utilisation <= 0.9 + 1e-9
        assert 0 < pair.decode.utilisation <= 1 + 1e-9
        assert pair.prefill.gpu_s == pytest.approx(pair.prefill.gpus / pair.requests_per_s)

    def test_the_gain_is_told_against_the_best_single_pool(self, result: PoolsResult) -> None:
        for compared, figure in ((result.at_workload, "tokens_per_s"), (result.at_any_load, "tokens_per_s_per_gpu")):
            assert compared.gain == pytest.approx(
                getattr(compared.pools, figure) / getattr(compared.single, figure) - 1
            )
            assert "GPU-seconds" in compared.why

    def test_the_single_pool_is_no_worse_than_what_a_search_without_pools_finds(self) -> None:
        deployment = catalogue(concurrency=64, inputTokens=500, outputTokens=500)
        single = compare_pools(deployment, gpus=8).at_workload.single
        assert single is not None
        assert single.tokens_per_s >= compare(deployment, gpus=8).best.tokens_per_s * 0.98

    def test_the_same_manifest_gives_the_same_bytes(self, deployment: MoEDeployment, result: PoolsResult) -> None:
        assert compare_pools(deployment, gpus=16).model_dump_json() == result.model_dump_json()

    def test_the_found_pools_given_do_as_much(self, deployment: MoEDeployment, result: PoolsResult) -> None:
        pair = pair_of(result)
        pools = [
            GivenPool(name, pool.ep, pool.tp, pool.pp, pool.redundant_experts, pool.workers)
            for name, pool in (("prefill", pair.prefill), ("decode", pair.decode))
        ]
        given = compare_pools(deployment, gpus=16, given=(pools[0], pools[1])).given
        assert given is not None
        assert given.meets
        assert given.tokens_per_s == pytest.approx(pair.tokens_per_s, rel=1e-9)

    def test_given_pools_that_miss_a_target_are_told_all_the_same(self) -> None:
        pools = (GivenPool("prefill", 1), GivenPool("decode", 1, workers=2))
        given = compare_pools(catalogue(inputTokens=8000, ttft="150ms"), gpus=64, given=pools).given
        assert given is not None
        assert not given.meets
        assert given.ttft > 0.15
        assert given.gpus == 3

    def test_loads_that_were_measured_as_even_make_both_pools_faster(self, deployment: MoEDeployment) -> None:
        even = {str(layer): [1000] * 128 for layer in range(48)}
        trace = {"version": LOADS_VERSION, "model": "qwen3-30b-a3b", "since": "2026-11-21T10:00:00Z", "tokens": 16000}
        loads = read_loads(trace | {"layers": even}, "loads.json")
        pools = (GivenPool("prefill", 8), GivenPool("decode", 8))
        skewed, told = (compare_pools(deployment, gpus=16, given=pools, loads=of).given for of in (None, loads))
        assert skewed is not None
        assert told is not None
        assert told.prefill.step_s < skewed.prefill.step_s
        assert told.tokens_per_s > skewed.tokens_per_s

    def test_kept_fields_stay_as_written(self) -> None:
        deployment = catalogue(concurrency=64).model_copy(deep=True)
        found = compare_pools(deployment, gpus=16, keep=("ep", "rankOrder"))
        for pool in (pair_of(found).prefill, pair_of(found).decode):
            assert (pool.ep, pool.rank_order) == (4, ("pp", "ep", "tp"))

    @settings(max_examples=8, deadline=None)
    @given(st.integers(2, 4), st.integers(0, 3), st.sampled_from([None, "700ms"]))
    def test_more_gpus_never_make_pools_worse(self, gpus: int, more: int, ttft: str | None) -> None:
        target = {} if ttft is None else {"ttft": ttft}
        deployment = small(concurrency=50, inputTokens=400, outputTokens=40, **target)
        few, many = (compare_pools(deployment, gpus=2 * n) for n in (gpus, gpus + more))
        assert pair_of(many).tokens_per_s >= pair_of(few).tokens_per_s * (1 - 1e-9)
        assert few.at_any_load.pools is not None
        assert many.at_any_load.pools is not None
        dense = [found.at_any_load.pools.tokens_per_s_per_gpu for found in (few, many) if found.at_any_load.pools]
        assert dense[1] >= dense[0] * (1 - 1e-9)

    @settings(max_examples=8, deadline=None)
    @given(st.floats(1e9, 1e11), st.floats(1, 20))
    def test_more_bandwidth_between_nodes_never_makes_pools_worse(self, bandwidth: float, by: float) -> None:
        rates = []
        for rate in (bandwidth, bandwidth * by):
            links = (NODE, {**CLUSTER, "bandwidth": f"{rate:.6e}"})
            found = compare_pools(small(links=links, concurrency=50, inputTokens=400, outputTokens=40), gpus=4)
            rates.append(pair_of(found).tokens_per_s)
        assert rates[1] >= rates[0] * (1 - 1e-9)


class TestWhatCannotBe:
    def refused(self, deployment: MoEDeployment, gpus: int = 8, **options: Any) -> str:
        with pytest.raises(ManifestError) as caught:
            compare_pools(deployment, gpus=gpus, **options)
        return str(caught.value)

    def test_without_a_link_between_nodes_there_are_no_pools(self) -> None:
        told = self.refused(small(links=(NODE,)))
        assert told.startswith("spec.hardware.spec.links: KV caches go from the prefill pool to the decode pool")
        assert "add one: {scope: cluster" in told

    def test_with_one_output_token_a_decode_pool_would_be_idle(self) -> None:
        assert "would be idle; set it to 2 or more" in self.refused(small(outputTokens=1))

    def test_training_has_no_pools(self) -> None:
        assert "set it to serving" in self.refused(small(mode="training"))

    def test_a_model_that_nothing_holds_is_told(self) -> None:
        assert "no layout of up to 8 h200-sxm GPUs, 8 a node, both splits" in self.refused(catalogue("kimi-k2"))

    def test_a_target_that_nothing_meets_is_told_with_what_comes_nearest(self) -> None:
        told = self.refused(catalogue(tpot="1us"))
        assert "neither pools nor a single pool of up to 8 GPUs meet the targets" in told
        assert "the shortest TPOT of a decode pool is " in told
        assert "and misses 1 µs" in told
        told = self.refused(catalogue(ttft="1us"))
        assert "the shortest TTFT of a prefill pool, without a queue, is " in told

    def test_gpus_that_hold_the_model_once_are_too_few_for_two_pools(self) -> None:
        found = compare_pools(catalogue("qwen3-235b-a22b"), gpus=4)
        assert found.at_workload.pools is None
        assert found.at_workload.single is not None
        assert "two pools, each with the whole model, take at least 8 GPUs, and there are 4" in found.at_workload.why

    @pytest.mark.parametrize(
        ("pool", "told"),
        [
            (GivenPool("prefill", 24), "prefill.ep: 128 experts cannot be dealt evenly over ep 24"),
            (GivenPool("prefill", 2, 3), "prefill.tp: 32 attention heads cannot be split over tp 3"),
            (GivenPool("prefill", 2, 1, 64), "prefill.pp: pp 64 leaves stages without a layer"),
            (GivenPool("prefill", 4, 1, 3), "prefill: ep 4 · tp 1 · pp 3 is 12 ranks, which fill 1.5 nodes of 8 GPUs"),
            (GivenPool("prefill", 1, 1, 3), "prefill: workers of 3 GPUs neither fill nodes of 8 nor part them evenly"),
            (GivenPool("prefill", 8, workers=500), "prefill: 500 workers of 8 GPUs are 4,000; at most 1,024"),
        ],
        ids=str,
    )
    def test_degrees_that_break_the_algebra_in_one_pool_are_refused_by_its_name(
        self, pool: GivenPool, told: str
    ) -> None:
        assert told in self.refused(catalogue(), given=(pool, GivenPool("decode", 8)))

    def test_a_given_pool_that_does_not_fit_is_refused_with_its_memory(self) -> None:
        pools = (GivenPool("prefill", 8), GivenPool("decode", 1))
        told = self.refused(catalogue("qwen3-235b-a22b"), given=pools)
        assert told.startswith("decode: a rank of stage 0 needs ")
