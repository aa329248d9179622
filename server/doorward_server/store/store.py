"""The one store. Every public method is one transaction; values go in and come out, rows never leave.

`find_` returns None where nothing is, `list_` pages, changes raise NotFound. A change of something that exists is a
pure function handed in: it is given what is there, locked, and returns what shall be, with its audit event, or None to
leave it. It may be called again on a retry. All methods may be called from any thread and raise StoreUnavailable if
the database cannot be asked: then nothing was changed, unless its message says that this is not known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from doorward_server.core.model import (
    Binding,
    Event,
    Group,
    Instant,
    Key,
    KeyFilter,
    Organization,
    Principal,
    Quotas,
    Replay,
    Sealed,
    StoredKeyspace,
    Use,
)
from doorward_server.core.rails import ActiveLimit

from . import audit, bulk, directory, entities, expiries, keys, keyspaces, last_uses, migrate, records, sealed
from .acknowledgements import kept_for
from .changes import prune
from .dialect import open_dialect
from .directory import ChangeBinding, ChangeGroup, ChangeOrganization, ChangePrincipal
from .entities import BINDINGS, GROUPS, KEYSPACES, ORGANIZATIONS, PRINCIPALS
from .keys import ChangeKey
from .keyspaces import ChangeKeyspace
from .peppers import PepperStore
from .replicas import ReplicaStore
from .rows import REVISION
from .tail import TailConnection, open_tail
from .transaction import Transactions
from .values import ChainReport, Imported, KeyspaceSnapshot, PrincipalSnapshot, Snapshot, StoredEvent, Written

T = TypeVar("T")


class Store:
    """Everything Doorward keeps, on one SQLite file or in PostgreSQL."""

    def __init__(self, url: str, *, audit_keys: Callable[[int], bytes], pepper: int | Callable[[], int]) -> None:
        """Open nothing yet. *audit_keys* gives the key of the audit chains by pepper version, *pepper* is the version
        for new events, or tells it.

        *url* is `sqlite:///relative`, `sqlite:////absolute` or `postgresql://…`; ValueError if not.
        """
        self._dialect = open_dialect(url)
        self._seal = audit.Seal(audit_keys, pepper if callable(pepper) else lambda: pepper)
        transactions = Transactions(self._dialect, self._seal)
        self._write, self._read, self._look = transactions.write, transactions.read, transactions.look
        self.peppers = PepperStore(transactions)
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

    # --- organizations ------------------------------------------------------------------------------------------------

    def add_organization(self, organization: Organization, event: Event) -> Written[Organization]:
        """Add an organization. Raises AlreadyExists, also if it was deleted."""
        return self._write(lambda tx: directory.add_organization(tx, organization, event))

    def find_organization(self, id: str) -> Organization | None:
        """Return an organization; None also for a deleted one."""
        return self._look(lambda tx: entities.find(tx, ORGANIZATIONS, id))

    def list_organizations(self, after: str, limit: int) -> list[Organization]:
        """Return organizations by id, behind the id *after*."""
        return self._look(lambda tx: entities.page(tx, ORGANIZATIONS, {}, after, limit))

    def update_organization(self, id: str, change: ChangeOrganization) -> Written[Organization]:
        """Apply *change*; its second argument counts the organization's unrevoked keys. Raises NotFound."""
        return self._write(lambda tx: directory.change_organization(tx, id, change))

    def delete_organization(self, id: str, change: ChangeOrganization) -> Written[Organization]:
        """Apply a *change* that sets `deleted_at`. All that is in it stays where it is, and no longer works."""
        return self._write(lambda tx: directory.change_organization(tx, id, change))

    # --- principals ---------------------------------------------------------------------------------------------------

    def add_principal(self, principal: Principal, event: Event) -> Written[Principal]:
        """Add a principal. Raises NotFound (organization), AlreadyExists, also if it was deleted."""
        return self._write(lambda tx: directory.add_principal(tx, principal, event))

    def find_principal(self, organization: str, id: str) -> Principal | None:
        """Return a principal; None also for a deleted one."""
        return self._look(lambda tx: entities.find(tx, PRINCIPALS, organization, id))

    def list_principals(self, organization: str, after: str, limit: int) -> list[Principal]:
        """Return principals by id, behind the id *after*."""
        return self._look(lambda tx: entities.page(tx, PRINCIPALS, {"organization": organization}, after, limit))

    def update_principal(self, organization: str, id: str, change: ChangePrincipal) -> Written[Principal]:
        """Apply *change*; its second argument counts the principal's unrevoked keys. Raises NotFound."""
        return self._write(lambda tx: directory.update_principal(tx, organization, id, change)[0])

    def delete_principal(self, organization: str, id: str, change: ChangePrincipal) -> Written[Principal]:
        """Apply a *change* that sets `deleted_at`; bindings and memberships go. `revoke_keys_of` ends its keys."""
        return self._write(lambda tx: directory.delete_principal(tx, organization, id, change))

    # --- groups -------------------------------------------------------------------------------------------------------

    def add_group(self, group: Group, event: Event) -> Written[Group]:
        """Add a group. Raises NotFound (organization), AlreadyExists, also if it was deleted."""
        return self._write(lambda tx: directory.add_group(tx, group, event))

    def find_group(self, organization: str, id: str) -> Group | None:
        """Return a group; None also for a deleted one."""
        return self._look(lambda tx: entities.find(tx, GROUPS, organization, id))

    def list_groups(self, organization: str, after: str, limit: int) -> list[Group]:
        """Return groups by id, behind the id *after*."""
        return self._look(lambda tx: entities.page(tx, GROUPS, {"organization": organization}, after, limit))

    def update_group(self, organization: str, id: str, change: ChangeGroup) -> Written[Group]:
        """Apply *change*. Raises NotFound."""
        return self._write(lambda tx: directory.update_group(tx, organization, id, change))

    def delete_group(self, organization: str, id: str, change: ChangeGroup) -> Written[Group]:
        """Apply a *change* that sets `deleted_at`; bindings and memberships go."""
        return self._write(lambda tx: directory.delete_group(tx, organization, id, change))

    def add_group_member(self, organization: str, group: str, principal: str, event: Event) -> Written[bool]:
        """Put a principal into a group; False, and no event, if it was in it. Raises NotFound, UnknownReference."""
        return self._write(lambda tx: directory.add_member(tx, organization, group, principal, event))

    def remove_group_member(self, organization: str, group: str, principal: str, event: Event) -> Written[bool]:
        """Take a principal out of a group; False, and no event, if it was not in it. Raises NotFound."""
        return self._write(lambda tx: directory.remove_member(tx, organization, group, principal, event))

    def list_group_members(self, organization: str, group: str, after: str, limit: int) -> list[str]:
        """Return the principals of a group by id, behind the id *after*; none for a group that does not exist."""
        return self._look(lambda tx: directory.list_members(tx, organization, group, after, limit))

    # --- bindings -----------------------------------------------------------------------------------------------------

    def add_binding(self, binding: Binding, event: Event, quotas: Quotas) -> Written[Binding]:
        """Add a binding. Raises NotFound (organization), UnknownReference, QuotaExceeded, AlreadyExists."""
        return self._write(lambda tx: directory.add_binding(tx, binding, event, quotas))

    def find_binding(self, organization: str, id: str) -> Binding | None:
        """Return a binding."""
        return self._look(lambda tx: entities.find(tx, BINDINGS, organization, id))

    def list_bindings(
        self,
        organization: str,
        principal: str = "",
        group: str = "",
        keyspace: str = "",
        after: str = "",
        limit: int = 50,
    ) -> list[Binding]:
        """Return bindings by id, behind the id *after*. Those of a group are not those of its members."""
        return self._look(
            lambda tx: directory.list_bindings(tx, organization, principal, group, keyspace, after, limit)
        )

    def list_held_bindings(self, organization: str, principal: str) -> list[Binding]:
        """Return all that a principal holds in all keyspaces, itself and by its groups, by id."""
        return self._look(lambda tx: directory.held_bindings(tx, organization, principal))

    def update_binding(self, organization: str, id: str, change: ChangeBinding) -> Written[Binding]:
        """Apply *change*. Raises NotFound."""
        return self._write(lambda tx: directory.update_binding(tx, organization, id, change))

    def delete_binding(self, organization: str, id: str, event: Event) -> Written[None]:
        """Remove a binding. Raises NotFound."""
        return self._write(lambda tx: directory.delete_binding(tx, organization, id, event))

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
        return self._look(lambda tx: audit.list_events(tx, organization, after_sequence, limit))

    def verify_chain(self, organization: str) -> ChainReport:
        """Compute the organization's audit chain anew. Reads all of it; raises what *audit_keys* raises."""
        return self._read(lambda tx: audit.verify(tx, self._seal, organization))
