"""Gang scheduling by Kubernetes' own scheduler, on a control plane that serves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane, control_plane
from operated import Frontends, Ground
from operator_process import eventually, install, running

pytestmark = pytest.mark.slow

GATES = "--feature-gates=GenericWorkload=true,GangScheduling=true"
"""https://kubernetes.io/docs/concepts/scheduling-eviction/gang-scheduling/"""


@pytest.fixture(scope="module")
def gang_plane() -> Iterator[ControlPlane]:
    served = "--runtime-config=scheduling.k8s.io/v1alpha2=true"
    with control_plane(api_server=(GATES, served), scheduler=(GATES,)) as plane:
        plane.install_crd()
        install(plane)
        yield plane


def test_the_schedulers_own_gang_binds_a_replica_where_the_cluster_serves_it(
    gang_plane: ControlPlane, tmp_path: Path
) -> None:
    with Frontends().serving() as frontends, running(gang_plane, tmp_path) as operator:
        ground = Ground(gang_plane, frontends.port, nodes=4)
        ground.apply(ground.deployment(ep=16))
        ground.wait_ready(1)
        (group,) = ground.get("podgroups.scheduling.k8s.io")
        assert group["spec"]["schedulingPolicy"]["gang"]["minCount"] == 4
        members = {pod["spec"]["schedulingGroup"]["podGroupName"] for pod in ground.pods().values()}
        assert members == {group["metadata"]["name"]}, operator.log
        ground.delete()
        ground.wait_gone()


def test_a_gang_that_the_cluster_does_not_serve_is_told_before_pods_are_made(
    plane: ControlPlane, tmp_path: Path
) -> None:
    install(plane)
    with Frontends().serving() as frontends, running(plane, tmp_path):
        ground = Ground(plane, frontends.port, nodes=2)
        ground.apply(ground.deployment(scheduling={"nodeSelector": {"pool": ground.namespace}, "gang": "volcano"}))
        eventually(lambda: ground.condition("Stalled")[:2] == ("True", "GangNotServed"), "a person is told")
        assert not ground.pods()
        ground.delete()
