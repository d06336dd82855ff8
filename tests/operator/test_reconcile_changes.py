"""A changed count and a changed spec: scaled and rolled out as asked, in a simulated cluster."""

from simulated import gpu_node, settled


def test_a_changed_count_touches_no_running_pod() -> None:
    cluster = settled(nodes=8, replicas=2)
    before = {name: cluster.objects["Pod", name] for name in cluster.names("Pod")}
    cluster.edit(replicas=4)
    cluster.settle()
    assert {name: cluster.objects["Pod", name] for name in before} == before
    assert cluster.names("Pod") == [f"m-{i}-{slot}" for i in range(4) for slot in range(2)]
    cluster.edit(replicas=1)
    cluster.settle()
    assert cluster.names("Pod") == ["m-0-0", "m-0-1"]
    assert {name: cluster.objects["Pod", name] for name in cluster.names("Pod")} == {
        name: before[name] for name in ("m-0-0", "m-0-1")
    }
    assert [name for name in cluster.names("ConfigMap") if "plan" not in name] == ["m-0"]


def test_scaled_to_zero_is_ready_and_holds_nothing() -> None:
    cluster = settled()
    cluster.edit(replicas=0)
    cluster.settle()
    assert cluster.names("Pod") == []
    assert cluster.condition("Ready")["reason"] == "ScaledToZero"


def test_a_changed_spec_is_rolled_out_one_replica_at_a_time() -> None:
    cluster = settled(nodes=6, replicas=3)
    old = cluster.record(0)["plan"]
    cluster.edit(runtime={"image": "other:1"})
    least = 3
    for _ in range(60):
        cluster.step()
        least = min(least, len(cluster.serving()))
        cluster.check()
        cluster.kubelets()
        cluster.check()
    assert least == 2
    assert {cluster.record(i)["plan"] for i in range(3)} != {old}
    assert cluster.condition("Ready")["status"] == "True"
    assert [event.reason for event in cluster.events] == ["RollingOut", "Serving"]
    assert len([name for name in cluster.names("ConfigMap") if "plan" in name]) == 1


def test_a_surge_is_used_where_there_is_room() -> None:
    cluster = settled(nodes=6, replicas=2, rollout={"maxSurge": 1, "maxUnavailable": 0})
    cluster.edit(runtime={"image": "other:1"})
    seen = set()
    for _ in range(60):
        cluster.step()
        cluster.kubelets()
        seen |= cluster.indices()
        assert len(cluster.serving()) >= 2
    assert seen == {0, 1, 2}
    assert cluster.indices() == {0, 1}
    assert cluster.condition("Ready")["status"] == "True"


def test_a_full_cluster_rolls_out_without_its_surge_and_says_so() -> None:
    cluster = settled(nodes=4, replicas=2, rollout={"maxSurge": 1, "maxUnavailable": 1})
    cluster.edit(runtime={"image": "other:1"})
    cluster.step()
    said = cluster.condition("Reconciling")["message"]
    assert said.startswith("1 of 2 replicas are on today's plan; no room for more than 2 at once, so maxUnavailable")
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    assert len({cluster.record(i)["plan"] for i in (0, 1)}) == 1


def test_a_rollout_that_may_take_nothing_down_and_has_no_room_is_stalled() -> None:
    cluster = settled(nodes=4, replicas=2, rollout={"maxSurge": 1, "maxUnavailable": 0})
    cluster.edit(runtime={"image": "other:1"})
    cluster.settle()
    assert cluster.condition("Stalled")["reason"] == "NoRoomForSurge"
    assert len(cluster.serving()) == 2
    cluster.nodes |= {"node-8": gpu_node("node-8"), "node-9": gpu_node("node-9")}
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"


def test_a_surge_replica_stands_in_for_one_that_lost_its_node_on_a_full_cluster() -> None:
    cluster = settled(nodes=6, replicas=2, rollout={"maxSurge": 1, "maxUnavailable": 0})
    cluster.edit(runtime={"image": "other:1"})
    cluster.step()
    cluster.kubelets()
    assert cluster.serving() == {0, 1, 2}
    cluster.lose(cluster.record(0)["nodes"][0])
    cluster.settle()
    assert cluster.serving() == {1, 2}
    assert cluster.condition("Stalled")["reason"] == "NoRoomForSurge"
    assert "stands in for one without room" in cluster.condition("Stalled")["message"]
    cluster.nodes["node-9"] = gpu_node("node-9")
    cluster.settle()
    assert cluster.serving() == {0, 1}
    assert cluster.condition("Ready")["status"] == "True"


def test_a_bad_image_stops_the_rollout_at_what_may_be_down() -> None:
    cluster = settled(nodes=6, replicas=3)
    cluster.edit(runtime={"image": "other:1"})
    cluster.silent = {2}
    cluster.settle()
    assert cluster.serving() == {0, 1}
    cluster.edit(runtime={"image": "other:2"})
    cluster.silent = set()
    cluster.settle()
    assert cluster.serving() == {0, 1, 2}


def test_replicas_below_the_partition_keep_the_old_spec_also_when_restarted() -> None:
    cluster = settled(nodes=6, replicas=2, rollout={"partition": 1})
    old = cluster.objects["Pod", "m-0-0"]["spec"]
    cluster.edit(runtime={"image": "other:1"})
    cluster.settle()
    assert cluster.record(0)["plan"] != cluster.record(1)["plan"]
    assert cluster.condition("Ready")["status"] == "True"
    cluster.fail("m-0-1")
    cluster.settle()
    assert cluster.record(0)["attempt"] == 2
    new = cluster.objects["Pod", "m-0-0"]["spec"]
    assert new["containers"][0]["image"] == old["containers"][0]["image"] != "other:1"
