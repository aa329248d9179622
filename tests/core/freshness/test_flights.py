"""Who may be given what a read found that another caller began."""

from __future__ import annotations

import pytest

from doorward_server.core.freshness import Cache, Change, Dependency, Fill, Flights, Lease

KEY = Dependency.on_key("acme", "k1")


@pytest.fixture
def cache() -> Cache[str]:
    cache: Cache[str] = Cache(10, 10)
    cache.start(10)
    return cache


@pytest.fixture
def lease() -> Lease:
    lease = Lease()
    lease.extend(0, 1000, 0)
    return lease


def test_the_caller_that_began_it_may_use_it_whatever_happened(cache: Cache[str], lease: Lease) -> None:
    flights = Flights(cache, lease)
    flight = flights.begin("a", 50)
    cache.apply([Change(12, KEY)], 12)
    lease.end()
    assert not flights.land(flight, Fill("a", 11, (KEY,)))
    assert flights.usable(flight, 50, 60)
    assert not flights.usable(flight, 51, 60)
    assert cache.get("a") is None


def test_a_later_caller_may_use_it_under_a_live_lease_if_nothing_overtook_it(cache: Cache[str], lease: Lease) -> None:
    flights = Flights(cache, lease)
    flight = flights.begin("a", 50)
    assert flights.find("a") is flight
    assert flights.land(flight, Fill("a", 10, (KEY,)))
    assert flights.find("a") is None
    assert flights.usable(flight, 70, 999)
    assert not flights.usable(flight, 70, 1000)
    cache.apply([Change(11, Dependency.on_key("acme", "another"))], 11)
    assert flights.usable(flight, 70, 80)
    cache.apply([Change(12, KEY)], 12)
    assert not flights.usable(flight, 70, 80)


def test_a_reset_makes_it_unusable_for_later_callers(cache: Cache[str], lease: Lease) -> None:
    flights = Flights(cache, lease)
    flight = flights.begin("a", 50)
    cache.start(10)
    assert not flights.land(flight, Fill("a", 10, (KEY,)))
    assert not flights.usable(flight, 70, 80)
    assert flights.usable(flight, 40, 80)


def test_an_error_is_not_remembered_and_the_next_caller_begins_anew(cache: Cache[str], lease: Lease) -> None:
    flights = Flights(cache, lease)
    flight = flights.begin("a", 50)
    flights.fail(flight)
    assert flights.find("a") is None
    assert not flights.usable(flight, 50, 60)
    assert len(cache) == 0


def test_one_that_was_overtaken_does_not_end_its_successor(cache: Cache[str], lease: Lease) -> None:
    flights = Flights(cache, lease)
    slow = flights.begin("a", 50)
    second = flights.begin("a", 60)
    flights.fail(slow)
    assert flights.find("a") is second
    assert len(flights) == 1
