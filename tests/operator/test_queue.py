"""The queue of keys: each once, never two at a time, later and later after errors. Time is given, so nothing waits."""

from hypothesis import given
from hypothesis import strategies as st

from moe_operator.queue import LONGEST_BACKOFF_S, LONGEST_BREATH_S, WorkQueue


def queue() -> WorkQueue[str]:
    return WorkQueue(lambda: 0.5)


def test_a_key_asked_for_twice_gets_one_turn_at_the_earlier_time() -> None:
    keys = queue()
    keys.add("a", 5.0)
    keys.add("a", 2.0)
    keys.add("a", 9.0)
    assert keys.next_due() == 2.0
    assert keys.take(1.9) is None
    assert keys.take(2.0) == "a"
    keys.done("a", 2.0)
    assert keys.take(100.0) is None


def test_a_key_in_work_is_not_given_out_and_gets_its_turn_afterwards() -> None:
    keys = queue()
    keys.add("a", 0.0)
    assert keys.take(0.0) == "a"
    keys.add("a", 0.0)
    keys.add("b", 0.0)
    assert keys.take(0.1) == "b"
    assert keys.take(0.1) is None
    assert keys.next_due() is None
    keys.done("a", 0.2)
    assert keys.take(0.2) is None, "it rests as long as its turn took"
    assert keys.take(0.4) == "a"


def test_a_turn_of_minutes_is_followed_by_a_short_rest() -> None:
    keys = queue()
    keys.add("a", 0.0)
    keys.take(0.0)
    keys.add("a", 1.0)
    keys.done("a", 600.0)
    assert keys.take(600.0 + LONGEST_BREATH_S) == "a"


def test_a_turn_that_changed_something_is_followed_at_once() -> None:
    keys = queue()
    keys.add("a", 0.0)
    keys.take(0.0)
    keys.add("a", 1.0)
    keys.progressed("a", 5.0)
    assert keys.take(5.0) == "a"


def test_errors_make_waits_grow_to_a_bound_and_events_do_not_shorten_them() -> None:
    keys, now, delays = queue(), 0.0, []
    keys.add("a", now)
    for _ in range(20):
        assert keys.take(now) == "a"
        delays.append(keys.failed("a", now))
        keys.add("a", now)
        assert keys.take(now + delays[-1] * 0.99) is None
        now += delays[-1]
    assert delays[:3] == sorted(delays[:3])
    assert delays[3] > 4 * delays[0]
    assert max(delays) <= LONGEST_BACKOFF_S
    keys.take(now)
    keys.done("a", now)
    keys.add("a", now + 10)
    keys.take(now + 10)
    assert keys.failed("a", now + 10) == delays[0], "a turn that went well begins anew"


def test_the_server_may_ask_for_a_longer_wait() -> None:
    keys = queue()
    keys.add("a", 0.0)
    keys.take(0.0)
    assert keys.failed("a", 0.0, at_least=30.0) == 30.0
    assert keys.take(29.9) is None
    assert keys.take(30.0) == "a"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 10)), max_size=30))
def test_every_key_asked_for_gets_its_turn_and_none_gets_two_at_once(asked: list[tuple[str, float]]) -> None:
    keys = queue()
    for key, due in asked:
        keys.add(key, due)
    taken = []
    while (key := keys.take(10.0)) is not None:
        taken.append(key)
    assert sorted(taken) == sorted({key for key, _ in asked})
