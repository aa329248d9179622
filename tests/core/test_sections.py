"""What a keyspace file says about counting, watching and routes, as it is kept."""

from __future__ import annotations

from typing import Any

from doorward_server.core.credits import Refill, Terms
from doorward_server.core.keyspace import compile_keyspace
from doorward_server.core.limits import Per
from doorward_server.core.model import DAY, SECOND
from doorward_server.core.routes import Route
from doorward_server.core.sections import AlertRule, DecisionLog, Limits, Sections, Window

BASE = {
    "keyspace": "x", "prefix": "x", "credentials": [{"header": "x"}], "types": {"a": ["r", "w"], "b": ["r"]},
}  # fmt: skip


def sections(**document: Any) -> Sections:
    return compile_keyspace({**BASE, **document}).sections


LEAK = AlertRule("leaked", "leaked", {})
"""What every keyspace has."""


def test_without_a_word_everything_has_its_default() -> None:
    assert sections() == Sections(Limits(), (LEAK,), 400 * DAY, DecisionLog(False, 0.0, ("stdout",), 90 * DAY), ())


def test_limits_are_windows_in_microseconds_and_costs_by_permission() -> None:
    kept = sections(
        limits={
            "on_store_loss": "allow",
            "costs": {"a:*": 5, "a:w": 7},
            "windows": {
                "minute": {"per": "key", "limit": 60, "window": "1m"},
                "flow": {"per": "key_and_resource", "limit": 0, "window": "36h", "actions": ["*:r"]},
            },
        }
    ).limits
    assert kept.windows == (
        Window("minute", Per.KEY, 60, 60 * SECOND),
        Window("flow", Per.KEY_AND_RESOURCE, 0, 129_600 * SECOND, frozenset({"a:r", "b:r"})),
    )
    assert kept.costs == {"a:r": 5, "a:w": 7}
    assert kept.allow_on_store_loss


def test_alerts_keep_what_they_were_given() -> None:
    kept = sections(
        alerts={
            "soon": {"when": "expiring", "before": ["30d", "12h"]},
            "idle": {"when": "unused", "after": "90d"},
            "odd": {"when": "unusual_activity", "factor": 5.0, "per": None},
        }
    ).alerts
    assert kept == (
        AlertRule("soon", "expiring", {"before": (30 * DAY, DAY // 2)}),
        AlertRule("idle", "unused", {"after": 90 * DAY}),
        AlertRule("odd", "unusual_activity", {"factor": 5.0}),
        LEAK,
    )


def test_there_is_one_rule_about_leaks_at_least() -> None:
    assert sections(alerts={"found": {"when": "leaked"}}).alerts == (AlertRule("found", "leaked", {}),)
    taken = sections(alerts={"leaked": {"when": "superseded_used"}}).alerts
    assert [(it.name, it.when) for it in taken] == [("leaked", "superseded_used"), ("leaked-2", "leaked")]


def test_a_log_of_everything_goes_to_the_store() -> None:
    kept = sections(decision_log={"record": "all", "keep": "7d"}, usage={"keep": "30d"})
    assert kept.decision_log == DecisionLog(True, 0.0, ("store",), 7 * DAY)
    assert kept.keep_usage == 30 * DAY


def test_routes_are_segments_and_without_a_resource_about_the_collection() -> None:
    kept = sections(
        routes=[
            {"match": "GET /a/{id}/{rest...}", "action": "a:r", "resource": "a/{id}"},
            {"match": "* /", "action": "b:r"},
            {"match": "POST /a/{id}/{other}", "action": "a:w", "resource": "a/{other}"},
        ]
    ).routes
    assert kept == (
        Route("GET", ("a", "{id}", "{rest...}"), "a:r", ("a", "{id}")),
        Route("*", (), "b:r", ("b",)),
        Route("POST", ("a", "{id}", "{other}"), "a:w", ("a", "{other}")),
    )


def test_credits_are_terms() -> None:
    assert sections(credits={}).credits == Terms()
    kept = sections(
        credits={
            "per": "owner",
            "initial": 5,
            "refill": {"amount": 7, "period": "30d", "mode": "add", "most": 20},
            "costs": {"a:*": 0},
        }
    ).credits
    assert kept == Terms(Per.OWNER, 5, Refill(7, 30 * DAY, most=20), {"a:r": 0, "a:w": 0})
    reset = sections(credits={"refill": {"amount": 7, "period": "1h", "mode": "reset"}}).credits
    assert reset is not None
    assert reset.refill == Refill(7, 3600 * SECOND, reset=True)


def permits(**document: Any) -> bool:
    return compile_keyspace({**BASE, **document}).fail_open


def test_nobody_consents_for_a_server_that_a_promise_needs() -> None:
    legacy = {"name": "old", "prefix": "old-", "alphabet": "hex", "length": [32, 40], "entropy_bits": 128}
    assert permits()
    assert not permits(fail_open=False)
    assert not permits(credits={})
    assert not permits(decision_log={"record": "all"})
    assert not permits(verifier="bcrypt-sha256")
    assert not permits(legacy=[legacy])


def test_what_is_allowed_counts_where_anything_counts_it() -> None:
    assert not sections().counts
    assert sections(credits={}).counts
    assert sections(limits={"windows": {"minute": {"limit": 60, "window": "1m"}}}).counts
