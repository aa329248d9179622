"""The database fails: the store says that it could not be asked, tries again where that may help, and tells nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doorward_server.core.errors import StoreUnavailable
from doorward_server.store import Store, dialect
from tests import databases
from tests.store import hands
from tests.store.values import NOW, QUOTAS, add_key, event, key, populate, principal, the_key

PASSWORD = "hunter2"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores opened from now on wait for nobody."""
    monkeypatch.setattr(dialect, "WAIT", 0.05)


@pytest.fixture
def postgresql_url(tmp_path: Path) -> Iterator[str]:
    with databases.fresh("postgresql", tmp_path) as url:
        yield url


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Store]:
    store = databases.open_store(postgresql_url)
    populate(store, "acme", "umbra")
    yield store
    store.close()


def end_all_connections(url: str) -> None:
    """As a restart of the server does."""
    with hands.at(url) as prompt:
        prompt.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://doorward:{PASSWORD}@127.0.0.1:1/doorward",
        f"postgresql://doorward:{PASSWORD}@/doorward?host=/nowhere",
        "sqlite:////proc/nowhere/doorward.db",
        "sqlite:////dev/null/doorward.db",
    ],
)
def test_a_store_that_cannot_be_reached_is_unavailable(url: str) -> None:
    store = databases.open_store(url)
    for ask in (
        lambda: store.find_record("aiia", "x"),
        lambda: store.list_organizations("", 9),
        store.check,
        lambda: store.add_principal(principal(), event()),
    ):
        with pytest.raises(StoreUnavailable) as failure:
            ask()
        assert failure.value.message == "The store cannot be reached. Try again; nothing was decided."
        assert PASSWORD not in repr(failure.value.__cause__)


@pytest.mark.parametrize("url", [f"postgresql://doorward:{PASSWORD}@127.0.0.1:1/x", "sqlite:////proc/nowhere/x.db"])
def test_migrating_a_store_that_cannot_be_reached(url: str) -> None:
    with pytest.raises(StoreUnavailable):
        databases.open_store(url).migrate()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database " * 1000)
    store = databases.open_store(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(StoreUnavailable):
        store.find_record("aiia", "x")
    store.close()


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_somebody_holds_is_waited_for_no_longer_than_agreed(store_url: str) -> None:
    store = databases.open_store(store_url)
    populate(store)
    with hands.at(store_url) as prompt:
        prompt.run("BEGIN" if prompt.postgresql else "BEGIN IMMEDIATE")
        prompt.run("UPDATE tally SET keys = keys WHERE organization = 'acme'")
        with pytest.raises(StoreUnavailable):
            store.add_key(key(), event(), QUOTAS)
        assert store.find_organization("acme") is not None, "readers do not wait"
        prompt.run("ROLLBACK")
    store.add_key(key(), event(), QUOTAS)
    assert store.verify_chain("acme").ok
    store.close()


@pytest.mark.usefixtures("impatient")
def test_no_more_connections_than_the_pool_has(monkeypatch: pytest.MonkeyPatch, store_url: str) -> None:
    monkeypatch.setattr(dialect, "POOL", 1)
    store = databases.open_store(store_url)
    populate(store)
    refused: list[BaseException] = []

    def ask() -> None:
        try:
            store.find_organization("acme")
        except StoreUnavailable as failure:
            refused.append(failure)

    def look_aside(it: Any, _: Any) -> None:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    store.update_organization("acme", look_aside)
    assert len(refused) == 1
    store.close()


def test_a_restarted_server_is_found_again(postgresql: Store, postgresql_url: str) -> None:
    barrier = threading.Barrier(4)

    def spread(_: Any) -> None:
        barrier.wait()

    threads = [threading.Thread(target=postgresql._look, args=(spread,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end_all_connections(postgresql_url)
    made = add_key(postgresql)
    end_all_connections(postgresql_url)
    assert postgresql.find_key("acme", made.id) == made
    end_all_connections(postgresql_url)
    assert postgresql.find_record("aiia", made.secrets[0].lookup).record is not None
    assert postgresql.verify_chain("acme").ok


def test_a_connection_that_breaks_before_the_commit_costs_nothing(postgresql: Store, postgresql_url: str) -> None:
    made = add_key(postgresql)
    calls: list[Any] = []

    def change(it: Any) -> Any:
        if not calls:
            end_all_connections(postgresql_url)
        calls.append(it)
        return it.update(NOW, name="x"), event()

    assert postgresql.update_key("acme", made.id, change).value.version == 2
    assert calls == [made, made], "once in vain, once for good"
    assert postgresql.verify_chain("acme").ok


def test_an_unknown_outcome_is_said_to_be_unknown(
    postgresql: Store, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not tried again: the change may have been made."""
    commits = []
    commit = postgresql._dialect.commit

    def broken() -> int:
        commits.append(1)
        end_all_connections(postgresql_url)
        return commit()

    monkeypatch.setattr(postgresql._dialect, "commit", broken)
    with pytest.raises(StoreUnavailable, match="Look whether it was made"):
        add_key(postgresql)
    assert commits == [1]


def test_a_deadlock_is_tried_again(postgresql: Store) -> None:
    """Two changes whose events go to each other's chain: the one way to lock two organizations out of order."""
    first, second = add_key(postgresql), add_key(postgresql, organization="umbra")
    meeting = threading.Barrier(2)
    met = threading.Event()

    def change(it: Any, other: str) -> Any:
        if not met.is_set():
            meeting.wait()
            met.set()
        return it.update(NOW, name="x"), event(other)

    crossed = [
        threading.Thread(target=postgresql.update_key, args=("acme", first.id, lambda it: change(it, "umbra"))),
        threading.Thread(target=postgresql.update_key, args=("umbra", second.id, lambda it: change(it, "acme"))),
    ]
    for thread in crossed:
        thread.start()
    for thread in crossed:
        thread.join()
    for organization, it in (("acme", first), ("umbra", second)):
        found = the_key(postgresql, it.id, organization)
        assert found.name == "x"
        assert postgresql.verify_chain(organization).ok


def test_nonsense_is_not_an_outage(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        store.update_organization("acme", lambda *_: 1 / 0)  # type: ignore[arg-type]  # no event
    store.add_key(key(), event(), QUOTAS)


def test_a_change_that_calls_the_store_is_a_mistake_of_ours(store: Store) -> None:
    for call in (store.revision, lambda: store.add_principal(principal(), event())):
        with pytest.raises(RuntimeError, match="must not call"):
            store.update_organization("acme", lambda *_: call())  # type: ignore[arg-type]  # no change  # noqa: B023
    store.add_key(key(), event(), QUOTAS)


def test_the_pool_gets_its_connections_back(store: Store) -> None:
    """Whatever happens meanwhile: more failures than there are connections."""
    for _ in range(dialect.POOL + 5):
        with pytest.raises(ZeroDivisionError):
            store.update_organization("acme", lambda *_: 1 / 0)  # type: ignore[arg-type]  # no event
        store.find_record("aiia", "x")
    store.add_key(key(), event(), QUOTAS)
