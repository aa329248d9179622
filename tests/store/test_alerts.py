"""Alerts in the store: once however many notice, in the order of their numbers, and counted over replicas.

The checks that `test_alert_plants.py` holds planted bugs to are functions of a store.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from doorward_server.core.alerts import HOUR, WEEK, Acknowledgement, Activity, AlertFilter, AlertKind, Failure
from doorward_server.core.errors import NotFound
from doorward_server.core.model import DAY, SECOND, Use
from doorward_server.core.usage import Cell, Cells, hour_of
from doorward_server.store import Store
from doorward_server.store.alerts import FailureCell, Place
from tests import databases
from tests.store.statements import counted
from tests.store.values import NOW, QUOTAS, add_key, alert, event, key, secret

BY_KEY = Failure("acme", "aiia", "key", "key_1")
WINDOW = 600 * SECOND
LENGTH = WINDOW // 10


def at_once(work: Callable[[], Any], times: int) -> list[Any]:
    """What *work* returns in as many threads that begin together."""
    begin, results = threading.Barrier(times), []

    def run() -> None:
        begin.wait(60)
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == times
    return results


# --- at most once -----------------------------------------------------------------------------------------------------


def check_two_replicas_tell_once(store: Store) -> None:
    for quiet in (0, WINDOW):
        spike = alert(topic=f"spike{quiet}", quiet=quiet)
        seen = at_once(partial(store.alerts.add, [spike]), 4)
        assert sum(map(len, seen)) == 1, seen
    assert [it.sequence for it in store.alerts.list_after("acme", 0, 10)] == [1, 2]


def check_a_topic_is_quiet_for_its_span(store: Store) -> None:
    """In no interval of the span's length are there two, wherever its beginning falls."""
    moments = range(NOW + 7 * LENGTH, NOW + 47 * LENGTH, LENGTH)
    told = [at for at in moments if store.alerts.add([alert(topic="t", quiet=WINDOW, at=at)])]
    assert len(told) == 4
    assert all(later - earlier >= WINDOW for earlier, later in itertools.pairwise(told))


def test_two_replicas_tell_once(store: Store) -> None:
    check_two_replicas_tell_once(store)


def test_a_topic_is_quiet_for_its_span(store: Store) -> None:
    check_a_topic_is_quiet_for_its_span(store)


def test_what_is_told_for_good_is_never_told_again(store: Store) -> None:
    assert store.alerts.add([alert(topic="expiry")])
    assert not store.alerts.add([alert(topic="expiry", at=NOW + 1000 * DAY)])


def test_topics_of_other_organizations_are_others(store: Store) -> None:
    (one, other) = store.alerts.add([alert("acme", "t"), alert("umbra", "t")])
    assert (one.organization, one.sequence) == ("acme", 1)
    assert (other.organization, other.sequence) == ("umbra", 1)
    assert store.alerts.list_after("umbra", 0, 10) == [other]


def test_an_alert_changes_no_decision_and_no_chain(store: Store) -> None:
    before = store.revision(), store.verify_chain("acme").length
    store.alerts.add([alert()])
    assert (store.revision(), store.verify_chain("acme").length) == before


# --- in order ---------------------------------------------------------------------------------------------------------


def test_numbers_have_no_gaps_and_whoever_follows_them_misses_nothing(store: Store) -> None:
    """Several replicas add at once; one that reads meanwhile never sees a number below what it has seen."""
    seen: list[int] = []
    done = threading.Event()

    def follow() -> None:
        while True:
            over = done.is_set()
            seen.extend(it.sequence for it in store.alerts.list_after("acme", seen[-1] if seen else 0, 100))
            if over:
                return

    reader = threading.Thread(target=follow)
    reader.start()
    at_once(lambda: [store.alerts.add([alert()]) for _ in range(15)], 4)
    done.set()
    reader.join(60)
    assert seen == list(range(1, 61))
    assert store.alerts.last_sequence("acme") == 60


def test_pruning_never_gives_a_number_twice(store: Store) -> None:
    store.alerts.add([alert(at=NOW + n) for n in range(3)])
    while store.alerts.prune(NOW, NOW + DAY):
        pass
    assert [it.sequence for it in store.alerts.list_after("acme", 0, 10)] == [3]
    assert [it.sequence for it in store.alerts.add([alert()])] == [4]


# --- listed and acknowledged ------------------------------------------------------------------------------------------


def test_alerts_are_found_by_what_they_are_about(store: Store) -> None:
    store.alerts.add(
        [
            alert(key="k1", at=NOW),
            alert(key="k2", kind=AlertKind.EXPIRING, at=NOW + 1),
            alert(keyspace="shop", at=NOW + 2, threshold=20, observed=23),
        ]
    )

    def found(**filter: Any) -> list[int]:
        return [it.sequence for it in store.alerts.list_some("acme", AlertFilter(**filter), None, 10)]

    assert found() == [3, 2, 1]
    assert found(key="k2") == [2]
    assert found(keyspace="shop") == [3]
    assert found(kind=AlertKind.LEAKED) == [3, 1]
    assert found(since=NOW + 1, until=NOW + 2) == [2]
    assert [it.sequence for it in store.alerts.list_some("acme", AlertFilter(), 3, 1)] == [2]


def test_what_is_kept_comes_back_as_it_was(store: Store) -> None:
    made = alert(threshold=20, expected=7, observed=23, quiet=WINDOW)
    (added,) = store.alerts.add([made])
    kept = store.alerts.find("acme", made.id)
    assert kept == added
    assert kept is not None
    assert (kept.id, kept.message, kept.expected, kept.observed) == (made.id, made.message, 7, 23)
    assert store.alerts.find("umbra", made.id) is None


def test_an_alert_is_acknowledged_once_and_audited(store: Store) -> None:
    (made,) = store.alerts.add([alert()])
    first, second = Acknowledgement(NOW, "acme/alice", "mine"), Acknowledgement(NOW + 1, "acme/bob", "no, mine")
    assert (
        store.alerts.acknowledge("acme", made.id, first, event(action="alerts:acknowledge")).value.acknowledgement
        == first
    )
    again = store.alerts.acknowledge("acme", made.id, second, event(action="alerts:acknowledge")).value
    assert again.acknowledgement == first
    actions = [it.event.action for it in store.list_events("acme", 0, 100)]
    assert actions.count("alerts:acknowledge") == 1
    assert store.alerts.list_some("acme", AlertFilter(unacknowledged=True), None, 10) == []


def test_what_is_not_there_is_not_acknowledged(store: Store) -> None:
    (made,) = store.alerts.add([alert("umbra")])
    before = store.verify_chain("acme").length
    with pytest.raises(NotFound):
        store.alerts.acknowledge("acme", made.id, Acknowledgement(NOW, "acme/alice", ""), event())
    assert store.verify_chain("acme").length == before


# --- failures of all replicas -----------------------------------------------------------------------------------------


def failures(count: int, at: int = NOW, **changes: Any) -> FailureCell:
    cell = at - at % LENGTH
    return FailureCell(BY_KEY._replace(**changes), "failures", cell, cell + WINDOW, cell - WINDOW, count)


def check_failures_of_all_replicas_within_the_window_count(store: Store, url: str) -> None:
    other = databases.open_store(url)
    try:
        assert store.alerts.count_failures([failures(3)]) == [3]
        assert other.alerts.count_failures([failures(4)]) == [7]
        assert other.alerts.count_failures([failures(1, NOW + WINDOW - LENGTH)]) == [8]
        assert store.alerts.count_failures([failures(1, NOW + WINDOW)]) == [2], "the first cell is out of the window"
    finally:
        other.close()


def test_failures_of_all_replicas_within_the_window_count(store: Store, store_url: str) -> None:
    check_failures_of_all_replicas_within_the_window_count(store, store_url)


def test_subjects_are_counted_apart(store: Store) -> None:
    cells = [failures(1), failures(2, subject="key_2"), failures(4, organization="umbra"), failures(8, keyspace="shop")]
    assert store.alerts.count_failures(cells) == [1, 2, 4, 8]


def test_cells_go_once_no_window_has_them(store: Store) -> None:
    store.alerts.count_failures([failures(3)])
    while store.alerts.prune(NOW + 2 * WINDOW, 0):
        pass
    assert store.alerts.count_failures([failures(1)]) == [1]


# --- what a key usually does ------------------------------------------------------------------------------------------


def used(store: Store, key: str, hour: int, count: int, organization: str = "acme") -> None:
    cells = Cells()
    for reason, part in (("ALLOWED", count - count // 3), ("SCOPE_INSUFFICIENT", count // 3)):
        cells.cells[Cell(organization, key, hour_of(hour), "aiia", "alice", "flows:read", "flows/1", reason)] = part
    store.usage.add(f"{organization}/{key}/{hour}/{count}", 1, cells, NOW)


WEEKS_BEFORE = [hour_of(NOW) - n * WEEK for n in (1, 2, 3, 4)]


def busy_now(store: Store, least: int) -> list[Activity]:
    return store.alerts.list_busy("aiia", hour_of(NOW), least, WEEKS_BEFORE, lambda organization, count: True)


def check_the_baseline_is_the_keys_own(store: Store) -> None:
    before = WEEKS_BEFORE
    mine = add_key(store, created_at=NOW - 22 * DAY, id="key_mine")
    other = add_key(store, created_at=NOW - 22 * DAY, id="key_other")
    used(store, mine.id, NOW, 900)
    used(store, other.id, NOW, 30)
    for n, count in enumerate((10, 20, 30, 40)):
        used(store, mine.id, before[n], count)
        used(store, other.id, before[n], 10_000)
        used(store, mine.id, before[n] + HOUR, 10_000)
        used(store, mine.id, before[n], 10_000, organization="umbra")
    used(store, "key_gone", before[3] - HOUR, 1)
    (busy,) = busy_now(store, 100)
    assert (busy.key, busy.count) == (mine.id, 900)
    assert busy.before == (10, 20, 30), "the fourth week is from before it was made"


def test_the_baseline_is_the_keys_own(store: Store) -> None:
    check_the_baseline_is_the_keys_own(store)


def test_what_was_never_counted_is_no_baseline(store: Store) -> None:
    """Of a product that was taken in last week with old keys, or whose older counts are gone, nothing is usual yet."""
    old = add_key(store, created_at=NOW - 300 * DAY, id="key_old")
    used(store, old.id, NOW, 900)
    assert [it.before for it in busy_now(store, 100)] == [()]
    used(store, "key_gone", WEEKS_BEFORE[1], 1)
    assert [it.before for it in busy_now(store, 100)] == [(0,)], "of the first hour, perhaps only a part was counted"
    used(store, "key_gone", WEEKS_BEFORE[1] - HOUR, 1)
    assert [it.before for it in busy_now(store, 100)] == [(0, 0)]


def test_what_a_key_did_before_it_was_imported_is_no_baseline(store: Store) -> None:
    """Doorward counted none of that, although the key is old, and others of the keyspace were counted."""
    used(store, "key_other", WEEKS_BEFORE[3] - HOUR, 1)
    old = key(created_at=NOW - 300 * DAY, id="key_old")
    taken_in = event("acme", "keys:import", old.id, target_type="key", at=WEEKS_BEFORE[1] + DAY)
    store.add_key(old, taken_in, QUOTAS)
    store.update_key("acme", old.id, lambda it: (it, replace(taken_in, at=NOW)))
    used(store, old.id, NOW, 900)
    assert [it.before for it in busy_now(store, 100)] == [(0,)]


def test_of_what_is_not_much_for_its_organization_nothing_more_is_read(store: Store) -> None:
    for organization in ("acme", "umbra"):
        made = add_key(store, id=f"key_{organization}", organization=organization)
        used(store, made.id, NOW, 900, organization=organization)
    asked: list[tuple[str, int]] = []

    def much(organization: str, count: int) -> bool:
        asked.append((organization, count))
        return organization == "umbra"

    busy = store.alerts.list_busy("aiia", hour_of(NOW), 100, WEEKS_BEFORE, much)
    assert [it.key for it in busy] == ["key_umbra"]
    assert sorted(asked) == [("acme", 900), ("umbra", 900)]


def test_a_look_at_an_hour_reads_no_other_hour(store: Store, store_url: str) -> None:
    if not store_url.startswith("sqlite"):
        pytest.skip("PostgreSQL goes by how many there are")
    with counted(store) as statements:
        busy_now(store, 100)
    (sql,) = [it for it in statements if "GROUP BY" in it]
    plan = [row[3] for row in store._look(lambda tx: tx.ask(f"EXPLAIN QUERY PLAN {sql}", "aiia", hour_of(NOW), 100))]
    assert "SEARCH usage_cell USING INDEX usage_cell_keyspace (keyspace=? AND hour=?)" in plan


# --- what is due ------------------------------------------------------------------------------------------------------

NOWHERE = ("", "")


def due(store: Store, kind: AlertKind, *bounds: object) -> list[str]:
    found, end = store.alerts.list_due("aiia", kind, bounds, NOWHERE, 100)
    assert end is None
    return [it.id for it in found]


def test_keys_that_expire_within_a_span_are_found(store: Store) -> None:
    for id, left in (("past", 0), ("soon", 1), ("late", DAY), ("later", DAY + 1)):
        add_key(store, id=id, expires_at=NOW + left)
    add_key(store, id="never")
    add_key(store, id="gone", expires_at=NOW + 2, revoked_at=NOW)
    assert due(store, AlertKind.EXPIRING, NOW, NOW + DAY) == ["late", "soon"]


def test_unused_keys_are_found_until_they_are_told_of(store: Store) -> None:
    made, limit = NOW - 100 * DAY, NOW - 90 * DAY
    used_key = add_key(store, id="used", created_at=made)
    add_key(store, id="never", created_at=made)
    add_key(store, id="new", created_at=NOW)
    store.record_uses([Use("acme", "used", used_key.secrets[0].id, NOW - 91 * DAY)])
    assert due(store, AlertKind.UNUSED, limit, "idle") == ["never", "used"]
    store.alerts.add([alert(subject="never", rule="idle", kind=AlertKind.UNUSED)])
    assert due(store, AlertKind.UNUSED, limit, "idle") == ["used"]
    assert due(store, AlertKind.UNUSED, limit, "another rule") == ["never", "used"]
    store.record_uses([Use("acme", "used", used_key.secrets[0].id, NOW)])
    assert due(store, AlertKind.UNUSED, limit, "idle") == []


def test_the_newest_secret_says_whether_a_rotation_is_due(store: Store) -> None:
    old, limit = NOW - 100 * DAY, NOW - 90 * DAY
    add_key(store, id="old", secrets=(secret(created_at=old),))
    kept = add_key(store, id="rotated", secrets=(secret(created_at=old),))
    new = secret(created_at=NOW)
    store.update_key("acme", kept.id, lambda key: (key.rotate(new, NOW, 0), event()))
    assert due(store, AlertKind.ROTATION_OVERDUE, limit, "overdue") == ["old"]
    store.alerts.add([alert(subject="old", rule="overdue", kind=AlertKind.ROTATION_OVERDUE)])
    assert due(store, AlertKind.ROTATION_OVERDUE, limit, "overdue") == []


def test_keys_are_paged_over_all_organizations(store: Store) -> None:
    for organization in ("acme", "umbra"):
        for n in range(3):
            add_key(store, id=f"key_{organization}_{n}", organization=organization, expires_at=NOW + 1)
        add_key(store, id=f"key_{organization}_1x", organization=organization, expires_at=NOW + DAY)
    after: Place | None = NOWHERE
    found, looks = [], []
    while after is not None:
        page, after = store.alerts.list_due("aiia", AlertKind.EXPIRING, (NOW, NOW + 1), after, 2)
        found += [it.id for it in page]
        looks.append(len(page))
    assert looks == [2, 1, 2, 1, 0], "each is over two keys, whatever is found among them"
    assert found == [f"key_{organization}_{n}" for organization in ("acme", "umbra") for n in range(3)]


def test_periodic_work_is_due_once_over_all_replicas(store: Store) -> None:
    assert sum(at_once(lambda: store.alerts.is_due("sweep", NOW, DAY), 4)) == 1
    assert not store.alerts.is_due("sweep", NOW + DAY - 1, DAY)
    assert store.alerts.is_due("other", NOW, DAY)
    assert store.alerts.is_due("sweep", NOW + DAY, DAY)
    assert store.alerts.is_due("sweep", NOW - 1, DAY), "the clock that said so was ahead of time"
