"""Patterns, rules, roles and keyspaces: what is allowed, compiled so that a decision is a few dictionary look-ups."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from .api_versions import ApiVersions
from .declarations import Declared
from .directory import Attribute
from .formats import Format, Legacy
from .http_profile import HttpProfile, compile_http
from .model import Ceiling
from .rails import Rails
from .sections import Sections

MAX_PATH_BYTES = 512
_PLAIN = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*", re.ASCII)
_SEGMENT = re.compile(r"[^\x00-\x20\x7f-\x9f\ud800-\udfff/*]+")


class Effect(StrEnum):
    """What a rule does where it matches. DENY beats every ALLOW."""

    ALLOW = "ALLOW"
    DENY = "DENY"


Path = tuple[str, ...]
"""A resource as segments: ("flows", "abc123"); a collection is its type alone: ("flows",)."""


def parse_path(text: str) -> Path:
    """Return the segments of a resource `type/id…`. Raises ValueError with the rule that it breaks."""
    path = tuple(text.split("/"))
    if len(text) <= MAX_PATH_BYTES and _PLAIN.fullmatch(text):  # nearly all are, and need no closer look
        return path
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise ValueError(f"must have at most {MAX_PATH_BYTES} bytes")
    for segment in path:
        if "*" in segment:
            raise ValueError("must not have '*': a request is about one resource")
        _check_segment(segment)
    return path


def _check_segment(segment: str) -> None:
    if segment in ("", ".", ".."):
        raise ValueError("must not have empty segments, '.' or '..'")
    if not _SEGMENT.fullmatch(segment):
        raise ValueError("must not have spaces or control characters")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A resource pattern. `*` is exactly one segment; a final `*` is one or more."""

    text: str
    head: Path
    """The segments, without a final `*`."""
    endless: bool
    """Whether it ends in `*`."""
    plain: bool
    """Whether `head` is free of `*`."""

    @staticmethod
    @lru_cache(maxsize=65_536)
    def parse(text: str) -> Pattern:
        """Return the pattern. Raises ValueError, with the rule, for one that could not match anything."""
        if len(text.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
            raise ValueError(f"must have at most {MAX_PATH_BYTES} bytes")
        segments = tuple(text.split("/"))
        for segment in segments:
            if segment != "*":
                if "*" in segment:
                    raise ValueError("can never match: '*' stands for a whole segment, as in 'flows/*'")
                _check_segment(segment)
        endless = segments[-1] == "*"
        head = segments[:-1] if endless else segments
        return Pattern(text, head, endless, "*" not in head)

    def matches(self, path: Path) -> bool:
        """Tell whether *path* is among the resources that it stands for."""
        size = len(self.head)
        if len(path) <= size if self.endless else len(path) != size:
            return False
        if self.plain:
            return path[:size] == self.head
        return all(mine in ("*", theirs) for mine, theirs in zip(self.head, path, strict=False))

    def covers(self, other: Pattern) -> bool:
        """Tell whether every resource that *other* stands for is among its own."""
        size = len(self.head)
        if other.endless and not self.endless:
            return False
        longest = len(other.head) + (1 if other.endless else 0)
        if longest <= size if self.endless else longest != size:
            return False
        theirs = (*other.head, "*") if other.endless else other.head
        return all(mine in ("*", their) for mine, their in zip(self.head, theirs, strict=False))

    def both(self, other: Pattern) -> Pattern | None:
        """Return the pattern of the resources that this and *other* stand for; None if there are none."""
        longer, shorter = (self, other) if len(self.head) >= len(other.head) else (other, self)
        size = len(shorter.head)
        if not shorter.endless and (len(longer.head) != size or longer.endless):
            return None
        if len(longer.head) == size and longer.endless is not shorter.endless:
            return None
        head = []
        for mine, theirs in zip(longer.head, (*shorter.head, *"*" * (len(longer.head) - size)), strict=True):
            if mine != theirs and "*" not in (mine, theirs):
                return None
            head.append(theirs if mine == "*" else mine)
        return Pattern.parse("/".join([*head, *"*" * longer.endless]))


EVERYTHING = Pattern.parse("*")


def any_matches(patterns: tuple[Pattern, ...], path: Path) -> bool:
    """Tell whether one of *patterns* matches."""
    for pattern in patterns:  # noqa: SIM110  # a generator costs more than the matching
        if pattern is EVERYTHING or pattern.matches(path):
            return True
    return False


def all_covered(granted: Iterable[Pattern], held: tuple[Pattern, ...]) -> bool:
    """Tell whether each pattern of *granted* lies within a single one of *held*."""
    return all(any(mine.covers(theirs) for mine in held) for theirs in granted)


@dataclass(frozen=True, slots=True)
class Unknown:
    """What a condition comes to that cannot be evaluated: an ALLOW does not allow then, and a DENY denies."""

    missing: tuple[str, ...] = ()
    """What it reads and nobody told, sorted, e.g. "resource.published"; empty: it is broken."""


Outcome = bool | Unknown
Look = Callable[[str], Attribute | None]
"""Finds what a condition reads, by name: "resource.published"; None if nobody told. `context.time` is an Instant."""


class Condition(Protocol):
    """When a rule or a binding counts: an expression over the attributes that the keyspace declares."""

    @property
    def text(self) -> str:
        """What was written."""

    @property
    def reads(self) -> frozenset[str]:
        """The names of all that it may read, e.g. "resource.published"."""

    def evaluate(self, look: Look) -> Outcome:
        """Return whether it holds, by what *look* finds. Never raises."""


class Conditions(Protocol):
    """Compiles the conditions of one keyspace."""

    def compile(self, text: str) -> Condition:
        """Return the condition. Raises ValueError with the rule that *text* breaks."""


class NoConditions:
    """Refuses every condition, where nothing is there to evaluate them."""

    def compile(self, text: str) -> Condition:
        """Raise ValueError."""
        raise ValueError("conditions cannot be used here")


@dataclass(frozen=True, slots=True)
class BrokenCondition:
    """A condition that was fine when it was written and no longer is, because the keyspace has changed since."""

    text: str
    reads: frozenset[str] = frozenset()

    def evaluate(self, look: Look) -> Outcome:
        """Return Unknown."""
        return Unknown()


def reads_resource(condition: Condition) -> bool:
    """Tell whether *condition* depends on which resource is asked about."""
    return any(name.startswith(("resource.", "parent.")) for name in condition.reads)


def needs_stored(condition: Condition) -> bool:
    """Tell whether something stored about the resource may change what *condition* comes to."""
    return not condition.reads.isdisjoint({"parent.id", "parent.type"}) or any(
        name.startswith(("resource.", "parent.")) and name not in ("resource.id", "resource.type")
        for name in condition.reads
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """{effect, resources, relation, condition} of one role, for the permissions it is filed under."""

    effect: Effect
    resources: tuple[Pattern, ...]
    relation: str
    """The relation that the principal must have: "assigned" to the resource, or "parent.assigned" to its parent, one
    step up. Empty: none."""
    role: str
    """The role that declares it."""
    index: int
    """Its position in that role, from 0."""
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of rules, its includes already followed."""

    name: str
    rules: Mapping[str, tuple[Rule, ...]]
    """By permission; wildcards in actions are expanded over the permissions that the keyspace declares."""
    includes: frozenset[str]
    """This role and all that it includes: whoever holds it holds these."""
    denies: bool
    """Whether any of its rules is a DENY."""
    stored: frozenset[str] = frozenset()
    """The permissions for which one of its rules asks what may be stored about the resource: relations, attributes."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place where a keyspace looks for credentials in an HTTP request: a header, or a query parameter."""

    header: str = ""
    """Lower case; empty for a query parameter."""
    scheme: str = ""
    """Lower case word before the credential, e.g. "bearer"; empty: the header holds nothing else."""
    query: str = ""
    """Name of the parameter, byte for byte; empty for a header."""


@dataclass(frozen=True, slots=True)
class Keyspace:
    """One API product, compiled from its file."""

    name: str
    display_name: str
    prefix: str
    environments: tuple[str, ...]
    """The default one first."""
    sources: tuple[Source, ...]
    mask: str
    """Template for display, see `keytext.mask`."""
    requires_organization: bool
    """Whether Authorize must name the organization that owns the resource."""
    inherits: bool
    """Whether a key with an owner may do at most what the owner may."""
    ceilings: tuple[Ceiling, ...]
    """Allowed ones; the default first."""
    types: Mapping[str, tuple[str, ...]]
    """Resource types and the verbs each has."""
    roles: Mapping[str, Role]
    authenticated: frozenset[str]
    """Permissions that any valid key of the right organization, environment and network has."""
    format: Format = Format.OPAQUE
    legacy: tuple[Legacy, ...] = ()
    """Formats of imported texts, tried in this order after its own."""
    verifier: str = "hmac-sha256"
    """What is stored of the secrets that are made: `hmac-sha256`, or `bcrypt-sha256` where rules demand it."""
    algorithm: str = "EdDSA"
    """Of JWT keys: EdDSA or HS256."""
    recoverable: bool = False
    """Whether the texts of its keys are kept, sealed, so that RevealKey can show them again."""
    serves_stale: bool = True
    """Whether decisions about its keys may be made from what was known before the store was lost, if the operator says
    so (DOORWARD_SERVE_STALE_FOR)."""
    fail_open: bool = True
    """Whether a caller may take ALLOW for an answer while no server can be asked, where it has asked for that."""
    rails: Rails = field(default_factory=Rails)
    declared: Declared = field(default_factory=Declared)
    """The attributes that conditions may read."""
    relations: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The relations that may be had to resources, by their type."""
    parents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The types that the parent of a resource may have, by the resource's own type."""
    conditions: Conditions = field(default_factory=NoConditions, repr=False, compare=False)
    """Compiles the conditions of bindings."""
    http: HttpProfile = field(default_factory=lambda: compile_http(None, (), "doorward"), repr=False)
    """What an HTTP service answers for each reason."""
    api_versions: ApiVersions = field(default_factory=ApiVersions)
    """Where a request names the API version that it speaks."""
    sections: Sections = field(default_factory=Sections, repr=False)
    """What it says about counting, watching and routes."""
    source: str = field(default="", repr=False)
    """The file it was compiled from."""
    operator: str = ""
    """For the keyspace `doorward`: the organization whose keys may act across organizations. Else empty."""
    permissions: frozenset[str] = field(init=False, repr=False)
    """All `type:verb` that it declares."""

    def __post_init__(self) -> None:
        every = frozenset(f"{type}:{verb}" for type, verbs in self.types.items() for verb in verbs)
        object.__setattr__(self, "permissions", every)

    @property
    def adaptive(self) -> bool:
        """Whether rules demand an adaptive hash, however much entropy a text has."""
        return self.verifier == "bcrypt-sha256"

    def condition(self, text: str) -> Condition | None:
        """Return the condition of a stored binding; none if *text* is empty. One that no longer compiles is broken."""
        if not text:
            return None
        try:
            return self.conditions.compile(text)
        except ValueError:
            return BrokenCondition(text)
