"""Alerts: when a rule says that somebody must be told, of what, and how often. Facts in, alerts out.

An alert has a `topic`, which is what it must not repeat, and a span for which it is `quiet` about that: the window of
a failure rule (longer if the rule says so) or of a limit, an hour of unusual activity, a day of a secret that is still
used, for ever where the topic itself names the moment (an expiry and its lead time, a last use, the secret that is
overdue). The store keeps at most one alert of a topic in any interval of that length, whoever notices it, and however
often.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from .keytext import base62
from .model import DAY, SECOND, Instant
from .rails import Rails, rotate_every, span_text
from .sections import AlertRule

HOUR = 3600 * SECOND
WEEK = 7 * DAY
WEEKS = 4
"""Weeks before, whose same hour is what a key usually does in an hour of the week."""
FACTOR = 5.0
"""Times its baseline that a key must do to be unusual, unless the rule says another number."""
LEAST = 20
"""Decisions in an hour that are taken for usual whatever the baseline: a factor of next to nothing says nothing."""
CELLS = 10
"""Parts of a window that failures are counted in. A sum is over ten of them, so of the window or up to a tenth less."""


class AlertKind(StrEnum):
    """What an alert is about; the `when` of its rule."""

    FAILED_AUTHENTICATION = "FAILED_AUTHENTICATION"
    UNUSUAL_ACTIVITY = "UNUSUAL_ACTIVITY"
    LIMIT_NEARLY_USED = "LIMIT_NEARLY_USED"
    EXPIRING = "EXPIRING"
    UNUSED = "UNUSED"
    ROTATION_OVERDUE = "ROTATION_OVERDUE"
    SUPERSEDED_USED = "SUPERSEDED_USED"
    LEAKED = "LEAKED"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Somebody has seen an alert."""

    at: Instant
    by: str
    """`<organization>/<key>` of the caller, or `<organization>/<principal>` of the key's owner or whom it acted for."""
    note: str


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that somebody is to be told of."""

    organization: str
    keyspace: str
    rule: str
    """Its name in the keyspace file, or among the organization's own."""
    kind: AlertKind
    subject: str
    """A key's id, an address, a prefix; of a limit, whatever it counts together."""
    key: str
    """Id of the key that it is about; empty: of none."""
    at: Instant
    """When it was noticed."""
    message: str
    topic: str
    """What must not be repeated, as a hash."""
    quiet: int
    """Microseconds for which it is not repeated; 0: never again."""
    threshold: int | None = None
    """The number from which the rule tells; None: it is not about a number."""
    expected: int | None = None
    """What would have been usual; None: nobody knows, or it makes no difference."""
    observed: int | None = None
    """The number that came."""
    sequence: int = 0
    """Its place among the organization's alerts, from 1 without gaps; 0: it is not in the store."""
    acknowledgement: Acknowledgement | None = None

    @property
    def id(self) -> str:
        """The same for whoever notices the same thing: two of one topic and one span cannot both be kept."""
        window = self.at // self.quiet if self.quiet else 0
        return f"alert_{_hashed(self.organization, self.topic, window, length=16)}"


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts of an organization; empty, None and False leave nothing out."""

    keyspace: str = ""
    kind: AlertKind | None = None
    key: str = ""
    unacknowledged: bool = False
    since: Instant | None = None
    until: Instant | None = None


class Failure(NamedTuple):
    """Whose failed authentications are counted together: `per` is key, address or prefix."""

    organization: str
    """Of the key; else of the calling service, which is what is being tried."""
    keyspace: str
    per: str
    subject: str


class KeyFacts(NamedTuple):
    """What the rules about time ask of a key that is neither revoked nor deleted."""

    organization: str
    id: str
    name: str
    type: str
    created_at: Instant
    expires_at: Instant | None
    last_used_at: Instant | None
    secret: str
    """The newest one."""
    secret_created_at: Instant
    not_before: Instant | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """What one key did in one hour so far, and in the same hour of the weeks before it."""

    organization: str
    keyspace: str
    key: str
    hour: Instant
    count: int
    before: tuple[int, ...]
    """At most `WEEKS`, none from before Doorward had the key and counted in its keyspace."""


def kind_of(rule: AlertRule) -> AlertKind:
    """Return what alerts of *rule* are about."""
    return AlertKind(rule.when.upper())


def failure_rules(rules: Iterable[AlertRule], per: str) -> list[AlertRule]:
    """Return those of *rules* that count failed authentications *per* key, address or prefix; the default is key."""
    kind = AlertKind.FAILED_AUTHENTICATION
    return [rule for rule in rules if kind_of(rule) is kind and rule.settings.get("per", "key") == per]


def cell_of(window: int, at: Instant) -> tuple[Instant, int]:
    """Return when the cell of a *window* of this length began that *at* falls into, and how long a cell is."""
    length = max(1, window // CELLS)
    return at - at % length, length


def counted_as(per: str, window: int) -> str:
    """Return what failures are kept under: once for all rules with windows of one length, and never with others."""
    return f"{per} {window}"


def too_many_failures(rule: AlertRule, failure: Failure, count: int, now: Instant) -> Alert | None:
    """Return the alert if *count* failures within the rule's window are as many as it allows, or more."""
    least, window = rule.settings["count"], rule.settings["window"]
    if count < least:
        return None
    who = {"key": "the key", "address": "the address", "prefix": "keys that begin like"}[failure.per]
    message = (
        f"{count:,} authentications with {who} {failure.subject!r} failed within {_span(window)}; "
        f"{least:,} or more are told."
    )
    key = failure.subject if failure.per == "key" else ""
    of = (failure.organization, failure.keyspace)
    quiet = max(window, rule.quiet)
    return _alert(rule, of, failure.subject, key, now, message, quiet, (failure.per,), least, None, count)


def least(rule: AlertRule) -> int:
    """Return the decisions in an hour from which an unusual_activity *rule* may tell, whatever the baseline."""
    factor: float = rule.settings.get("factor", FACTOR)
    return math.ceil(factor * LEAST)


def unusual(rule: AlertRule, activity: Activity, now: Instant) -> Alert | None:
    """Return the alert if a key did more in an hour than a multiple of what it did in that hour of the week before.

    A key without a week of history has no baseline, and is not judged. Of an hour that is over by *now* it is dated to
    its end: so it is no other alert than one that came within that hour.
    """
    if not activity.before:
        return None
    factor = rule.settings.get("factor", FACTOR)
    expected = sum(activity.before) / len(activity.before)
    threshold = math.ceil(factor * max(expected, LEAST))
    if activity.count < threshold:
        return None
    usual = math.ceil(expected)
    message = (
        f"The key {activity.key!r} was asked about {activity.count:,} times in an hour in which {usual:,} are usual "
        f"for it (mean of the same hour in the {len(activity.before)} weeks before); {threshold:,} or more are told. "
        "Revoke the key if nobody knows why."
    )
    of, about = (activity.organization, activity.keyspace), ("hour",)
    at = min(now, activity.hour + HOUR - 1)
    return _alert(rule, of, activity.key, activity.key, at, message, HOUR, about, threshold, usual, activity.count)


def timely(rules: Iterable[AlertRule], rails: Rails, keyspace: str, key: KeyFacts, now: Instant) -> list[Alert]:
    """Return the alerts that time alone has brought about for *key*: expiring, unused, overdue for rotation."""
    ways = {AlertKind.EXPIRING: _expiring, AlertKind.UNUSED: _unused, AlertKind.ROTATION_OVERDUE: _overdue}
    found = []
    for rule in rules:
        way = ways.get(kind_of(rule))
        alert = way(rule, rails, keyspace, key, now) if way is not None else None
        if alert is not None:
            found.append(alert)
    return found


def _expiring(rule: AlertRule, rails: Rails, keyspace: str, key: KeyFacts, now: Instant) -> Alert | None:
    """Only the shortest of the lead times that have come: whoever hears of one day need not hear of thirty.

    A lead time that is no shorter than the key's whole life tells nothing that its maker did not know.
    """
    if key.expires_at is None or key.expires_at <= now:
        return None
    left, life = key.expires_at - now, key.expires_at - key.created_at
    come = [lead for lead in rule.settings["before"] if left <= lead < life]
    if not come:
        return None
    message = f"The key {key.id!r} ({key.name}) expires in {_span(left)}. Give it a later expiry, or another key."
    about = ("expires", key.expires_at, min(come))
    return _alert(rule, (key.organization, keyspace), key.id, key.id, now, message, 0, about)


def _unused(rule: AlertRule, rails: Rails, keyspace: str, key: KeyFacts, now: Instant) -> Alert | None:
    since = max(key.created_at, key.not_before or 0) if key.last_used_at is None else key.last_used_at
    ended = key.expires_at is not None and key.expires_at <= now
    if ended or now - since < rule.settings["after"]:
        return None
    ago, who = _span(now - (key.last_used_at or key.created_at)), f"The key {key.id!r} ({key.name})"
    idle = f"{who}, made {ago} ago, was never used" if key.last_used_at is None else f"{who} was last used {ago} ago"
    message = f"{idle}. Revoke it if nobody needs it."
    return _alert(rule, (key.organization, keyspace), key.id, key.id, now, message, 0, ("since", since))


def _overdue(rule: AlertRule, rails: Rails, keyspace: str, key: KeyFacts, now: Instant) -> Alert | None:
    every = rotate_every(rails, key.type)
    ended = key.expires_at is not None and key.expires_at <= now
    if every is None or ended or now - key.secret_created_at < every:
        return None
    message = (
        f"The secret of the key {key.id!r} ({key.name}) is {_span(now - key.secret_created_at)} old and should have "
        f"been rotated after {span_text(every)}. It goes on working until somebody rotates it."
    )
    return _alert(rule, (key.organization, keyspace), key.id, key.id, now, message, 0, ("secret", key.secret))


def superseded_used(
    rule: AlertRule, of: tuple[str, str], key: str, secret: str, ends_at: Instant, now: Instant
) -> Alert:
    """Return the alert for a *secret* that a rotation has replaced, and somebody still uses.

    *of* is the organization and keyspace of *key*. At most once a day for each secret.
    """
    works = f"it works for {_span(ends_at - now)} more" if now < ends_at else "it no longer works"
    message = f"A text of the key {key!r} that a rotation has replaced is still used; {works}. Find who has it."
    return _alert(rule, of, key, key, now, message, DAY, ("secret", secret))


def nearly_used(
    rule: AlertRule,
    of: tuple[str, str],
    subject: str,
    key: str,
    window: tuple[str, int],
    limit: int,
    used: int,
    now: Instant,
) -> Alert | None:
    """Return the alert for the highest of the rule's percentages of *limit* that *used* has reached.

    *window* is the name and the length of the limit's window; *subject* is whatever it counts together.
    """
    reached = [percent for percent in rule.settings["percent"] if used * 100 >= percent * limit]
    if not reached or limit <= 0:
        return None
    percent, (name, length) = max(reached), window
    threshold = math.ceil(percent * limit / 100)
    message = (
        f"{used:,} of {limit:,} units of the limit {name!r} are used for {subject!r}, {percent}% or more, within "
        f"{_span(length)}. Calls are refused once it is used up."
    )
    about = ("limit", name, percent)
    # A busy key would tell of a limit of seconds every few seconds.
    return _alert(rule, of, subject, key, now, message, max(length, HOUR), about, threshold, None, used)


def leaked(rule: AlertRule, of: tuple[str, str], key: str, place: str, done: str, now: Instant) -> Alert:
    """Return the alert for a key whose text was found at *place*, where it does not belong; *done* was done about it.

    At most once a day for each key and place.
    """
    where = f" at {place}" if place else ""
    message = (
        f"The text of the key {key!r} was found{where}. {done or 'Nothing was done about it: rotate or revoke it.'}"
    )
    return _alert(rule, of, key, key, now, message, DAY, ("place", place))


def _alert(
    rule: AlertRule,
    of: tuple[str, str],
    subject: str,
    key: str,
    now: Instant,
    message: str,
    quiet: int,
    about: tuple[object, ...],
    threshold: int | None = None,
    expected: int | None = None,
    observed: int | None = None,
) -> Alert:
    organization, keyspace = of
    topic = _hashed(keyspace, rule.name, rule.when, subject, *about, length=24)
    kind = kind_of(rule)
    return Alert(
        organization, keyspace, rule.name, kind, subject, key, now, message, topic, quiet, threshold, expected, observed
    )


def _hashed(*parts: object, length: int) -> str:
    digest = sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()
    return base62(int.from_bytes(digest, "big"), length)


_UNITS = ((DAY, "day"), (HOUR, "hour"), (60 * SECOND, "minute"), (SECOND, "second"))


def _span(span: int) -> str:
    """Return a *span* for people, in the largest unit that it has at least two of, or one exactly."""
    for unit, word in _UNITS:
        if span >= 2 * unit or span == unit:
            count = span // unit
            return f"{count:,} {word}{'' if count == 1 else 's'}"
    return "a second"
