"""The client's half of the freshness protocol: what may be remembered, and for how long it may be used."""

from __future__ import annotations

from doorward.leases import Call, LeasedCache, Ping

L = 1000
FOREVER = 1_000_000


def leased(revision: int = 10, at: int = 100, tombstones: int = 100, capacity: int = 100) -> LeasedCache[str]:
    """Return a cache whose first ping, sent at *at*, has been answered."""
    cache: LeasedCache[str] = LeasedCache(capacity, tombstones)
    cache.connected()
    ping = cache.ping(at)
    cache.ponged(ping.sequence, revision, L, at + 50)
    return cache


def offer(cache: LeasedCache[str], key: str, revision: int, *tokens: int, lasting: int = FOREVER) -> bool:
    return cache.offer(key, f"{key}@{revision}", revision, tokens, lasting, cache.begin(200))


def test_the_lease_runs_from_when_the_ping_was_sent() -> None:
    cache = leased()
    assert offer(cache, "a", 10, 1)
    assert cache.get("a", 100 + L - 1) == "a@10"
    assert cache.get("a", 100 + L) is None
    ping = cache.ping(900)
    cache.ponged(ping.sequence, 10, L, 1800)
    assert cache.get("a", 900 + L - 1) == "a@10"
    assert cache.get("a", 900 + L) is None


def test_without_a_pong_there_is_no_lease_and_nothing_is_kept() -> None:
    cache: LeasedCache[str] = LeasedCache(10)
    assert not offer(cache, "a", 10)
    cache.connected()
    cache.ping(100)
    assert not offer(cache, "a", 10)
    assert cache.get("a", 101) is None


def test_a_push_extends_nothing_and_neither_does_a_pong_to_no_ping() -> None:
    cache = leased()
    assert offer(cache, "a", 10, 1)
    cache.invalidated(11, [2], False)
    cache.ponged(77, 11, L, 900)
    cache.ponged(1, 11, L, 900)  # that one was answered
    assert cache.until == 100 + L


def test_pings_say_what_was_applied() -> None:
    cache = leased()
    assert cache.ping(200) == Ping(2, 10)
    cache.invalidated(12, [], False)
    assert cache.ping(300) == Ping(3, 12)
    cache.connected()
    assert cache.ping(400) == Ping(4, 0)


def test_an_invalidation_drops_what_depends_on_it() -> None:
    cache = leased()
    assert offer(cache, "a", 10, 1, 2)
    assert offer(cache, "b", 10, 3)
    cache.invalidated(11, [2], False)
    assert (cache.get("a", 200), cache.get("b", 200)) == (None, "b@10")
    assert not offer(cache, "a", 10, 1, 2)
    assert offer(cache, "a", 11, 1, 2)
    cache.invalidated(12, [], True)
    assert len(cache) == 0
    assert not offer(cache, "b", 11, 3)


def test_answers_below_the_floor_are_not_kept() -> None:
    cache = leased(revision=10)
    assert not offer(cache, "a", 9, 1)


def test_a_tombstone_that_had_to_go_leaves_a_floor() -> None:
    cache = leased(tombstones=1)
    cache.invalidated(11, [1], False)
    cache.invalidated(12, [2], False)
    assert not offer(cache, "a", 10, 1)
    assert offer(cache, "a", 11, 1)


def test_a_stream_forgets_everything_and_answers_to_calls_from_before_it() -> None:
    cache = leased()
    assert offer(cache, "a", 10, 1)
    call = cache.begin(200)
    cache.connected()
    assert cache.get("a", 201) is None
    ping = cache.ping(210)
    cache.ponged(ping.sequence, 10, L, 220)
    assert not cache.offer("a", "a", 10, (1,), FOREVER, call)
    assert offer(cache, "a", 10, 1)


def test_an_answer_is_kept_as_long_as_it_may_counted_from_when_it_was_asked_for() -> None:
    cache = leased()
    assert not offer(cache, "a", 10, 1, lasting=0)
    assert cache.offer("b", "b", 10, (1,), 300, Call(200, cache.begin(0).generation))
    assert cache.get("b", 499) == "b"
    assert cache.get("b", 500) is None


def test_after_a_gap_nothing_is_left_that_is_newer_than_what_was_told() -> None:
    cache = leased(revision=10)
    assert offer(cache, "a", 10, 1)
    assert offer(cache, "b", 15, 2)
    call = cache.begin(1900)
    ping = cache.ping(2000)
    cache.ponged(ping.sequence, 16, L, 2050)
    assert not cache.offer("c", "c", 16, (3,), FOREVER, call)
    assert (cache.get("a", 2060), cache.get("b", 2060)) == ("a@10", None)


def test_it_is_bounded_and_what_is_asked_for_stays_longer() -> None:
    cache = leased(capacity=3)
    for key in "abc":
        assert offer(cache, key, 10, 1)
    assert cache.get("a", 200)
    assert offer(cache, "d", 10, 1)
    assert [cache.get(key, 200) is not None for key in "abcd"] == [True, False, True, True]
    for _ in range(200):
        cache.ping(300)
    cache.invalidated(11, [1, 1], False)
    assert len(cache) == 0
