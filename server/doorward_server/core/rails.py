"""Guard rails: what a keyspace's keys must be like, checked alike when they are made, imported, changed, rotated.

A rail binds what is done from now on, never what is there: a key that breaks one goes on working, and is refused only
what would set the thing anew. Each rule stands here once; `Rails` holds what a keyspace says of it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .errors import CallerForbidden, InvalidField, TooManyActiveKeys
from .model import DAY, SECOND, Ceiling, Event, Instant, Key, State

TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,62}", re.ASCII)
"""Of a key."""
API_VERSION = re.compile(r"[0-9A-Za-z._-]{1,32}", re.ASCII)


class Need(StrEnum):
    """Whether keys have something."""

    REQUIRED = "REQUIRED"
    OPTIONAL = "OPTIONAL"
    FORBIDDEN = "FORBIDDEN"


class Exceed(StrEnum):
    """What becomes of one key too many."""

    REJECT = "REJECT"
    REVOKE_OLDEST = "REVOKE_OLDEST"


class Hand(StrEnum):
    """Whose hand makes or ends a key: its owner's own, or an administrator's (anybody else with the right)."""

    OWNER = "OWNER"
    ADMINISTRATOR = "ADMINISTRATOR"


@dataclass(frozen=True, slots=True)
class Rails:
    """The guard rails of one keyspace. The defaults refuse nothing. Spans are microseconds."""

    owner: Need = Need.OPTIONAL
    min_scopes: int = 0
    max_scopes: int | None = None
    """Scopes and bindings together, of keys whose ceiling is a list."""
    scopes_by_environment: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Environments in which only these scopes and roles are allowed."""
    selective: frozenset[str] = frozenset()
    """Roles that a key has by bindings only, on resources that are chosen one by one."""
    expiry: Need = Need.OPTIONAL
    default_lifetime: int | None = None
    """For keys that are made without saying when they expire."""
    max_lifetime: int | None = None
    """From now on, whenever an expiry is set."""
    lifetimes: frozenset[int] | None = None
    """The only spans that may be asked for; None: any."""
    custom_expiry: bool = True
    """Whether instants and dates may be asked for besides `lifetimes`."""
    max_active_per_owner: int | None = None
    """Keys of one owner in one keyspace that are ACTIVE or NOT_YET_VALID at a time."""
    on_exceed: Exceed = Exceed.REJECT
    made_by: frozenset[Hand] = frozenset(Hand)
    ended_by: frozenset[Hand] = frozenset(Hand)
    name_pattern: str = ""
    """`*` stands for any text, everything else for itself; empty: any name."""
    types: tuple[str, ...] = ()
    """The only types there are; empty: any."""
    default_types: Mapping[str, str] = field(default_factory=dict)
    """By environment: the type of keys that are made without one."""
    rotate_every: int | None = None
    rotate_every_by_type: Mapping[str, int] = field(default_factory=dict)
    overlap: bool = True
    """Whether a rotation may let the older secrets go on working for a grace."""
    api_version: str = ""
    """Pinned to a key when it is made."""


# --- what a key is like -----------------------------------------------------------------------------------------------


def check_made(rails: Rails, key: Key, now: Instant, span: int | None) -> None:
    """Refuse a *key* that is about to be made or imported. *span*: its expiry as asked for, if as a span from *now*.

    Raises InvalidField.
    """
    check_rotated(rails, key)
    _check_lifetime(rails, key.expires_at, now, span)


def check_changed(rails: Rails, before: Key, after: Key, now: Instant, span: int | None) -> None:
    """Refuse what a key is about to become, looking only at what differs. *span* as in `check_made`.

    Raises InvalidField.
    """
    if after.name != before.name:
        _check_name(rails, after)
    if after.type != before.type:
        _check_type(rails, after)
    if (after.scopes, after.bindings) != (before.scopes, before.bindings):
        _check_scopes(rails, after)
    if after.expires_at != before.expires_at:
        _check_expiry(rails, after)
        _check_lifetime(rails, after.expires_at, now, span)


def check_rotated(rails: Rails, key: Key) -> None:
    """Refuse another secret for a *key* of a kind that could not be made any more. Raises InvalidField.

    Its lifetime is not asked about: rotating sets no expiry.
    """
    if rails.owner is Need.REQUIRED and key.owner is None:
        raise InvalidField("owner", "is required in this keyspace")
    if rails.owner is Need.FORBIDDEN and key.owner is not None:
        raise InvalidField("owner", "must be empty: keys of this keyspace belong to the organization alone")
    _check_name(rails, key)
    _check_type(rails, key)
    _check_scopes(rails, key)
    _check_expiry(rails, key)


def check_grace(rails: Rails, grace: int) -> None:
    """Refuse a *grace* (microseconds) for older secrets where a new one ends them at once. Raises InvalidField."""
    if grace and not rails.overlap:
        raise InvalidField("grace", "must be 0: in this keyspace a new secret ends the older ones at once")


def _check_name(rails: Rails, key: Key) -> None:
    if rails.name_pattern and not _fits(rails.name_pattern, key.name):
        raise InvalidField("name", f"must be of the form {rails.name_pattern!r}, where * stands for any text")


def _fits(pattern: str, text: str) -> bool:
    """Tell whether *text* is *pattern* with any text for each `*`; costs O(len) for each `*`."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    *middle, last = rest
    if not text.startswith(first) or not text[len(first) :].endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _check_type(rails: Rails, key: Key) -> None:
    if rails.types and key.type not in rails.types:
        raise InvalidField("type", f"must be one of {', '.join(rails.types)}")


def _check_scopes(rails: Rails, key: Key) -> None:
    allowed = rails.scopes_by_environment.get(key.environment)
    if key.ceiling is Ceiling.OWNER:
        if allowed is not None:
            raise InvalidField("ceiling", f"must be LIST in {key.environment!r}, where only {_listed(allowed)} may be")
        return
    count = len(key.scopes) + len(key.bindings)
    most = count if rails.max_scopes is None else rails.max_scopes
    if not rails.min_scopes <= count <= most:
        raise InvalidField("scopes", f"with bindings, there must be {_between(rails)}, not {count}")
    granted = [("scopes", scope) for scope in key.scopes] + [("bindings", it.role) for it in key.bindings]
    for where, role in granted:
        if allowed is not None and role not in allowed:
            raise InvalidField(where, f"in {key.environment!r} there can only be {_listed(allowed)}, not {role!r}")
    _check_chosen(rails, key)


def _check_chosen(rails: Rails, key: Key) -> None:
    """Refuse a selective role on everything, on a collection, or on an id that `*` stands for."""
    for scope in key.scopes:
        if scope in rails.selective:
            raise InvalidField("scopes", f"{scope!r} takes a binding that names its resources")
    for binding in key.bindings:
        if binding.role in rails.selective and not all(map(_is_chosen, binding.resources or ("*",))):
            raise InvalidField("bindings", f"{binding.role!r} takes resources named one by one, without '*' as an id")


def _is_chosen(pattern: str) -> bool:
    type, _, id = pattern.partition("/")
    return type != "*" and id.partition("/")[0] not in ("", "*")


def _between(rails: Rails) -> str:
    if rails.max_scopes is None:
        return f"at least {rails.min_scopes}"
    if rails.max_scopes == rails.min_scopes:
        return f"exactly {rails.max_scopes}"
    return f"{rails.min_scopes} to {rails.max_scopes}"


def _listed(words: Collection[str]) -> str:
    return ", ".join(sorted(words)) or "none"


def _check_expiry(rails: Rails, key: Key) -> None:
    if key.expires_at is None:
        if rails.expiry is Need.REQUIRED:
            raise InvalidField("expiry", "is required in this keyspace")
        if rails.max_lifetime is not None:
            raise InvalidField("expiry", f"is required: keys here live at most {span_text(rails.max_lifetime)}")
    elif rails.expiry is Need.FORBIDDEN:
        raise InvalidField("expiry", "must be empty: keys of this keyspace do not expire")


def _check_lifetime(rails: Rails, expires_at: Instant | None, now: Instant, span: int | None) -> None:
    if expires_at is None:
        return
    choices = ", ".join(map(span_text, sorted(rails.lifetimes or ())))
    if span is None and not rails.custom_expiry:
        raise InvalidField("expiry", f"must be a duration or preset{f', one of {choices}' if choices else ''}")
    if span is not None and rails.lifetimes is not None and span not in rails.lifetimes:
        other = ", or an instant or a date" if rails.custom_expiry else ""
        raise InvalidField("expiry", f"must be one of {choices}{other}")
    if rails.max_lifetime is not None and expires_at > now + rails.max_lifetime:
        raise InvalidField("expiry", f"must be at most {span_text(rails.max_lifetime)} from now")


def span_text(span: int) -> str:
    """Return a *span* of microseconds for people: "90 days", "12 hours"."""
    if span % DAY == 0:
        return f"{span // DAY:,} days"
    return f"{span // (3600 * SECOND):,} hours"


def rotate_by(rails: Rails, key: Key) -> Instant | None:
    """Return when the newest secret of *key* should be replaced at the latest; None: there is no such rule for it."""
    every = rotate_every(rails, key.type)
    return None if every is None or key.revoked_at is not None else key.secrets[0].created_at + every


def rotate_every(rails: Rails, type: str) -> int | None:
    """Return how old a secret of a key of *type* should become at most; None: there is no such rule for it."""
    return rails.rotate_every_by_type.get(type, rails.rotate_every)


# --- who makes and ends keys ------------------------------------------------------------------------------------------


def check_made_by(rails: Rails, hand: Hand, permission: str, resource: str) -> None:
    """Refuse *hand* if it must not make keys. Raises CallerForbidden, naming *permission* and *resource*."""
    if hand not in rails.made_by:
        _forbid(permission, resource, "made", rails.made_by)


def check_ended_by(rails: Rails, key: Key, hand: Hand, permission: str, resource: str) -> None:
    """Refuse *hand* if it must not end *key*. Raises CallerForbidden, naming *permission* and *resource*.

    A key without an owner has nobody but administrators, so it is always theirs to end.
    """
    if key.owner is not None and hand not in rails.ended_by:
        _forbid(permission, resource, "ended", rails.ended_by)


def _forbid(permission: str, resource: str, how: str, hands: Collection[Hand]) -> None:
    who = {Hand.OWNER: "their owner", Hand.ADMINISTRATOR: "an administrator"}
    by = " or ".join(who[hand] for hand in Hand if hand in hands)
    raise CallerForbidden(
        permission, resource, "DENIED_BY_RULE", why=f"keys of this keyspace are {how} by {by or 'nobody'} only"
    )


# --- how many keys an owner has ---------------------------------------------------------------------------------------

COUNTED = frozenset({State.ACTIVE, State.NOT_YET_VALID})
"""States in which a key takes one of its owner's places. No key enters one by the mere passing of time."""
MAX_REPLACED = 1000
"""Keys that one change revokes at most to make room."""


@dataclass(frozen=True, slots=True)
class ActiveLimit:
    """How many keys of one owner may be active in a keyspace, for the store to hold in the transaction of a change.

    It decides what one key too many means: the change is refused, or older keys go in the same commit.
    """

    maximum: int
    on_exceed: Exceed
    now: Instant
    revoke: Callable[[Key, Key], tuple[Key, Event]]
    """Ends an older key, with its audit event, for the key that takes its place."""

    def counts(self, key: Key) -> bool:
        """Tell whether *key* takes a place."""
        return key.owner is not None and key.state(self.now) in COUNTED

    def too_many(self, key: Key, others: int) -> int:
        """Return how many of the *others* of its owner must go to make room for *key*. Raises TooManyActiveKeys."""
        surplus = max(0, others + 1 - self.maximum)
        if surplus and (self.on_exceed is Exceed.REJECT or surplus > MAX_REPLACED):
            raise TooManyActiveKeys(key.owner or "", self.maximum)
        return surplus


# --- what is allowed, but unwise --------------------------------------------------------------------------------------


class Unwise(StrEnum):
    """What is allowed, but better otherwise; the stable words of the contract."""

    NO_EXPIRY = "NO_EXPIRY"
    NAME_SAYS_NOTHING = "NAME_SAYS_NOTHING"


ADVICE: Mapping[Unwise, str] = {
    Unwise.NO_EXPIRY: "This key works until somebody ends it. An expiry ends it also when nobody thinks of it.",
    Unwise.NAME_SAYS_NOTHING: (
        "Nobody will know later what this key is for. Say who uses it and where: 'erp-order-sync-production'."
    ),
}


def unwise(rails: Rails, key: Key, default_environment: str) -> tuple[Unwise, ...]:
    """Return what is unwise about a new *key*; its keyspace's default environment is where production is."""
    found = []
    if key.expires_at is None and key.environment == default_environment and rails.expiry is not Need.FORBIDDEN:
        found.append(Unwise.NO_EXPIRY)
    if says_nothing(key.name):
        found.append(Unwise.NAME_SAYS_NOTHING)
    return tuple(found)


_FEWEST_LETTERS = 4
_EMPTY_WORDS = {
    "my", "the", "an", "new", "old", "another", "some", "any", "this", "our", "your",
    "key", "keys", "api", "apikey", "token", "secret", "credential", "password",
    "name", "untitled", "default", "example", "sample", "demo", "dummy", "temp", "temporary", "tmp", "misc", "stuff",
    "test", "tests", "testing", "foo", "bar", "baz", "qux", "hello", "world", "xyz", "todo", "tbd", "none", "null",
}  # fmt: skip
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertz", "yxcvbnm", "azerty", "qsdfghjklm", string.ascii_lowercase)
_RUNS = {row[i:j] for row in (*_ROWS, *(r[::-1] for r in _ROWS)) for i in range(len(row)) for j in range(i + 3, 27)}
_NOTHING = _EMPTY_WORDS | _RUNS
_LONGEST = max(map(len, _NOTHING))


def says_nothing(name: str) -> bool:
    """Tell whether *name* helps nobody to know what a key is for: "key1", "test", "my key", "asdf", "aaaa", "42"."""
    words = "".join(c if c.isalpha() else " " for c in name.casefold()).split()
    # A letter of a script without cases may be a syllable or a word.
    letters = sum(2 if unicodedata.category(c) == "Lo" else 1 for word in words for c in word)
    return letters < _FEWEST_LETTERS or all(map(_is_empty, words))


def _is_empty(word: str) -> bool:
    """Tell whether *word* is one letter over and over, or made of nothing but empty words and keyboard runs."""
    if len(set(word)) == 1:
        return True
    ends = {0}
    for start in range(len(word)):
        if start in ends:
            ends |= {end for end in range(start + 2, start + _LONGEST + 1) if word[start:end] in _NOTHING}
    return len(word) in ends
