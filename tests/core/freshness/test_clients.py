"""The server's half of client leases: who is answered when, told what, and waited for until when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorward_server.core.freshness import ALL, Change, ClientLeases, Dependency, LeaseStream, Sending, with_margin

L = 1000
COUNTED = with_margin(L, 50)
KEY = Dependency.on_key("acme", "k1")
OTHER = Dependency.on_key("acme", "k2")
NOTHING: frozenset[Dependency] = frozenset()


class Woken:
    """Counts how often a stream has something to say."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def leases() -> ClientLeases:
    clients = ClientLeases()
    clients.lease_for(L)
    return clients


def connected(clients: ClientLeases, revision: int = 5, at: int = 100) -> LeaseStream:
    """Return a stream whose first ping, which arrived at *at*, has been answered."""
    stream = clients.open(Woken())
    stream.ping(1, 0, at)
    clients.answer(at, revision)
    assert stream.fetch() == Sending(revision, False, NOTHING, 1)
    return stream


def test_a_ping_is_answered_by_a_poll_that_began_after_it() -> None:
    clients = leases()
    woken = Woken()
    stream = clients.open(woken)
    stream.ping(1, 0, 100)
    clients.answer(99, 5)
    assert (stream.fetch(), woken.times) == (None, 0)
    clients.answer(100, 5)
    assert (stream.fetch(), woken.times) == (Sending(5, False, NOTHING, 1), 1)
    clients.answer(200, 6)
    assert stream.fetch() is None


def test_pongs_coalesce_and_nobody_starves() -> None:
    clients = leases()
    stream = clients.open(Woken())
    for number in range(1, 6):
        stream.ping(number, 0, 100 * number)
    clients.answer(350, 5)  # the second to fourth were dropped: the first and the newest are enough
    assert stream.fetch() == Sending(5, False, NOTHING, 1)
    clients.answer(600, 6)
    assert stream.fetch() == Sending(6, False, NOTHING, 5)


def test_invalidations_come_before_the_pong() -> None:
    clients = leases()
    stream = connected(clients)
    stream.ping(2, 5, 200)
    clients.invalidate([Change(6, KEY)], 6, 300)
    clients.answer(300, 6)
    assert stream.fetch() == Sending(6, True, frozenset({KEY}), 2)


def test_what_is_not_fetched_is_merged() -> None:
    clients = leases()
    stream = connected(clients)
    clients.invalidate([Change(6, KEY)], 6, 200)
    stream.ping(2, 5, 250)
    clients.answer(300, 7)
    clients.invalidate([Change(8, OTHER)], 8, 400)
    assert stream.fetch() == Sending(8, True, frozenset({KEY, OTHER}), 2)
    assert stream.fetch() is None


def test_a_flood_of_invalidations_becomes_one_word() -> None:
    clients = leases()
    stream = connected(clients)
    for number in range(2000):
        clients.invalidate([Change(6 + number, Dependency.on_key("acme", str(number)))], 6 + number, 200)
    assert stream.fetch() == Sending(2005, True, frozenset({ALL}), None)


def test_a_client_without_a_pong_is_told_nothing_and_not_waited_for() -> None:
    clients = leases()
    stream = clients.open(Woken())
    stream.ping(1, 0, 100)
    clients.invalidate([Change(6, KEY)], 6, 150)
    assert stream.fetch() is None
    assert clients.acknowledged(6, 150) == 6
    assert clients.held_back_until(6, 150) is None


def test_a_client_holds_back_until_it_has_applied_or_its_lease_has_run_out() -> None:
    clients = leases()
    stream = connected(clients)
    clients.invalidate([Change(6, KEY)], 6, 200)
    assert clients.acknowledged(6, 200) == 5
    assert clients.held_back_until(6, 200) == 100 + COUNTED
    assert clients.acknowledged(6, 100 + COUNTED - 1) == 5
    assert stream.fetch() is not None
    stream.ping(2, 6, 300)
    assert clients.acknowledged(6, 300) == 6
    assert clients.held_back_until(6, 300) is None


def test_time_alone_frees_it_too() -> None:
    clients = leases()
    connected(clients)
    assert clients.acknowledged(6, 100 + COUNTED) == 6


def test_it_counts_although_its_stream_is_closed_or_cut_off() -> None:
    clients = leases()
    stream = connected(clients)
    stream.close()
    assert len(clients) == 0
    assert clients.acknowledged(6, 200) == 5
    assert clients.quiet_at() == 100 + COUNTED
    assert clients.acknowledged(6, 100 + COUNTED) == 6


def test_a_lease_whose_pong_told_a_revision_does_not_hold_it_back() -> None:
    """Else a client that hears nothing but goes on pinging would hold it back for ever."""
    clients = leases()
    stream = connected(clients, revision=5, at=100)
    stream.ping(2, 5, 600)
    clients.answer(600, 6)
    assert clients.acknowledged(6, 700) == 5
    stream.ping(3, 5, 1100)
    clients.answer(1100, 6)
    assert clients.acknowledged(6, 100 + COUNTED) == 6


def test_nobody_knows_more_than_it_was_told_on_its_stream() -> None:
    clients = leases()
    stream = connected(clients)
    stream.ping(2, 99, 200)
    assert clients.acknowledged(9, 200) == 5


def test_a_reset_cuts_all_streams_and_counts_their_clients_as_knowing_nothing() -> None:
    clients = leases()
    woken = Woken()
    stream = clients.open(woken)
    stream.ping(1, 0, 100)
    clients.answer(100, 5)
    clients.start_over()
    assert not stream.open
    assert woken.times == 2
    assert stream.fetch() is None
    stream.ping(2, 5, 150)
    clients.answer(200, 5)
    assert stream.fetch() is None
    assert clients.acknowledged(3, 200) == 0
    assert clients.acknowledged(3, 100 + COUNTED) == 3


def test_who_reads_nothing_for_two_leases_is_cut_off_and_not_waited_for() -> None:
    clients = leases()
    stream = connected(clients)
    clients.invalidate([Change(6, KEY)], 6, 200)
    clients.answer(200 + 2 * L, 6)
    assert len(clients) == 1
    clients.answer(201 + 2 * L, 6)
    assert not stream.open
    assert clients.acknowledged(6, 201 + 2 * L) == 6


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("ping", "lost ping", "poll", "change", "deliver", "close", "tick")), st.integers(1, 700)
    ),
    max_size=60,
)


@given(STEPS)
def test_acknowledged_means_that_no_live_lease_in_a_client_is_from_before(steps: list[tuple[str, int]]) -> None:
    """One client as the contract has it, on a clock that runs alike, against the replica's account of it."""
    clients = leases()
    stream = clients.open(Woken())
    now, applied, sequence = 0, 1, 0
    sent: dict[int, int] = {}
    known, until = 0, 0
    for step, passed in steps:
        now += passed
        if step in ("ping", "lost ping"):
            sequence += 1
            sent[sequence] = now
            if step == "ping":
                stream.ping(sequence, known, now)
        elif step == "poll":
            clients.answer(now - passed // 2, applied)
        elif step == "change":
            applied += 1
            clients.invalidate([Change(applied, KEY)], applied, now)
        elif step == "deliver" and (sending := stream.fetch()) is not None:
            known = max(known, sending.revision)
            if sending.pong is not None:
                until = max(until, sent[sending.pong] + L)
        elif step == "close":
            stream.close()
        acknowledged = clients.acknowledged(applied, now)
        assert acknowledged <= applied
        if now < until:
            assert acknowledged <= known
