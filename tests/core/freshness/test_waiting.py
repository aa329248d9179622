"""When a mutation may return, and when a condemned row may go."""

from __future__ import annotations

from doorward_server.core.freshness import Graveyard, Outcome, RegistryRow, Wait

L = 1000
A = RegistryRow("a", L)
B = RegistryRow("b", L)
DEAD = RegistryRow("dead", L, condemned=True)


def test_it_ends_when_all_have_acknowledged() -> None:
    wait = Wait(7, [A, B], 100, A)
    assert wait.outcome({}, 100) is None
    assert wait.outcome({"a": 7, "b": 6}, 100) is None
    assert wait.silent({"a": 7, "b": 6}) == ["b"]
    assert wait.outcome({"a": 9, "b": 7}, 100) is Outcome.ACKNOWLEDGED


def test_it_expires_when_no_lease_from_before_can_be_left() -> None:
    wait = Wait(7, [A, B], 100, A)
    assert wait.outcome({"a": 7}, 100 + 1100 - 1) is None
    assert wait.outcome({"a": 7}, 100 + 1100) is Outcome.EXPIRED
    assert wait.outcome({"a": 7, "b": 7}, 100 + 1100) is Outcome.ACKNOWLEDGED


def test_the_longest_lease_and_the_longest_stale_serving_count() -> None:
    assert Wait(7, [RegistryRow("a", 500, 300), RegistryRow("b", 2000)], 0, None).deadline == 2530
    assert Wait(7, [A], 0, RegistryRow("a", L, 4000)).deadline == 5500


def test_condemned_rows_count_but_are_not_condemned_again() -> None:
    wait = Wait(7, [A, DEAD], 100, A)
    assert wait.outcome({"a": 7}, 100) is None
    assert wait.silent({"a": 7}) == []


def test_who_is_not_in_the_registry_trusts_time_alone() -> None:
    wait = Wait(7, [B], 100, A)
    assert wait.outcome({"b": 7}, 200) is None
    assert wait.outcome({"b": 7}, 1200) is Outcome.EXPIRED


def test_who_is_no_replica_waits_for_those_that_are() -> None:
    assert Wait(7, [B], 100, None).outcome({"b": 7}, 100) is Outcome.ACKNOWLEDGED
    assert Wait(7, [], 100, None).outcome({}, 100) is Outcome.ACKNOWLEDGED


def test_who_has_left_meanwhile_is_not_waited_for() -> None:
    wait = Wait(7, [A, B], 100, A)
    wait.narrow([A, RegistryRow("came later", L)])
    assert wait.outcome({"a": 7}, 200) is Outcome.ACKNOWLEDGED


def test_a_condemned_row_goes_when_it_was_seen_condemned_for_longer_than_any_lease() -> None:
    graveyard = Graveyard()
    stale = RegistryRow("stale", L, 1000, condemned=True)
    assert graveyard.look([A, DEAD, stale], 5000) == []
    assert graveyard.look([A, DEAD, stale], 6100) == []
    assert graveyard.look([A, DEAD, stale], 6101) == ["dead"]
    assert graveyard.look([A, stale], 7201) == ["stale"]


def test_each_process_counts_from_when_it_saw_it_itself() -> None:
    graveyard = Graveyard()
    assert graveyard.look([DEAD], 5000) == []
    assert graveyard.look([], 9000) == []
    assert graveyard.look([DEAD], 9001) == []
