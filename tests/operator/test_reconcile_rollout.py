from hypothesis import given
from hypothesis import strategies as st

from moe_operator.reconcile.rollout import Standing, next_step
from moe_plan.spec import Rollout


def rollout(surge: int = 0, unavailable: int = 1, partition: int = 0) -> Rollout:
    return Rollout.model_validate({"maxSurge": surge, "maxUnavailable": unavailable, "partition": partition})


def old(index: int, *, serving: bool = True, served: bool = True, surge: bool = False) -> Standing:
    return Standing(index, current=False, serving=serving, served=served, surge=surge)


def new(index: int, *, serving: bool = True, surge: bool = False) -> Standing:
    return Standing(index, current=True, serving=serving, served=serving, surge=surge)


def test_nothing_is_done_when_all_is_as_wanted() -> None:
    step = next_step([new(0), new(1)], 2, rollout())
    assert (step.create, step.surge, step.replace, step.remove) == ((), (), (), ())


def test_missing_replicas_are_made() -> None:
    assert next_step([new(1)], 3, rollout()).create == (0, 2)


def test_scaling_down_removes_the_highest_index_first() -> None:
    assert next_step([new(0), new(1), new(2), new(3)], 2, rollout()).remove == (3, 2)


def test_one_replica_at_a_time_is_replaced_from_the_top() -> None:
    assert next_step([old(0), old(1), old(2)], 3, rollout()).replace == (2,)


def test_no_second_replica_is_taken_down_while_the_first_starts() -> None:
    assert next_step([old(0), old(1), new(2, serving=False)], 3, rollout()).replace == ()


def test_replicas_that_never_served_are_replaced_at_once() -> None:
    standing = [old(0), old(1, serving=False, served=False), old(2, serving=False, served=False)]
    assert next_step(standing, 3, rollout()).replace == (2, 1)


def test_a_replica_that_is_silent_for_a_moment_is_not_taken_down_beside_another() -> None:
    standing = [old(0), old(1, serving=False), new(2, serving=False)]
    assert next_step(standing, 3, rollout()).replace == ()


def test_a_silent_replica_is_replaced_within_what_may_be_down() -> None:
    assert next_step([old(0), old(1, serving=False), old(2)], 3, rollout()).replace == (1,)


def test_surge_replicas_come_before_anything_is_taken_down() -> None:
    step = next_step([old(0), old(1)], 2, rollout(surge=1, unavailable=0))
    assert (step.surge, step.replace) == ((2,), ())


def test_a_surge_replica_that_serves_lets_one_be_replaced() -> None:
    assert next_step([old(0), old(1), new(2, surge=True)], 2, rollout(surge=1, unavailable=0)).replace == (1,)


def test_surge_replicas_go_when_the_rollout_is_over() -> None:
    over = next_step([new(0), new(1), new(2, surge=True)], 2, rollout(surge=1, unavailable=0))
    still = next_step([new(0), new(1, serving=False), new(2, surge=True)], 2, rollout(surge=1, unavailable=0))
    assert (over.remove, still.remove) == ((2,), ())


def test_replicas_about_to_be_removed_do_not_count_as_serving() -> None:
    step = next_step([old(0), old(1), old(2), old(3)], 2, rollout())
    assert (step.remove, step.replace) == ((3, 2), (1,))


STANDING = st.builds(Standing, st.integers(0, 7), st.booleans(), st.booleans(), st.booleans(), st.booleans()).map(
    lambda r: r if r.served or not r.serving else Standing(r.index, r.current, r.serving, served=True, surge=r.surge)
)


@given(
    standing=st.lists(STANDING, unique_by=lambda r: r.index, max_size=8),
    desired=st.integers(0, 6),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 4),
)
def test_no_more_replicas_than_allowed_are_taken_down(
    standing: list[Standing], desired: int, surge: int, unavailable: int
) -> None:
    step = next_step(standing, desired, rollout(surge, unavailable))
    staying = [r for r in standing if r.index < desired or r.surge]
    left = [r for r in staying if r.index not in (*step.replace, *step.remove)]
    before, after = sum(r.serving for r in staying), sum(r.serving for r in left)
    assert after == before or after >= desired - unavailable
    assert not set(step.replace) & set(step.remove)
    assert all(index >= desired for index in (*step.remove, *step.surge))
    assert len([r for r in standing if r.index < desired]) + len(step.create) == desired
