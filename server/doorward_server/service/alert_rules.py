"""Alert rules of organizations: set, listed, deleted. Whoever notices something has them from `own_rules`."""

from __future__ import annotations

from collections.abc import Sequence

from doorward_server.core.alert_rules import (
    LONGEST,
    ListedRule,
    OwnRule,
    Read,
    compile_own,
    describe,
    listed,
    ruling,
)
from doorward_server.core.errors import InvalidField
from doorward_server.core.fields import check_id, check_text
from doorward_server.core.model import Actor, Event
from doorward_server.core.policy import Keyspace
from doorward_server.service.catalog import Catalog
from doorward_server.service.changes import event
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.keyspace_file import read_alert
from doorward_server.service.own_rules import read
from doorward_server.service.paging import page
from doorward_server.service.requests import own_or
from doorward_server.store import Store

SET, LIST, DELETE = "alert-rules:set", "alert-rules:list", "alert-rules:delete"


class AlertRules:
    """Keeps rules. Blocking: belongs on the management pool.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the thing exists.
    """

    def __init__(self, store: Store, catalog: Catalog, guard: Guard, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._clock = clock

    def set(
        self, caller: Caller, organization: str, keyspace: str, name: str, text: str, *, silenced: bool
    ) -> ListedRule:
        """Make a rule what *text* says, or silence the keyspace's rule of its name. The same again changes nothing.

        Raises InvalidField, UnknownReference (keyspace), NotFound (organization), QuotaExceeded.
        """
        organization, actor = self._may(caller, SET, organization, keyspace)
        check_id("name", name, "alert rule")
        compiled, now, text = self._catalog.get(keyspace), self._clock(), text.strip()
        kind = _check(compiled, name, text, silenced=silenced)

        def change(current: OwnRule | None) -> tuple[OwnRule, Event] | None:
            if current is not None and current.text == text:
                return None
            new = OwnRule(organization, keyspace, name, text, now, kind)
            before = None if current is None else _content(current)
            return new, event(actor, SET, organization, _target(new), now, before, _content(new))

        return describe(self._store.alert_rules.put(organization, keyspace, name, change).value, compiled)

    def list(
        self, caller: Caller, organization: str, keyspace: str, size: int, token: str
    ) -> tuple[Sequence[ListedRule], str]:
        """Return a page of the rules that hold for an organization, and of those that do not, by name.

        Raises UnknownReference (keyspace).
        """
        organization, _ = self._may(caller, LIST, organization, keyspace)
        compiled, own = self._catalog.get(keyspace), self._store.alert_rules.list_some(organization, keyspace)
        rules = listed(organization, compiled, own, ruling(compiled, map(read, own)))

        def behind(place: str, limit: int) -> list[ListedRule]:
            return [it for it in rules if _place(it) > place][:limit]

        return page(f"alert rules {organization} {keyspace}", size, token, behind, _place)

    def delete(self, caller: Caller, organization: str, keyspace: str, name: str) -> None:
        """Remove a rule that an organization has for itself: the keyspace's of this name holds again.

        Raises NotFound.
        """
        organization, actor = self._may(caller, DELETE, organization, keyspace)
        check_id("name", name, "alert rule")
        now = self._clock()

        def told(current: OwnRule) -> Event:
            return event(actor, DELETE, organization, _target(current), now, _content(current), None)

        self._store.alert_rules.delete(organization, keyspace, name, told)

    def _may(self, caller: Caller, permission: str, organization: str, keyspace: str) -> tuple[str, Actor]:
        organization = own_or(caller, organization)
        check_id("keyspace", keyspace, "keyspace")
        resource = f"organizations/{organization}/keyspaces/{keyspace}/alert-rules"
        return organization, self._guard.require(caller, permission, resource)


def _check(keyspace: Keyspace, name: str, text: str, *, silenced: bool) -> str:
    """Return the kind of a rule, and refuse what cannot hold in *keyspace*. Raises InvalidField."""
    if bool(text) is silenced:
        raise InvalidField("rule", "must be empty where a rule is silenced" if silenced else "is required")
    check_text("rule", text, LONGEST)
    rule = compile_own(Read(name, read_alert(text) if text else None), keyspace)
    return "" if rule is None else rule.when


def _place(rule: ListedRule) -> str:
    return f"{rule.name} {rule.origin}"


def _target(rule: OwnRule) -> tuple[str, str]:
    return "alert-rule", f"{rule.keyspace}/{rule.name}"


def _content(rule: OwnRule) -> dict[str, object]:
    """Return what the audit log keeps of a rule."""
    return {"rule": rule.text, "silenced": not rule.text}
