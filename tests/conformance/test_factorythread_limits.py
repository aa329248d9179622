"""FactoryThread's "Rate Limited"; docs/systems/factorythread.md says which test is about what."""

from __future__ import annotations

from typing import Any

import pytest

from doorward import Reason
from tests.conformance.products import EXAMPLES, Customer, Desk, Product, text_of


@pytest.fixture(scope="module")
def product(desk: Desk) -> Product:
    return desk.product(EXAMPLES / "factorythread.yaml")


@pytest.fixture(scope="module")
def acme(product: Product) -> Customer:
    acme = product.customer("acme")
    acme.put("flows/abc123", published=True)
    return acme


def headers(decision: Any) -> dict[str, str]:
    assert decision.http is not None
    return dict(decision.http.headers)


def test_too_many_requests_per_minute_are_a_429_that_says_when_to_come_back(acme: Customer) -> None:
    text = text_of(acme.key("full-access"))
    assert acme.ask(text, "flows:execute", "flows/abc123", cost=600).allowed
    denied = acme.ask(text, "flows:execute", "flows/abc123")
    assert (denied.reason, denied.http.status if denied.http else 0) == (Reason.RATE_LIMITED, 429)
    assert 60 <= int(headers(denied)["Retry-After"]) <= 66
    per_minute = next(it for it in denied.limits if it.name == "per-minute")
    assert (per_minute.limit, per_minute.remaining) == (600, 0)


def test_exceeding_the_daily_limit_is_a_429_too(acme: Customer) -> None:
    text = text_of(acme.key("full-access"))
    for _ in range(3):
        acme.ask(text, "flows:list")
    # More than a day's worth at once: no minute has room for it either, but the day is what one waits for.
    denied = acme.ask(text, "flows:list", cost=100_001)
    assert (denied.reason, denied.http.status if denied.http else 0) == (Reason.QUOTA_EXCEEDED, 429)


def test_each_key_has_limits_of_its_own_and_denials_cost_nothing(acme: Customer) -> None:
    busy, calm = text_of(acme.key("full-access")), text_of(acme.key("read-only"))
    for _ in range(5):
        assert acme.ask(calm, "flows:execute", "flows/abc123").reason is Reason.SCOPE_INSUFFICIENT
    acme.ask(busy, "flows:list", cost=600)
    assert acme.ask(busy, "flows:list").reason is Reason.RATE_LIMITED
    allowed = acme.ask(calm, "flows:list")
    assert allowed.allowed
    assert [it.limit - it.remaining for it in allowed.limits] == [1, 1]


def test_the_limit_of_one_key_can_be_increased(acme: Customer) -> None:
    made = acme.key("full-access")
    text = text_of(made)
    acme.ask(text, "flows:list", cost=600)
    assert acme.ask(text, "flows:list").reason is Reason.RATE_LIMITED
    acme.root.update_key(made.key.id, organization=acme.id, limits={"per-minute": 1000})
    increased = acme.ask(text, "flows:list")
    assert increased.allowed
    assert [it.remaining for it in increased.limits if it.name == "per-minute"] == [399]
