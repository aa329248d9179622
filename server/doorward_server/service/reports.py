"""Telling what keys were used for: sums, exports, and recorded decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from zoneinfo import ZoneInfo

from doorward_server.core.errors import InvalidField, NotFound
from doorward_server.core.fields import check_id, check_zone
from doorward_server.core.model import DAY, SECOND, Instant
from doorward_server.core.usage import (
    HOUR,
    Cell,
    CellCount,
    DecisionRecord,
    Dimension,
    Scope,
    StrangerCount,
    Sum,
    hour_of,
)
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.paging import fitting, make_token, page_size, read_token
from doorward_server.service.requests import own_or
from doorward_server.store import Store

DEFAULT_SPAN = 30 * DAY
MAX_SPAN = 800 * DAY
PAGE = 1_000
ALL = "-"


class Group(Enum):
    """What a report tells apart: a dimension of the store's, or days, or what was nobody's key."""

    HOUR = Dimension.HOUR
    KEY = Dimension.KEY
    ACTION = Dimension.ACTION
    RESOURCE = Dimension.RESOURCE
    REASON = Dimension.REASON
    ADDRESS = Dimension.ADDRESS
    DAY = "day"
    UNIDENTIFIED = "unidentified"


DEFAULT_GROUPS = (Group.DAY, Group.ACTION, Group.RESOURCE, Group.REASON, Group.ADDRESS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose usage, and when, as it was asked for. Empty: see `UsageScope` in usage.proto."""

    organization: str = ""
    keyspace: str = ""
    key: str = ""
    owner: str = ""
    since: Instant | None = None
    until: Instant | None = None


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Sums under each value of a group, and all beyond the limit together. Of days, values are ISO dates."""

    group: Group
    sums: tuple[Sum, ...]
    rest: Sum
    starts: tuple[Instant | None, ...]
    """When each value began, if it is a time."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was asked for, and when it is about."""

    total: Sum
    breakdowns: tuple[Breakdown, ...]
    strangers: tuple[StrangerCount, ...]
    scope: Scope


class Reports:
    """Reads usage for those who may. Blocking: belongs on a pool of its own.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the key exists.
    """

    def __init__(self, store: Store, guard: Guard, clock: Clock) -> None:
        self._store = store
        self._guard = guard
        self._clock = clock

    def get_usage(self, caller: Caller, wanted: Wanted, groups: Sequence[Group], time_zone: str, limit: int) -> Report:
        """Return sums, at most about two flush intervals behind. Raises InvalidField, NotFound (key)."""
        scope = _whole_hours(self._scope(caller, "usage:get", "usage", wanted))
        zone = check_zone("time_zone", time_zone)
        groups = tuple(dict.fromkeys(groups or DEFAULT_GROUPS))
        if Group.UNIDENTIFIED in groups and (scope.key or scope.owner):
            raise InvalidField("group_by", "UNIDENTIFIED goes without key_id and owner: it is of nobody's keys")
        limit = page_size(limit, 100, "limit")
        hours = self._store.usage.sum_by(scope, Dimension.HOUR, MAX_SPAN // HOUR + 1)
        total = _total(hours)
        strangers: list[StrangerCount] = []
        breakdowns = []
        for group in groups:
            if group is Group.UNIDENTIFIED:
                strangers = self._store.usage.list_strangers(scope, limit)
            elif group is Group.HOUR:
                breakdowns.append(_of_time(group, hours, [int(it.value) for it in hours]))
            elif group is Group.DAY:
                breakdowns.append(_of_days(hours, zone))
            else:
                sums = self._store.usage.sum_by(scope, group.value, limit)
                breakdowns.append(_of_values(group, sums, total))
        return Report(total, tuple(breakdowns), tuple(strangers), scope)

    def begin_export(self, caller: Caller, wanted: Wanted) -> tuple[Scope, int]:
        """Return what an export is about, and how many rows it has as of now. Raises InvalidField, NotFound (key)."""
        scope = _whole_hours(self._scope(caller, "usage:get", "usage", wanted))
        return scope, self._store.usage.count_cells(scope)

    def export(self, caller: Caller, wanted: Wanted, scope: Scope, after: Cell | None) -> list[CellCount]:
        """Return the next rows behind *after*, none at the end. The right to them is looked at anew.

        Raises CallerUnauthenticated and CallerForbidden, if it ended.
        """
        self._scope(self._guard.refreshed(caller), "usage:get", "usage", wanted)
        return self._store.usage.list_cells(scope, after, PAGE)

    def list_decisions(self, caller: Caller, wanted: Wanted, size: int, token: str) -> tuple[list[DecisionRecord], str]:
        """Return a page of recorded decisions, the newest first. Raises InvalidField, PageTokenInvalid, NotFound."""
        about = f"decisions {caller.organization} {wanted}"
        start = read_token(about, token, (int, str, int))
        if start is not None and wanted.until is None:
            wanted = replace(wanted, until=int(start[2]))  # as for the first page, whenever that was
        scope = self._scope(caller, "decisions:list", "decisions", wanted)
        before = (int(start[0]), str(start[1])) if start is not None else None
        limit = page_size(size)
        rows = self._store.usage.list_decisions(scope, before, limit + 1)
        shown = fitting(rows, limit)
        last = shown[-1] if len(shown) < len(rows) else None
        return shown, make_token(about, [last.at, last.id, scope.until]) if last is not None else ""

    def _scope(self, caller: Caller, permission: str, kind: str, wanted: Wanted) -> Scope:
        organization = ALL if wanted.organization == ALL else own_or(caller, wanted.organization)
        for name, text, what in (("keyspace", wanted.keyspace, "keyspace"), ("key_id", wanted.key, "")):
            if text:
                check_id(f"scope.{name}", text, what)
        if wanted.owner:
            check_id("scope.owner", wanted.owner, "principal")
        if wanted.key and wanted.owner:
            raise InvalidField("scope.owner", "goes without key_id, which has one owner")
        if organization == ALL and (wanted.key or wanted.owner or not wanted.keyspace):
            raise InvalidField("scope.organization", "'-' goes with a keyspace, and without key_id and owner")
        found = self._store.usage.find_key(organization, wanted.key) if wanted.key else None
        keyspace, owner = found or (wanted.keyspace or "-", wanted.owner or None)
        resource = f"organizations/{organization}/keyspaces/{{}}/{kind}"
        # Whoever may not see a key is not told its keyspace either: that would tell that it exists.
        shown = resource.format("-") if wanted.key else ""
        self._guard.require(caller, permission, resource.format(keyspace), owner=owner, shown=shown)
        if wanted.key and (found is None or wanted.keyspace not in ("", keyspace)):
            raise NotFound("key", wanted.key)
        until = wanted.until if wanted.until is not None else self._clock() + SECOND
        since = wanted.since if wanted.since is not None else max(0, until - DEFAULT_SPAN)
        if not since < until <= since + MAX_SPAN:
            raise InvalidField("scope.since", "must be before until, by at most 800 days")
        return Scope(organization, since, until, wanted.keyspace, wanted.key, wanted.owner)


def _whole_hours(scope: Scope) -> Scope:
    return replace(scope, since=hour_of(scope.since), until=hour_of(scope.until + HOUR - 1))


def _total(sums: Sequence[Sum]) -> Sum:
    return Sum("", sum(it.allowed for it in sums), sum(it.denied for it in sums))


def _of_time(group: Group, sums: Sequence[Sum], starts: Sequence[Instant]) -> Breakdown:
    return Breakdown(group, tuple(sums), Sum("", 0, 0), tuple(starts))


def _of_values(group: Group, sums: Sequence[Sum], total: Sum) -> Breakdown:
    listed = _total(sums)
    # What was counted between the two looks is in no total yet.
    rest = Sum("", max(0, total.allowed - listed.allowed), max(0, total.denied - listed.denied))
    return Breakdown(group, tuple(sums), rest, (None,) * len(sums))


def _of_days(hours: Sequence[Sum], zone: ZoneInfo) -> Breakdown:
    days: dict[str, list[Sum]] = {}
    starts: dict[str, Instant] = {}
    for it in hours:
        date = datetime.fromtimestamp(int(it.value) // SECOND, zone).date()
        days.setdefault(date.isoformat(), []).append(it)
        if date.isoformat() not in starts:
            midnight = datetime(date.year, date.month, date.day, tzinfo=zone)
            starts[date.isoformat()] = int(midnight.astimezone(UTC).timestamp()) * SECOND
    sums = [_total(of_day)._replace(value=day) for day, of_day in days.items()]
    return _of_time(Group.DAY, sums, list(starts.values()))
