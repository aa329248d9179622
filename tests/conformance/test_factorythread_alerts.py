"""What FactoryThread is told of. The sentences are in docs/systems/factorythread.md."""

from __future__ import annotations

from typing import Any

import pytest

from doorward import HttpRequest, IssuedKey, KeyBinding, Question
from tests.conformance.products import EXAMPLES, Customer, Desk, text_of
from tests.wire.tenants import never_made

DAY = 86_400
WEEK = 7 * DAY


@pytest.fixture
def acme(desk: Desk) -> Customer:
    """A customer whose flow abc123 is published."""
    acme = desk.product(EXAMPLES / "factorythread.yaml").customer("acme")
    acme.put("flows/abc123", published=True)
    return acme


def runner(acme: Customer, type: str | None = None) -> IssuedKey:
    settings: dict[str, Any] = {} if type is None else {"type": type}
    return acme.key(bindings=[KeyBinding("flow-access", ["flows/abc123"])], owner=acme.person("editor"), **settings)


def bearing(text: str) -> HttpRequest:
    return HttpRequest(headers={"Authorization": f"Bearer {text}"})


def test_failed_authentication_attempts_are_told_of(acme: Customer) -> None:
    key = runner(acme)
    acme.root.revoke_key(key.key.id, organization=acme.id)
    for _ in range(19):
        assert acme.ask(bearing(text_of(key)), "flows:execute", "flows/abc123").reason == "KEY_REVOKED"
    assert acme.alerts("failures") == []
    for _ in range(4):
        acme.ask(bearing(text_of(key)), "flows:execute", "flows/abc123")
    (told,) = acme.until_told("failures", 1)
    assert (told.key, told.threshold, told.observed) == (key.key.id, 20, 23)
    assert acme.alerts("failures") == [told]


def test_attempts_with_keys_that_nobody_has_are_told_of_by_address(acme: Customer) -> None:
    """They are no customer's keys: FactoryThread itself is told."""
    guessing, calm = "203.0.113.66", "203.0.113.67"
    for number in range(50):
        guess = never_made("ft") if number % 2 else f"ft_live_{'x' * 40}"
        denied = acme.ask(bearing(guess), "flows:execute", "flows/abc123", client_ip=guessing)
        assert denied.reason in ("KEY_UNKNOWN", "CREDENTIAL_MALFORMED")
    acme.ask(bearing(never_made("ft")), "flows:execute", "flows/abc123", client_ip=calm)
    assert acme.alerts("guesses") == []
    told = [it for it in acme.root.list_alerts(organization="operator") if it.rule == "guesses"]
    assert [(it.subject, it.key, it.observed) for it in told] == [(guessing, "", 50)]


def test_unusual_activity_patterns_are_told_with_what_was_expected(acme: Customer) -> None:
    key = runner(acme)
    acme.desk.advance(3600)
    questions = [Question("flows:execute", "flows/abc123")] * 100
    acme.ask_all(bearing(text_of(key)), questions[:40])
    acme.desk.advance(WEEK)
    acme.ask_all(bearing(text_of(key)), questions)
    assert acme.alerts("unusual") == []
    acme.ask_all(bearing(text_of(key)), questions)
    acme.desk.advance(60)
    (told,) = acme.until_told("unusual", 1)
    assert (told.key, told.expected, told.threshold, told.observed) == (key.key.id, 40, 200, 200)
    assert "in which 40 are usual for it" in told.message


def test_unused_keys_are_told_of_after_90_days(acme: Customer) -> None:
    used, idle = runner(acme), runner(acme)
    acme.desk.advance(80 * DAY)
    assert acme.ask(bearing(text_of(used)), "flows:execute", "flows/abc123")
    acme.used(used, acme.desk.now)
    acme.desk.advance(10 * DAY)
    assert [it.key for it in acme.until_told("idle", 1)] == [idle.key.id]
    acme.desk.advance(80 * DAY)
    assert {it.key for it in acme.until_told("idle", 2)} == {idle.key.id, used.key.id}


@pytest.mark.parametrize(("type", "days"), [("production", 90), ("partner", 180), ("development", 30), ("ci", 90)])
def test_an_overdue_rotation_is_told_by_the_type_of_the_key(acme: Customer, type: str, days: int) -> None:
    key = runner(acme, type)
    acme.desk.advance(days * DAY - 1)
    assert acme.alerts("overdue") == []
    acme.desk.advance(601)
    (told,) = acme.until_told("overdue", 1)
    assert told.key == key.key.id
    assert f"rotated after {days} days" in told.message
    assert acme.ask(bearing(text_of(key)), "flows:execute", "flows/abc123")


def test_usage_that_approaches_a_limit_is_told_of(acme: Customer) -> None:
    key = runner(acme)
    questions = [Question("flows:execute", "flows/abc123")] * 100
    for _ in range(4):
        assert all(acme.ask_all(bearing(text_of(key)), questions))
    assert acme.alerts("near") == []
    acme.ask_all(bearing(text_of(key)), questions)
    (told,) = acme.until_told("near", 1)
    assert (told.key, told.threshold) == (key.key.id, 480)
    assert "of 600 units of the limit 'per-minute'" in told.message
