"""Credits in the client and on its command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from doorward import Client, CreditAccount, CreditStatus, Reason
from doorward.v1 import authz_pb2
from doorward.v1 import credits_pb2 as pb
from tests.client.door import Door

Run = Callable[..., Result]
DENY = authz_pb2.DECISION_DENY


def account(**more: Any) -> pb.CreditAccount:
    made = {"organization": "acme", "keyspace": "shop", "key_id": "key_1", "balance": 7, "opened": True, **more}
    return pb.CreditAccount(**made)


def exhausted(**credits: Any) -> authz_pb2.AuthorizeResponse:
    return authz_pb2.AuthorizeResponse(
        decision=DENY, reason=authz_pb2.REASON_CREDITS_EXHAUSTED, credits=authz_pb2.CreditStatus(**credits)
    )


def test_an_account_is_read_with_what_it_has(door: Door, client: Client) -> None:
    door.will("GetCredits", pb.GetCreditsResponse(account=account()))
    first = client.get_credits(keyspace="shop", key_id="key_1", organization="acme")
    assert first == CreditAccount(
        organization="acme", keyspace="shop", key_id="key_1", owner="", balance=7, refills_at=None,
        refill_amount=None, own_refill_amount=False, opened=True,
    )  # fmt: skip
    assert door.last.request.holder == pb.CreditHolder(organization="acme", keyspace="shop", key_id="key_1")
    refilled = account(refills_at=Timestamp(seconds=1_800_000_000), refill_amount=0, own_refill_amount=True)
    door.will("GetCredits", pb.GetCreditsResponse(account=refilled))
    second = client.get_credits(keyspace="shop", owner="alice")
    assert (second.refill_amount, second.own_refill_amount) == (0, True)
    assert second.refills_at == datetime(2027, 1, 15, 8, tzinfo=UTC)


def test_what_is_not_given_is_not_sent(door: Door, client: Client) -> None:
    door.will("SetCredits", pb.SetCreditsResponse(account=account()))
    client.set_credits(keyspace="shop", key_id="key_1", balance=0)
    request = door.last.request
    assert (request.HasField("balance"), request.balance, request.HasField("refill_amount")) == (True, 0, False)
    client.set_credits(keyspace="shop", key_id="key_1", refill_amount=5)
    assert (door.last.request.HasField("balance"), door.last.request.refill_amount) == (False, 5)
    client.set_credits(keyspace="shop", key_id="key_1", default_refill_amount=True)
    assert door.last.request.default_refill_amount


def test_each_call_that_adds_can_be_retried(door: Door, client: Client) -> None:
    door.will("AddCredits", pb.AddCreditsResponse(account=account()))
    client.add_credits(5, keyspace="shop", key_id="key_1", note="invoice 4711")
    first = door.last.request
    client.add_credits(5, keyspace="shop", key_id="key_1")
    assert (first.amount, first.note) == (5, "invoice 4711")
    assert first.request_id
    assert door.last.request.request_id not in ("", first.request_id)
    client.add_credits(5, keyspace="shop", key_id="key_1", request_id="mine")
    assert door.last.request.request_id == "mine"


def test_a_decision_has_how_credits_stand(door: Door, client: Client) -> None:
    door.will("Authorize", exhausted(balance=3, refill_after=Duration(seconds=60), retry_after=Duration(seconds=120)))
    decision = client.authorize("x", keyspace="shop", action="things:read")
    assert (decision.allowed, decision.reason) == (False, Reason.CREDITS_EXHAUSTED)
    assert decision.credits == CreditStatus(3, timedelta(seconds=60), timedelta(seconds=120))
    door.will("Authorize", authz_pb2.AuthorizeResponse(decision=authz_pb2.DECISION_ALLOW))
    assert client.authorize("x", keyspace="shop", action="things:read").credits is None


def test_the_command_shows_an_account(run: Run, door: Door) -> None:
    door.will("GetCredits", pb.GetCreditsResponse(account=account(refill_amount=20)))
    done = run("credits", "get", "--keyspace", "shop", "--key", "key_1")
    assert done.exit_code == 0
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith("refills"))
    assert (shown["account"], shown["balance"], shown["refill"]) == ("key_1 in shop", "7", "20")
    assert json.loads(run("credits", "get", "--keyspace", "shop", "--output", "json").stdout)["balance"] == 7


def test_the_command_sets_and_adds(run: Run, door: Door) -> None:
    door.will("SetCredits", pb.SetCreditsResponse(account=account()))
    assert run("credits", "set", "--keyspace", "shop", "--owner", "alice", "--balance", "0").exit_code == 0
    assert (door.last.request.holder.owner, door.last.request.HasField("balance")) == ("alice", True)
    nothing = run("credits", "set", "--keyspace", "shop", "--owner", "alice")
    assert nothing.exit_code == 2
    assert "--balance" in nothing.stderr
    door.will("AddCredits", pb.AddCreditsResponse(account=account()))
    assert run("credits", "add", "5000", "--keyspace", "shop", "--key", "key_1", "--note", "paid").exit_code == 0
    assert (door.last.request.amount, door.last.request.note) == (5000, "paid")
    assert run("credits", "add", "--keyspace", "shop", "--key", "key_1", "--", "-50").exit_code == 0
    assert door.last.request.amount == -50


def test_the_command_lists_accounts(run: Run, door: Door) -> None:
    door.will("ListCredits", pb.ListCreditsResponse(accounts=[account(), account(key_id="", owner="bob")]))
    done = run("credits", "list", "--keyspace", "shop")
    assert done.exit_code == 0
    assert "key_1" in done.stdout
    assert "bob" in done.stdout
    assert door.last.request.keyspace == "shop"


def test_the_command_says_why_a_call_was_not_paid(run: Run, door: Door) -> None:
    asked = ("authorize", "--keyspace", "shop", "things:read")
    door.will("Authorize", exhausted(balance=3, retry_after=Duration(seconds=119, nanos=1000)))
    assert "3 credits are left: try again in 0:02:00" in run(*asked, input="x").stderr
    door.will("Authorize", exhausted(balance=0))
    assert "0 credits are left: somebody has to add to them" in run(*asked, input="x").stderr
