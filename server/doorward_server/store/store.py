"""The one store. Every public method is one transaction; values go in and come out, rows never leave.

`find_` returns None where nothing is, `list_` pages, changes raise NotFound. A change of something that exists is a
pure function handed in: it is given what is there, locked, and returns what shall be, with its audit event, or None to
leave it. It may be called again on a retry. All methods may be called from any thread and raise StoreUnavailable if
the database cannot be asked: then nothing was changed, unless its message says that this is not known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from doorward_server.core.audit import ChainReport, EventFilter, StoredEvent
from doorward_server.core.directory import Organization
from doorward_server.core.holders import Holders
from doorward_server.core.model import (
    Event,
    Instant,
    Key,
    KeyFilter,
    Quotas,
    Replay,
    Sealed,
    StoredKeyspace,
    Use,
)
from doorward_server.core.rails import ActiveLimit

from . import (
    audit,
    bulk,
    entities,
    expiries,
    keys,
    keyspaces,
    last_uses,
    migrate,
    records,
    sealed,
    stranding,
)
from .acknowledgements import kept_for
from .alert_rules import AlertRuleStore
from .alerts import AlertStore
from .audit_store import AuditStore
from .changes import prune
from .credits import CreditStore
from .dialect import open_dialect
from .directory_store import DirectoryStore
from .entities import KEYSPACES
from .facts import FactStore
from .keys import ChangeKey
from .keyspaces import ChangeKeyspace
from .limits import LimitStore
from .peppers import PepperStore
from .replicas import ReplicaStore
from .rows import REVISION
from .tail import TailConnection, open_tail
from .transaction import Transactions
from .usage import UsageStore
from .values import (
    About,
    Imported,
    KeyspaceSnapshot,
    PrincipalSnapshot,
    Snapshot,
    StoredFacts,
    Written,
)
from .webhooks import WebhookStore

T = TypeVar("T")


class Store(DirectoryStore):
    """Everything Doorward keeps, on one SQLite file or in PostgreSQL."""

    def __init__(self, url: str, *, audit_keys: Callable[[int], bytes], pepper: int | Callable[[], int]) -> None:
        """Open nothing yet. *audit_keys* gives the key of the audit chains by pepper version, *pepper* is the version
        for new events, or tells it.

        *url* is `sqlite:///relative`, `sqlite:////absolute` or `postgresql://…`; ValueError if not.
        """
        self._dialect = open_dialect(url)
        self._seal = audit.Seal(audit_keys, pepper if callable(pepper) else lambda: pepper)
        transactions = Transactions(self._dialect, self._seal)
        super().__init__(transactions)
        self.audit = AuditStore(transactions, self._seal)
        self.facts = FactStore(transactions)
        self.peppers = PepperStore(transactions)
        self.usage = UsageStore(transactions)
        self.webhooks = WebhookStore(transactions)
        self.alerts = AlertStore(transactions)
        self.alert_rules = AlertRuleStore(transactions)
        self.limits = LimitStore(transactions)
        self.credits = CreditStore(transactions)
        self.replicas = ReplicaStore(transactions, kept_for(self._dialect))
        self._migrating = threading.RLock()
        self._locks = 0

    # --- the store itself ---------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the migration lock: one process, one thread at a time. The same thread may take it again."""
        with self._migrating:
            if self._locks:
                yield
                return
            with self._dialect.migration_lock():
                self._locks += 1
                try:
                    yield
                finally:
                    self._locks -= 1

    def migrate(self) -> None:
        """Bring the schema up to date and the change log's triggers in order, under the lock.

        Raises StoreNotReady if the store belongs to a newer Doorward.
        """
        with self.lock():
            migrate.migrate(self._dialect)

    def is_current(self) -> bool:
        """Tell whether the schema is up to date. Raises StoreNotReady if the store belongs to a newer Doorward."""
        with self.lock():
            return migrate.is_current(self._dialect)

    def check(self) -> None:
        """Raise StoreNotReady, saying what to do, unless schema and change log are exactly as they must be.

        Logs a warning for a SQLite library that may lose commits.
        """
        self._read(lambda tx: migrate.check(self._dialect, tx.dialect.database))

    def close(self) -> None:
        """Close all connections of this process. The next call opens new ones."""
        self._dialect.database.close_all()

    def revision(self) -> int:
        """Return the commit counter: every change that a decision can see makes it larger."""
        row = self._look(lambda tx: tx.row(REVISION.select(REVISION.value)))
        return int(row[0]) if row else 0

    def open_tail(self, max_staleness: int) -> TailConnection:
        """Open what a replica follows the change log with, if its caches live *max_staleness* microseconds."""
        return open_tail(self._dialect, max_staleness)

    def prune_changes(self, keep: int = 100_000) -> int:
        """Remove about 1,000 rows of the change log that are over *keep* revisions old; return how many: call until 0.

        A replica that has not read them yet sees that they are gone, and begins anew.
        """
        return self._write(lambda tx: prune(tx, keep)).value

    # --- what decisions read ------------------------------------------------------------------------------------------

    def find_record(self, keyspace: str, lookup: str) -> Snapshot:
        """Return all that a decision about the secret with this *lookup* needs, from one snapshot."""
        return self._look(lambda _: records.find_record(self._dialect, keyspace, lookup))

    def find_principal_record(self, organization: str, principal: str, keyspace: str) -> PrincipalSnapshot:
        """Return all that a decision about this principal needs, from one snapshot."""
        return self._look(lambda _: records.find_principal_record(self._dialect, organization, principal, keyspace))

    def find_facts(
        self,
        organization: str,
        keyspace: str,
        abouts: Sequence[About],
        principal: str = "",
        groups: Collection[str] = (),
    ) -> tuple[StoredFacts, ...]:
        """Return, for each of *abouts*, what is kept about it and how *principal* and *groups* are related to it.

        An about is (resource, parent); the parent counts only if none is kept. One indexed read each, all of them from
        one snapshot.
        """
        asked = (organization, keyspace, abouts, principal, groups)
        read = self._look if len(abouts) == 1 else self._read
        return read(lambda _: records.find_facts(self._dialect, *asked))

    def find_record_with_facts(
        self, keyspace: str, lookup: str, abouts: Sequence[About]
    ) -> tuple[Snapshot, tuple[StoredFacts, ...]]:
        """Return a record and what is kept about resources of its organization, from one snapshot; no record, no facts.

        *abouts* are as in `find_facts`.
        """
        return self._read(lambda _: records.find_record_with_facts(self._dialect, keyspace, lookup, abouts))

    def find_principal_record_with_facts(
        self, organization: str, principal: str, keyspace: str, abouts: Sequence[About]
    ) -> tuple[PrincipalSnapshot, tuple[StoredFacts, ...]]:
        """Return a principal's record and what is kept about resources of its organization, from one snapshot."""
        asked = (organization, principal, keyspace, abouts)
        return self._read(lambda _: records.find_principal_record_with_facts(self._dialect, *asked))

    def find_keyspace_record(self, name: str) -> KeyspaceSnapshot:
        """Return a keyspace with the revision that it was read at."""
        return self._look(lambda _: records.find_keyspace_record(self._dialect, name))

    # --- keys ---------------------------------------------------------------------------------------------------------

    def add_key(
        self,
        key: Key,
        event: Event,
        quotas: Quotas,
        replay: Replay | None = None,
        limit: ActiveLimit | None = None,
    ) -> Written[Key]:
        """Add a key. A *replay* within 24 hours gives the key made then, deleted or not, and adds nothing.

        With a *limit*, its owner has no more active keys afterwards than that: `replaced` names those that went.
        Raises NotFound (organization), OrganizationIsDisabled, UnknownReference (owner, keyspace), PrincipalIsDisabled,
        TooManyActiveKeys, QuotaExceeded, RequestIdReused, LookupTaken.
        """
        return self._write(lambda tx: keys.add(tx, key, event, quotas, replay, limit))

    def find_key(self, organization: str, id: str) -> Key | None:
        """Return a key with all its secrets and last uses; None also for a deleted one."""
        return self._read(lambda tx: keys.find_one(tx, organization, id))

    def list_keys(
        self, organization: str, filter: KeyFilter, after: tuple[Instant, str] | None, limit: int, now: Instant
    ) -> list[Key]:
        """Return keys, newest first, behind *after* = (created_at, id) of the last one seen; states are at *now*."""
        return self._read(lambda tx: keys.list_some(tx, organization, filter, after, limit, now))

    def update_key(
        self,
        organization: str,
        id: str,
        change: ChangeKey,
        replay: Replay | None = None,
        limit: ActiveLimit | None = None,
        quotas: Quotas | None = None,
    ) -> Written[Key]:
        """Apply *change* to a key. A *replay* within 24 hours gives the key as it is, and *change* is not called.

        A *limit* counts for a key that *change* makes active, as in `add_key`; one that is so already stays.
        *quotas* bound what its metadata may grow to. Raises NotFound, RequestIdReused, LookupTaken (a new secret's),
        TooManyActiveKeys, QuotaExceeded, and what *change* raises.
        """
        return self._write(lambda tx: keys.update(tx, organization, id, change, replay, limit, quotas))

    def find_imported(self, organization: str, keyspace: str, external_ids: Sequence[str]) -> dict[str, str]:
        """Return the ids of the keys with these external ids, by external id; revoked and deleted ones are found."""
        return self._read(lambda tx: bulk.find_imported(tx, organization, keyspace, external_ids))

    def import_keys(
        self,
        organization: str,
        keyspace: str,
        wanted: Sequence[tuple[Key, Event]],
        quotas: Quotas,
        limit: ActiveLimit | None,
        *,
        dry_run: bool,
    ) -> Written[list[Imported]]:
        """Add keys of one keyspace, each with one secret, or say for each why not; with *dry_run* add none.

        Raises NotFound (organization), OrganizationIsDisabled, and LookupTaken if another organization took a lookup
        just now: call again.
        """
        return self._write(lambda tx: bulk.take_in(tx, organization, keyspace, wanted, quotas, limit, dry_run))

    def list_unrevoked_keys(self, organization: str, filter: KeyFilter, now: Instant) -> list[str]:
        """Return the ids of all unrevoked keys that *filter* finds at *now*, newest first."""
        return self._look(lambda tx: bulk.list_live(tx, organization, filter, now))

    def revoke_keys(
        self, organization: str, ids: Sequence[str], filter: KeyFilter, change: ChangeKey, now: Instant
    ) -> Written[list[Key]]:
        """Apply *change* to those of *ids*, at most 1,000, that *filter* still finds unrevoked; return the changed."""
        return self._write(lambda tx: bulk.revoke(tx, organization, ids, filter, change, now))

    def reveal_key(
        self, organization: str, id: str, read: Callable[[Key, Sealed | None], tuple[T, Event]]
    ) -> Written[T]:
        """Return what *read* makes of a key and its newest secret's sealed text, once its event is committed.

        Raises NotFound, and what *read* raises.
        """
        return self._write(lambda tx: sealed.reveal(tx, organization, id, read))

    def find_sealed(self, organization: str, key: str, secret: str) -> Sealed | None:
        """Return a secret's sealed text; None if it is not kept, or no longer."""
        return self._read(lambda tx: sealed.find_sealed(tx, organization, key, secret))

    def count_keys(self, organization: str, owner: str | None = None) -> int:
        """Count unrevoked keys, expired and disabled ones among them; of one owner, or of all and none."""
        return self._look(lambda tx: bulk.count(tx, organization, owner))

    def revoke_keys_of(self, organization: str, owner: str, change: ChangeKey, limit: int = keys.CHUNK) -> Written[int]:
        """Apply *change* to the next *limit* unrevoked keys of an owner; return how many it changed. Call until 0."""
        return self._write(lambda tx: bulk.revoke_some(tx, organization, owner, change, limit))

    def list_unmarked_expiries(self, since: Instant, now: Instant, limit: int) -> list[tuple[str, str]]:
        """Return (organization, key) of up to *limit* keys whose expiry, from *since* to *now*, has no event."""
        return self._look(lambda tx: expiries.list_unmarked(tx, since, now, limit))

    def mark_expiries(self, organization: str, ids: Sequence[str], now: Instant) -> Written[int]:
        """Write the event for each of *ids*, at most 1,000, that has passed its expiry; return how many lacked it.

        Whoever comes second writes none. Makes no revision: decisions have seen the expiry by themselves.
        """
        return self._write(lambda tx: expiries.mark(tx, organization, ids, now))

    def record_uses(self, uses: Iterable[Use]) -> None:
        """Keep when keys and secrets were last used; never goes back in time, ignores what does not exist.

        Makes no revision. One transaction for each 1,000: after a failure some may be kept; send all again.
        """
        for chunk in last_uses.chunks(list(uses)):
            self._write(lambda tx, chunk=chunk: last_uses.record(tx, chunk))  # type: ignore[misc]  # bound per turn

    # --- keyspaces and the first start --------------------------------------------------------------------------------

    def apply_keyspace(self, name: str, change: ChangeKeyspace) -> Written[StoredKeyspace]:
        """Apply *change* to a keyspace, or to None if there is none yet: then it must make one."""
        return self._write(lambda tx: keyspaces.apply(tx, name, change))

    def find_keyspace(self, name: str) -> StoredKeyspace | None:
        """Return a keyspace."""
        return self._look(lambda tx: entities.find(tx, KEYSPACES, name))

    def list_keyspaces(self, after: str, limit: int) -> list[StoredKeyspace]:
        """Return keyspaces by name, behind the name *after*."""
        return self._look(lambda tx: entities.page(tx, KEYSPACES, {}, after, limit))

    def count_holders(self, keyspace: str, now: Instant, *, names: bool) -> Holders:
        """Count a keyspace's live keys and its bindings, in all organizations; with *names*, keys by name, too."""
        return self._read(lambda tx: stranding.count_holders(tx, keyspace, now, names=names))

    def add_operator(
        self, organization: Organization, keyspace: StoredKeyspace, key: Key, events: Sequence[Event]
    ) -> bool:
        """Make the operator's organization, the built-in keyspace and the root key, all or none.

        False, and nothing, if there is, or was, any organization. Call it under `lock`.
        """
        return self._write(lambda tx: keyspaces.add_operator(tx, organization, keyspace, key, events)).value

    # --- the audit log ------------------------------------------------------------------------------------------------

    def list_events(self, organization: str, after_sequence: int, limit: int) -> list[StoredEvent]:
        """Return the organization's events, oldest first, behind the sequence *after_sequence*."""
        return self.audit.list_some(organization, EventFilter(), after_sequence, limit, oldest_first=True).events

    def verify_chain(self, organization: str) -> ChainReport:
        """Compute the organization's audit chain anew, page by page; raises what *audit_keys* raises."""
        return self.audit.verify(organization)
