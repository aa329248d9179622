"""Patterns, rules, roles and keyspaces: what is allowed, compiled so that a decision is a few dictionary look-ups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from .formats import Format, Legacy
from .model import Ceiling
from .rails import Rails

MAX_PATH_BYTES = 512
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


EVERYTHING = Pattern.parse("*")


def any_matches(patterns: tuple[Pattern, ...], path: Path) -> bool:
    """Tell whether one of *patterns* matches."""
    return any(pattern.matches(path) for pattern in patterns)


def all_covered(granted: Iterable[Pattern], held: tuple[Pattern, ...]) -> bool:
    """Tell whether each pattern of *granted* lies within a single one of *held*."""
    return all(any(mine.covers(theirs) for mine in held) for theirs in granted)


@dataclass(frozen=True, slots=True)
class Rule:
    """{effect, resources, relation} of one role, for the permissions it is filed under."""

    effect: Effect
    resources: tuple[Pattern, ...]
    relation: str
    """The relation to the resource that the principal must have, e.g. "owner"; empty: none."""
    role: str
    """The role that declares it."""
    index: int
    """Its position in that role, from 0."""


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
    rails: Rails = field(default_factory=Rails)
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
