"""The directory's part of the store: organizations, principals, groups, bindings. `Store` says what holds for all."""

from __future__ import annotations

from doorward_server.core.directory import Binding, Group, Organization, Principal, SubjectKind
from doorward_server.core.model import Event, Quotas

from . import directory, entities, nesting
from .directory import ChangeBinding, ChangeGroup, ChangeOrganization, ChangePrincipal
from .entities import BINDINGS, GROUPS, ORGANIZATIONS, PRINCIPALS
from .transaction import Transactions
from .values import Written


class DirectoryStore:
    """Who there is and who holds what. Every public method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._write, self._read, self._look = transactions.write, transactions.read, transactions.look

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
        """Apply a *change* that sets `deleted_at`. Its alert rules go; all else in it stays, and no longer works."""
        return self._write(lambda tx: directory.delete_organization(tx, id, change))

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
        """Apply a *change* that sets `deleted_at`; bindings and memberships go.

        `Store.revoke_keys_of` ends its keys, `FactStore.drop_relations_of` its relations.
        """
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
        """Apply a *change* that sets `deleted_at`; bindings, members and memberships go.

        `FactStore.drop_relations_of` ends its relations.
        """
        return self._write(lambda tx: directory.delete_group(tx, organization, id, change))

    def add_group_member(
        self, organization: str, group: str, kind: SubjectKind, member: str, event: Event
    ) -> Written[bool]:
        """Put a principal or a group into a group; False, and no event, if it was in it.

        Raises NotFound, UnknownReference, GroupCycle, QuotaExceeded (groups within each other).
        """
        return self._write(lambda tx: directory.add_member(tx, organization, group, kind, member, event))

    def remove_group_member(
        self, organization: str, group: str, kind: SubjectKind, member: str, event: Event
    ) -> Written[bool]:
        """Take a principal or a group out of a group; False, and no event, if it was not in it. Raises NotFound."""
        return self._write(lambda tx: directory.remove_member(tx, organization, group, kind, member, event))

    def list_group_members(
        self, organization: str, group: str, after: tuple[str, str], limit: int
    ) -> list[tuple[SubjectKind, str]]:
        """Return groups, then principals, that are in a group themselves, behind *after* = (kind, id); ("", "") is the
        beginning. None for a group that does not exist.
        """
        return self._read(lambda tx: directory.list_members(tx, organization, group, after, limit))

    def list_groups_around(self, organization: str, group: str) -> list[str]:
        """Return a group and all that it is in, by way of others included, by id: what these hold, its members do."""
        return self._read(lambda tx: nesting.groups_around(tx, organization, group))

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
        return self._read(lambda tx: directory.held_bindings(tx, organization, principal))

    def update_binding(self, organization: str, id: str, change: ChangeBinding) -> Written[Binding]:
        """Apply *change*. Raises NotFound."""
        return self._write(lambda tx: directory.update_binding(tx, organization, id, change))

    def delete_binding(self, organization: str, id: str, event: Event) -> Written[None]:
        """Remove a binding. Raises NotFound."""
        return self._write(lambda tx: directory.delete_binding(tx, organization, id, event))
