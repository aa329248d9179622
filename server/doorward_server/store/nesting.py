"""Groups within groups: who is in which of them by way of others, and what may be put into what.

`nesting` says that everybody in the group `member` is in the group `group_id`, too. A chain of groups has at most
`DEEPEST` of them, and no group is in itself: both hold for all that the store writes, because every change of an
organization holds its tally. What somebody typed is survived: nothing here follows a chain further than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from doorward_server.core.errors import GroupCycle, QuotaExceeded

from .rows import NESTING
from .transaction import Transaction

DEEPEST = 8
"""Groups that one chain may have: the one that a principal is in, and those around it."""
_BATCH = 1000

_WITHIN = """WITH RECURSIVE within (id, depth) AS (
    SELECT m.group_id, 1 FROM membership AS m
    JOIN principal_group AS g ON g.organization = m.organization AND g.id = m.group_id AND g.deleted_at IS NULL
    WHERE m.organization = {organization} AND m.principal = {principal}
    UNION
    SELECT n.group_id, w.depth + 1 FROM within AS w
    JOIN nesting AS n ON n.organization = {organization} AND n.member = w.id
    JOIN principal_group AS g ON g.organization = n.organization AND g.id = n.group_id AND g.deleted_at IS NULL
    WHERE w.depth < {deepest})"""
_GROUPS_OF = "{within} SELECT DISTINCT id FROM within ORDER BY id"


def within(organization: str, principal: str) -> str:
    """Return the SQL of the table `within (id, depth)`: the live groups that somebody is in, by way of others included.

    Both are expressions. It is a UNION, so a circle that somebody typed is at most `DEEPEST` rows a group, and not one
    for each of its ways round.
    """
    return _WITHIN.format(organization=organization, principal=principal, deepest=DEEPEST)


def groups_of(tx: Transaction, organization: str, principal: str) -> list[str]:
    """Return all groups that a principal is in, by id."""
    return [id for (id,) in tx.ask(_GROUPS_OF.format(within=within("?", "?")), organization, principal, organization)]


def groups_around(tx: Transaction, organization: str, group: str) -> list[str]:
    """Return *group* and all groups that it is in, by id: whatever these hold, its members do."""
    return sorted({group}.union(*_levels(tx, organization, group, {}, up=True)))


def nest(tx: Transaction, organization: str, group: str, member: str) -> bool:
    """Put the group *member* into *group*; False if it was in it. Raises GroupCycle, QuotaExceeded."""
    row = {"organization": organization, "group_id": group, "member": member}
    if tx.row(NESTING.where_all(NESTING.select(NESTING.member), row)) is not None:
        return False
    came_from: dict[str, str] = {}
    below = list(_levels(tx, organization, member, came_from, up=False))
    if group == member or group in came_from:
        raise GroupCycle(" → ".join((group, *_way(came_from, member, group))))
    above = list(_levels(tx, organization, group, {}, up=True))
    if len(above) + len(below) + 2 > DEEPEST:
        raise QuotaExceeded("groups within each other", DEEPEST)
    tx.run(NESTING.insert(row))
    return True


def unnest(tx: Transaction, organization: str, group: str, member: str) -> bool:
    """Take the group *member* out of *group*; False if it was not in it."""
    row = {"organization": organization, "group_id": group, "member": member}
    return bool(tx.run(NESTING.where_all(NESTING.delete(), row)))


def list_nested(tx: Transaction, organization: str, group: str, after: str, limit: int) -> list[str]:
    """Return the groups that are in *group* themselves, by id, behind *after*."""
    query = NESTING.where_all(NESTING.select(NESTING.member), {"organization": organization, "group_id": group})
    return [id for (id,) in tx.rows(query.where(NESTING.member > after).order_by(NESTING.member).limit(limit))]


def neighbours(tx: Transaction, organization: str, group: str) -> dict[str, list[str]]:
    """Return the groups that are in *group*, and those that it is in, one step each."""
    inner = NESTING.where_all(NESTING.select(NESTING.member), {"organization": organization, "group_id": group})
    outer = NESTING.where_all(NESTING.select(NESTING.group_id), {"organization": organization, "member": group})
    return {
        "member_groups": sorted(id for (id,) in tx.rows(inner)),
        "groups": sorted(id for (id,) in tx.rows(outer)),
    }


def drop(tx: Transaction, organization: str, group: str) -> None:
    """Take *group* out of all groups, and all groups out of it."""
    query = NESTING.delete().where(NESTING.organization == organization)
    tx.run(query.where((NESTING.group_id == group) | (NESTING.member == group)))


def _levels(
    tx: Transaction, organization: str, start: str, came_from: dict[str, str], *, up: bool
) -> Iterator[set[str]]:
    """Yield the groups that are one step from *start*, then those that are two, …; as many sets as the longest chain
    has steps, or `DEEPEST`. *came_from* tells how each of them was reached first.
    """
    here, there = (NESTING.member, NESTING.group_id) if up else (NESTING.group_id, NESTING.member)
    level = {start}
    for _ in range(DEEPEST):
        following = set()
        for near, far in _edges(tx, organization, here, there, level):
            following.add(far)
            came_from.setdefault(far, near)
        if not following:
            return
        yield following
        level = following


def _edges(
    tx: Transaction, organization: str, here: Any, there: Any, level: Iterable[str]
) -> Iterator[tuple[str, str]]:
    ids, query = sorted(level), NESTING.select(here, there).where(NESTING.organization == organization)
    for start in range(0, len(ids), _BATCH):
        yield from tx.rows(query.where(here.in_(ids[start : start + _BATCH])))


def _way(came_from: dict[str, str], start: str, end: str) -> list[str]:
    way = [end]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]
