"""What is known about the resource of a question: what the caller sent, and what is stored.

Stored attributes win, because they say what a caller cannot know; so does a stored parent. Relations add up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from .directory import Attributes, SubjectKind
from .model import Instant
from .policy import Path


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about one resource, as far as one principal is concerned."""

    relations: frozenset[str] = frozenset()
    """That the principal has: "assigned" to the resource, "parent.assigned" to its parent."""
    attributes: Attributes = field(default_factory=dict)
    parent: Path = ()
    """Empty: none is known."""
    parent_attributes: Attributes = field(default_factory=dict)


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class Context:
    """The circumstances of a question, but for the client's address."""

    time: Instant | None = None
    """What conditions take for the time; None: the time of the decision."""
    attributes: Attributes = field(default_factory=dict)


NO_CONTEXT = Context()


@dataclass(frozen=True, slots=True)
class SentRelation:
    """A relation that came with a request: for this question it is as good as a stored one."""

    relation: str
    resource: Path = ()
    """The resource that is asked about, or its parent; empty: the one asked about."""
    subject_kind: SubjectKind | None = None
    """None: whoever is asked about has it."""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What came with a request about its resource."""

    attributes: Attributes = field(default_factory=dict)
    parent: Path = ()
    """Empty: nothing was said."""
    relations: tuple[SentRelation, ...] = ()


NOTHING_SENT = Sent()


def combine(
    path: Path,
    sent: Sent,
    attributes: Attributes,
    parent: str,
    parent_attributes: Attributes,
    relations: Collection[tuple[str, str]],
    principal: str,
    groups: Collection[str],
) -> Facts:
    """Return what is known about *path* as far as *principal* ("": none) in *groups* is concerned.

    All but *sent* is stored: *parent* in text form (the sent one where none is), *relations* as ("resource" or
    "parent", relation). A relation to anything but the resource and its parent is not looked at.
    """
    above = tuple(parent.split("/")) if parent else sent.parent
    held = {word if on == "resource" else f"parent.{word}" for on, word in relations if on == "resource" or above}
    for related in sent.relations:
        if not _is_theirs(related, principal, groups):
            continue
        if related.resource in ((), path):
            held.add(related.relation)
        elif related.resource == above:  # not empty: that is the resource itself
            held.add(f"parent.{related.relation}")
    return Facts(frozenset(held), _merged(sent.attributes, attributes), above, parent_attributes if above else {})


def _is_theirs(related: SentRelation, principal: str, groups: Collection[str]) -> bool:
    if related.subject_kind is None:
        return True
    if related.subject_kind is SubjectKind.GROUP:
        return related.subject in groups
    return principal != "" and related.subject == principal


def _merged(sent: Attributes, stored: Attributes) -> Attributes:
    return {**sent, **stored} if sent and stored else stored or sent
