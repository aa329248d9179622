"""What each poll means: when the lease runs, and when everything must be forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doorward_server.core.freshness import (
    Cache,
    Change,
    ClientLeases,
    Dependency,
    Fill,
    Joined,
    Poll,
    Reset,
    ResetReason,
    Tail,
    Taken,
)

L = 1_000_000_000
KEY = Dependency.on_key("acme", "k1")
FIRST = Poll("r1", 0, 100, True, 10, "n10", 0, None, ())


def joined(serve_stale_for: int = 0) -> tuple[Tail, Cache[str]]:
    cache: Cache[str] = Cache(10, 10)
    tail = Tail(cache, ClientLeases())
    tail.registered("r1", L, serve_stale_for)
    assert tail.take(FIRST) == Joined(10)
    return tail, cache


def following(started_at: int, head: int, *changes: Change) -> Poll:
    return Poll("r1", 10, started_at, True, head, f"n{head}", 0, "n10", changes)


def keep(cache: Cache[str], revision: int = 10) -> bool:
    return cache.offer("a", Fill("a", revision, (KEY,)), cache.generation)


def test_the_lease_runs_from_the_start_of_the_poll() -> None:
    tail, _ = joined()
    assert tail.lease.live(100 + L - 1)
    assert not tail.lease.live(100 + L)
    assert tail.take(following(500, 10)) == Taken(10, 0)
    assert tail.lease.until == 500 + L


def test_a_late_answer_to_an_early_poll_shortens_nothing() -> None:
    tail, _ = joined()
    tail.take(following(50, 10))
    assert tail.lease.until == 100 + L


def test_rows_are_applied_and_may_be_acknowledged() -> None:
    tail, cache = joined()
    assert keep(cache)
    assert tail.take(following(200, 12, Change(11, KEY))) == Taken(12, 1)
    assert cache.get("a") is None
    assert tail.acknowledged(300) == 12
    assert (tail.revision, cache.applied) == (12, 12)


def test_before_the_first_poll_there_is_no_lease_and_nothing_is_kept() -> None:
    cache: Cache[str] = Cache(10, 10)
    tail = Tail(cache, ClientLeases())
    tail.registered("r1", L)
    assert not tail.lease.live(0)
    assert not keep(cache)
    assert tail.acknowledged(0) == 0


RESETS = {
    "the own row is missing or condemned": (replace(following(200, 11), registered=False), ResetReason.UNREGISTERED),
    "another nonce": (replace(following(200, 11), nonce_at_since="other"), ResetReason.OTHER_HISTORY),
    "a lower revision": (replace(following(200, 9), nonce_at_since=None), ResetReason.OTHER_HISTORY),
    "the same revision of another history": (
        replace(following(200, 10), nonce_at_since="other", head_nonce="other"),
        ResetReason.OTHER_HISTORY,
    ),
    "rows were pruned": (replace(following(200, 20), floor=11, nonce_at_since=None), ResetReason.PRUNED),
    "the row at the last revision was pruned": (
        replace(following(200, 20), floor=10, nonce_at_since=None),
        ResetReason.OTHER_HISTORY,
    ),
}


@pytest.mark.parametrize("case", RESETS)
def test_a_reset_forgets_everything(case: str) -> None:
    poll, reason = RESETS[case]
    tail, cache = joined(serve_stale_for=L)
    assert keep(cache)
    assert tail.take(poll) == Reset(reason)
    assert not tail.lease.live(101)
    assert not tail.lease.stale_allowed(101)
    assert cache.get("a") is None
    assert not keep(cache, 99)
    assert (tail.replica, tail.revision) == ("", 0)
    tail.registered("r2", L)
    assert tail.take(replace(FIRST, replica="r2", started_at=900)) == Joined(10)
    assert tail.lease.until == 900 + L


def test_an_unregistered_first_poll_does_not_join() -> None:
    tail = Tail(Cache(10, 10), ClientLeases())
    tail.registered("r1", L)
    assert tail.take(replace(FIRST, registered=False)) == Reset(ResetReason.UNREGISTERED)


def test_strays_change_nothing() -> None:
    tail, _ = joined()
    tail.take(following(200, 12))
    until = tail.lease.until
    assert tail.take(following(900, 13)) is None  # asked for since 10, and 12 is where it stands
    assert tail.take(replace(following(900, 13), replica="r0")) is None
    tail.leave()
    assert tail.take(replace(following(900, 13), since=12, nonce_at_since="n12")) is None
    assert until == 200 + L
    assert tail.lease.until == 0


def test_a_gap_forgets_what_was_read_ahead_of_the_log() -> None:
    tail, cache = joined()
    assert keep(cache, 11)
    tail.take(following(200, 10))
    assert cache.get("a") is not None
    begun = cache.generation
    tail.take(following(200 + L // 2, 11))
    assert cache.get("a") is None
    assert not cache.offer("a", Fill("a", 11, (KEY,)), begun)


def test_serving_stale_begins_with_the_lease_and_lasts_longer() -> None:
    tail, _ = joined(serve_stale_for=5 * L)
    assert tail.lease.stale_allowed(100 + 6 * L - 1)
    assert not tail.lease.stale_allowed(100 + 6 * L)
    strict, _ = joined()
    assert not strict.lease.stale_allowed(101)
