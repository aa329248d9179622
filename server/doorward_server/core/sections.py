"""What a keyspace file says about counting and watching: limits, alerts, usage, the decision log.

    limits:
      on_store_loss: refuse           # or allow: what to do while the store cannot be asked; default: refuse
      costs: {"flows:execute": 5}     # units that one call takes, by action, 0 to 1,000,000; default: 1
      windows:
        per-minute: {per: key, limit: 60, window: 1m}       # per: key, owner, organization, key_and_resource
        per-day: {per: key, limit: 10000, window: 1d}       # windows: 1s to 366d, in s, m, h, d
        per-flow: {per: key_and_resource, limit: 10, window: 1m, actions: ["flows:*"]}   # default: all actions
    credits:
      per: key                        # whose calls use up one balance: key, owner, organization; default: key
      initial: 1000                   # what it begins with; default: 0
      refill: {amount: 1000, period: 30d, mode: add, most: 3000}    # mode: add (default), up to most; or reset
      costs: {"flows:execute": 5}     # credits that one call takes, by action; default: 1
    alerts:
      failures: {when: failed_authentication, per: key, count: 20, window: 10m}          # per: key, address, prefix
      unusual: {when: unusual_activity, factor: 5}          # times its habit at that hour of the week; default: 5
      near: {when: limit_nearly_used, percent: [80, 95]}
      soon: {when: expiring, before: [30d, 7d, 1d]}
      idle: {when: unused, after: 90d}
      overdue: {when: rotation_overdue}
      old: {when: superseded_used}
      leak: {when: leaked}            # without one there is one all the same, `leaked`
    usage: {keep: 400d}               # how long hourly sums stay; default: 400d
    decision_log:
      record: all                     # or sampled; default: sampled
      sample: 0.01                    # of what was allowed, where it is sampled; denials are always recorded
      to: [store]                     # store, file, stdout; default: [store] for all, else [stdout]
      keep: 90d                       # in the store; default: 90d

All of it is checked when the file is applied. How limits count: `limits`; what credits are: `credits`; when alerts are
raised: `alerts`; usage is kept and decisions are recorded by `service.retention` and `service.decision_log`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from .credits import MOST, Refill, Terms
from .errors import KeyspaceInvalid
from .limits import Per
from .model import DAY, SECOND
from .routes import Route, compile_routes
from .words import NAME, Document, matching

if TYPE_CHECKING:
    from .policy import Keyspace

MAX_WINDOW = 366 * DAY
LEAKED = "leaked"
_DURATION = re.compile(r"([1-9][0-9]{0,6})([smhd])", re.ASCII)
_UNITS = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": DAY}


@dataclass(frozen=True, slots=True)
class Window:
    """At most *limit* units in any *window* microseconds."""

    name: str
    per: Per
    limit: int
    window: int
    actions: frozenset[str] | None = None
    """Permissions that it counts; None: all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be asked."""

    windows: tuple[Window, ...] = ()
    costs: Mapping[str, int] = field(default_factory=dict)
    """Units that one call takes, by permission; else 1."""
    allow_on_store_loss: bool = False
    by_resource: bool = field(init=False, default=False)
    """Whether any window counts each resource by itself."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_resource", any(it.per is Per.KEY_AND_RESOURCE for it in self.windows))


@dataclass(frozen=True, slots=True)
class AlertRule:
    """What somebody is to be told of: see `core.alerts`."""

    name: str
    when: str
    """One of `ALERTS`."""
    settings: Mapping[str, Any]
    """By the words of the file; durations in microseconds."""
    quiet: int = 0
    """Microseconds between two alerts of a topic, at least; a kind may have more of its own."""


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """Which decisions are recorded, one by one, and where."""

    everything: bool = False
    sample: float = 0.0
    targets: tuple[str, ...] = ("stdout",)
    keep: int = 90 * DAY


@dataclass(frozen=True, slots=True)
class Sections:
    """All of it, checked."""

    limits: Limits = field(default_factory=Limits)
    alerts: tuple[AlertRule, ...] = ()
    keep_usage: int = 400 * DAY
    decision_log: DecisionLog = field(default_factory=DecisionLog)
    routes: tuple[Route, ...] = ()
    nearly: int = 101
    """The lowest percentage of a limit that an alert tells of; 101: none does."""
    credits: Terms | None = None
    """None: its calls take none."""
    counts: bool = field(init=False, default=False)
    """Whether what is allowed is charged to anything."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", bool(self.limits.windows) or self.credits is not None)


ALERTS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "failed_authentication": (frozenset({"count", "window"}), frozenset({"per"})),
    "unusual_activity": (frozenset(), frozenset({"factor"})),
    "limit_nearly_used": (frozenset({"percent"}), frozenset()),
    "expiring": (frozenset({"before"}), frozenset()),
    "unused": (frozenset({"after"}), frozenset()),
    "rotation_overdue": (frozenset(), frozenset()),
    "superseded_used": (frozenset(), frozenset()),
    LEAKED: (frozenset(), frozenset()),
}
"""Kinds of alerts: the words that each needs, and those that it may have besides."""


def compile_sections(document: Document, keyspace: Keyspace) -> Sections:
    """Compile what *keyspace*'s file says about counting and watching. Raises KeyspaceInvalid."""
    limits = _limits(document.get("limits") or {}, keyspace)
    alerts = _with_leaks(
        compile_alert(f"alerts.{name}", name, alert, keyspace, limits)
        for name, alert in (document.get("alerts") or {}).items()
    )
    return Sections(
        limits=limits,
        credits=_credits(document["credits"], keyspace) if document.get("credits") is not None else None,
        alerts=alerts,
        nearly=nearly(alerts),
        keep_usage=_duration("usage.keep", (document.get("usage") or {}).get("keep") or "400d", 100 * MAX_WINDOW),
        decision_log=_decision_log(document.get("decision_log") or {}),
        routes=compile_routes(document.get("routes") or (), keyspace),
    )


def _with_leaks(rules: Iterable[AlertRule]) -> tuple[AlertRule, ...]:
    """Return *rules*, and one about leaks if none is: whoever reports one is told that people are told."""
    given = tuple(rules)
    if any(it.when == LEAKED for it in given):
        return given
    taken = {it.name for it in given}
    names = chain((LEAKED,), (f"{LEAKED}-{number}" for number in count(2)))
    return (*given, AlertRule(next(it for it in names if it not in taken), LEAKED, {}))


def nearly(rules: Iterable[AlertRule]) -> int:
    """Return the lowest percentage of a limit that one of *rules* tells of; 101: none does."""
    return min((percent for it in rules for percent in it.settings.get("percent", ())), default=101)


def _limits(document: Document, keyspace: Keyspace) -> Limits:
    costs = _costs("limits.costs", document, keyspace)
    windows = tuple(
        _window(f"limits.windows.{name}", name, window, keyspace)
        for name, window in (document.get("windows") or {}).items()
    )
    return Limits(windows, costs, document.get("on_store_loss") == "allow")


def _costs(place: str, document: Document, keyspace: Keyspace) -> dict[str, int]:
    costs: dict[str, int] = {}
    for action, cost in (document.get("costs") or {}).items():
        costs.update(dict.fromkeys(_expand(f"{place}.{action}", action, keyspace), cost))
    return costs


def _credits(document: Document, keyspace: Keyspace) -> Terms:
    refill = document.get("refill")
    return Terms(
        per=Per((document.get("per") or "key").upper()),
        initial=document.get("initial") or 0,
        refill=_refill(refill) if refill else None,
        costs=_costs("credits.costs", document, keyspace),
    )


def _refill(document: Document) -> Refill:
    reset, most = document.get("mode") == "reset", document.get("most")
    if reset and most is not None:
        raise KeyspaceInvalid("credits.refill.most", "goes with 'mode: add': one that is reset does not grow")
    period = _duration("credits.refill.period", document["period"], MAX_WINDOW)
    return Refill(document["amount"], period, reset, MOST if most is None else most)


def _window(place: str, name: str, document: Document, keyspace: Keyspace) -> Window:
    matching(place, name, NAME)
    actions = document.get("actions")
    return Window(
        name=name,
        per=Per((document.get("per") or "key").upper()),
        limit=document["limit"],
        window=_duration(f"{place}.window", document["window"], MAX_WINDOW),
        actions=None
        if actions is None
        else frozenset(
            permission
            for i, action in enumerate(actions)
            for permission in _expand(f"{place}.actions[{i}]", action, keyspace)
        ),
    )


def _expand(place: str, action: str, keyspace: Keyspace) -> list[str]:
    """Return the permissions that *action* stands for: `*` is any type, or any verb."""
    type, _, verb = action.partition(":")
    fitting = [
        permission
        for permission in sorted(keyspace.permissions)
        if type in ("*", permission.partition(":")[0]) and verb in ("*", permission.partition(":")[2])
    ]
    if not fitting:
        raise KeyspaceInvalid(place, f"{action!r} matches no permission declared under types")
    return fitting


def compile_alert(place: str, name: str, document: Document, keyspace: Keyspace, limits: Limits) -> AlertRule:
    """Compile one rule, whose words stand at *place*, for a keyspace that has *limits*. Raises KeyspaceInvalid."""
    matching(place, name, NAME)
    when = document["when"]
    needed, possible = ALERTS[when]
    settings = {word: value for word, value in document.items() if word != "when" and value is not None}
    for word in sorted(settings.keys() - needed - possible):
        raise KeyspaceInvalid(f"{place}.{word}", f"does not go with 'when: {when}'")
    for word in sorted(needed - settings.keys()):
        raise KeyspaceInvalid(f"{place}.{word}", f"is required with 'when: {when}'")
    if when == "limit_nearly_used" and not limits.windows:
        raise KeyspaceInvalid(place, "there are no limits to be nearly used: limits.windows is empty")
    rails = keyspace.rails
    if when == "rotation_overdue" and rails.rotate_every is None and not rails.rotate_every_by_type:
        raise KeyspaceInvalid(place, "keys.rotation does not say when one is due")
    for word in settings.keys() & {"window", "after"}:
        settings[word] = _duration(f"{place}.{word}", settings[word], MAX_WINDOW)
    if "before" in settings:
        spans = enumerate(settings["before"])
        settings["before"] = tuple(_duration(f"{place}.before[{i}]", text, MAX_WINDOW) for i, text in spans)
    return AlertRule(name, when, settings)


def _decision_log(document: Document) -> DecisionLog:
    everything = document.get("record") == "all"
    if everything and document.get("sample") is not None:
        raise KeyspaceInvalid("decision_log.sample", "goes with 'record: sampled', where not all is recorded")
    targets = tuple(document.get("to") or (["store"] if everything else ["stdout"]))
    _check_once("decision_log.to", targets)
    if "store" in targets and not everything:
        raise KeyspaceInvalid("decision_log.to", "only 'record: all' goes to the store")
    keep = _duration("decision_log.keep", document.get("keep") or "90d", 100 * MAX_WINDOW)
    return DecisionLog(everything, document.get("sample") or 0.0, targets, keep)


def _check_once(place: str, words: Iterable[str]) -> None:
    seen: set[str] = set()
    for i, word in enumerate(words):
        if word in seen:
            raise KeyspaceInvalid(f"{place}[{i}]", f"{word!r} stands here twice")
        seen.add(word)


def duration_text(span: int) -> str:
    """Return a *span* of whole seconds as a file says it, in the largest unit that it is a multiple of."""
    unit = max((it for it in _UNITS if span % _UNITS[it] == 0), key=_UNITS.__getitem__)
    return f"{span // _UNITS[unit]}{unit}"


def _duration(place: str, text: str, most: int) -> int:
    match = _DURATION.fullmatch(text)
    span = int(match[1]) * _UNITS[match[2]] if match else 0
    if not SECOND <= span <= most:
        raise KeyspaceInvalid(place, f"{text!r} must be a duration like 30s, 5m, 1h or 7d, at most {most // DAY:,}d")
    return span
