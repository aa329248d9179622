"""Alert rules of single organizations, beside those that keyspace files have for all of them.

A rule of an organization takes the place of the keyspace's rule of the same name, for that organization; another name
adds one. One without words silences: the organization is not told of what the keyspace's rule of that name tells. One
that no longer goes with the keyspace, because that was applied anew, is passed over: as if it were not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InvalidField, KeyspaceInvalid
from .model import DAY, SECOND, Instant
from .sections import AlertRule, compile_alert, duration_text, nearly
from .words import Document

if TYPE_CHECKING:
    from .policy import Keyspace

MOST = 50
"""Rules that an organization may have for one keyspace, those that silence included."""
MOST_OF_A_KIND = 5
"""Of them, of one kind: what happens to a key is looked at for each."""
LONGEST_WINDOW = 7 * DAY
"""Of own rules about failures, whose counts are kept for as long."""
SHORTEST_IDLE = DAY
"""Of own rules about unused keys: after each use they tell again."""
QUIET = 600 * SECOND
"""Between two alerts of an own rule about the same failures: alerts are kept for long, and one rule makes up many."""
LONGEST = 2000
"""Characters of a rule's words."""
NOTHING_TO_SILENCE = "the keyspace has no rule of this name that could be silenced"


class Origin(StrEnum):
    """Where a rule comes from."""

    KEYSPACE = "KEYSPACE"
    ORGANIZATION = "ORGANIZATION"


@dataclass(frozen=True, slots=True)
class OwnRule:
    """A rule that an organization has for itself, as it was set."""

    organization: str
    keyspace: str
    name: str
    text: str
    """What it says, in the words of keyspace files; empty: the keyspace's rule of this name is silenced."""
    updated_at: Instant
    kind: str = ""
    """One of `ALERTS`; empty where the text is."""


class Read(NamedTuple):
    """What an own rule says, once its words were read; *problem*: why they could not be."""

    name: str
    document: Document | None
    """None: it silences, or could not be read."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """The rules that one organization is told by in one keyspace."""

    rules: tuple[AlertRule, ...]
    apart: tuple[AlertRule, ...]
    """Those of them that have the name of an own rule. Looking through all organizations for a rule leaves out who has
    one of its name, whatever that says: so it is looked at for these by itself."""
    nearly: int
    """As `Sections.nearly`."""
    problems: Mapping[str, str]
    """By name: why a rule of its own is passed over."""


@dataclass(frozen=True, slots=True)
class ListedRule:
    """A rule that an organization has, with what is to be known of it."""

    organization: str
    keyspace: str
    name: str
    text: str
    """What it says; of one that is silenced, what it would."""
    origin: Origin
    silenced: bool = False
    problem: str = ""
    """Why it is passed over; empty: it is not."""
    updated_at: Instant | None = None
    """When the organization set it; None: it is the keyspace's."""


def compile_own(read: Read, keyspace: Keyspace) -> AlertRule | None:
    """Compile an own rule for *keyspace*; None: it silences. Raises InvalidField: `name`, `rule` or a field in that.

    It is bounded where the operator's own rules are not: all organizations share what it costs.
    """
    if read.problem:
        raise InvalidField("rule", read.problem)
    if read.document is None:
        if all(it.name != read.name for it in keyspace.sections.alerts):
            raise InvalidField("name", NOTHING_TO_SILENCE)
        return None
    try:
        rule = compile_alert("rule", read.name, read.document, keyspace, keyspace.sections.limits)
    except KeyspaceInvalid as problem:
        raise InvalidField(problem.field, problem.rule) from None
    if rule.settings.get("window", 0) > LONGEST_WINDOW:
        raise InvalidField(
            "rule.window", f"must be at most {duration_text(LONGEST_WINDOW)} in a rule of an organization"
        )
    if rule.settings.get("after", SHORTEST_IDLE) < SHORTEST_IDLE:
        raise InvalidField(
            "rule.after", f"must be at least {duration_text(SHORTEST_IDLE)} in a rule of an organization"
        )
    return replace(rule, quiet=QUIET)


def ruling(keyspace: Keyspace, own: Iterable[Read]) -> Ruling:
    """Return what holds for an organization that has *own* rules in *keyspace*."""
    compiled: dict[str, AlertRule | None] = {}
    problems: dict[str, str] = {}
    for read in own:
        try:
            compiled[read.name] = compile_own(read, keyspace)
        except InvalidField as problem:
            problems[read.name] = problem_text(problem)
    shared = [it for it in keyspace.sections.alerts if it.name not in compiled]
    rules = (*shared, *(it for it in compiled.values() if it is not None))
    named = compiled.keys() | problems.keys()
    return Ruling(rules, tuple(it for it in rules if it.name in named), nearly(rules), problems)


def problem_text(problem: InvalidField) -> str:
    """Return *problem* as it is shown: where it is, if that is not the whole rule, and what is wrong."""
    field, rule = problem.metadata["field"], problem.metadata["rule"]
    return f"{field.removeprefix('rule.')}: {rule}" if field.startswith("rule.") else rule


def listed(organization: str, keyspace: Keyspace, own: Sequence[OwnRule], ruled: Ruling) -> list[ListedRule]:
    """Return the rules of an organization by name: the keyspace's that it has not replaced, and all of its own.

    Of one that is passed over and stands for one of the keyspace's, both: the keyspace's tells.
    """
    shared = {it.name: it for it in keyspace.sections.alerts}
    found = [describe(it, keyspace, ruled.problems.get(it.name, "")) for it in own]
    replaced = {it.name for it in found if not it.problem}
    for name in shared.keys() - replaced:
        text = rule_text(shared[name])
        found.append(ListedRule(organization, keyspace.name, name, text, Origin.KEYSPACE))
    return sorted(found, key=lambda it: (it.name, it.origin))


def describe(own: OwnRule, keyspace: Keyspace, problem: str = "") -> ListedRule:
    """Return an own rule as it is listed."""
    text = own.text
    if not text:
        text = next((rule_text(it) for it in keyspace.sections.alerts if it.name == own.name), "")
    of = (own.organization, own.keyspace, own.name)
    return ListedRule(*of, text, Origin.ORGANIZATION, not own.text, problem, own.updated_at)


def rule_text(rule: AlertRule) -> str:
    """Return *rule* in the words of keyspace files: what stands behind its name there."""
    settings = {word: _told(word, value) for word, value in rule.settings.items()}
    return f"{{{', '.join(f'{word}: {value}' for word, value in {'when': rule.when, **settings}.items())}}}"


def _told(word: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_told(word, it) for it in value)}]"
    return duration_text(value) if word in ("window", "before", "after") else str(value)
