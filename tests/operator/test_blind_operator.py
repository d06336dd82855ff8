"""An operator whose rights are older than itself: it cannot see what it must, and says so."""

from pathlib import Path

import pytest
from control_plane import ControlPlane
from operated import Frontends, Ground
from operator_process import NAME, eventually, install, running

from moe_operator.resources import cluster_role

pytestmark = pytest.mark.slow

WITHIN_S = 30.0


def test_a_right_to_list_that_a_new_operator_lacks(
    plane: ControlPlane, frontends: Frontends, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    frontends.status = 200
    ground = Ground(plane, frontends.port, nodes=2)
    ground.apply(ground.deployment())
    role = cluster_role(NAME)
    lacking = [{**rule, "resources": [r for r in rule["resources"] if r != "nodes"]} for rule in role["rules"]]
    install(plane)
    plane.apply({**role, "rules": [rule for rule in lacking if rule["resources"]]})
    request.addfinalizer(lambda: plane.apply(role))
    with running(plane, tmp_path) as blind:
        eventually(lambda: ground.condition("Stalled")[1] == "OperatorForbidden", f"it says so: {blind.log}", WITHIN_S)
        told = ground.condition("Stalled")[2]
        assert 'cannot list resource "nodes"' in told
        assert ground.condition("Ready")[0] == "Unknown"
        plane.apply(role)
        eventually(lambda: ground.condition("Ready")[1] == "Serving", f"it goes on by itself: {blind.log}", WITHIN_S)
    ground.delete()
