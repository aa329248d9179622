"""Credits over real gRPC, on both stores: what takes them, what does not, and who sees to them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from doorward import Client, CreditStatus, MayBeCharged
from doorward.v1 import authz_pb2, credits_pb2, keyspaces_pb2
from doorward_server.core.errors import StoreUnavailable
from doorward_server.service.debiting import Debiting
from doorward_server.service.limiting import Limiter
from doorward_server.store import Debit
from doorward_server.store.credits import CreditStore
from doorward_server.store.usage import UsageStore
from tests.wire.replicas import counted_work, until
from tests.wire.serving import Held, Server, refused, unique
from tests.wire.tenants import Tenant, at_of
from tests.wire.test_limits import reason

KIOSK = """
keyspace: {name}
prefix: {name}
credentials: [{{header: x-api-key}}]
inherit: true
ceilings: [list, owner]
types: {{things: [read, write, make], boxes: [read]}}
roles:
  reader: {{rules: [{{actions: ["*:read", "things:make"]}}]}}
credits: {credits}
{more}
"""
TEN = "{initial: 10}"
DAY = 86_400_000_000


class Kiosk:
    """An organization with a keyspace that takes credits, and a key in it."""

    def __init__(self, tenant: Tenant, terms: str = TEN, more: str = "") -> None:
        self.tenant = tenant
        self.keyspace = unique("kiosk")
        self.apply(terms, more)
        self.held = self.key()

    def apply(self, terms: str, more: str = "") -> None:
        source = KIOSK.format(name=self.keyspace, credits=terms, more=more)
        self.tenant.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=source))

    def key(self, **more: Any) -> Held:
        return self.tenant.key(self.keyspace, **({"scopes": ["reader"]} | more))

    def ask(self, action: str = "things:read", held: Held | None = None, **more: Any) -> Any:
        asked = authz_pb2.AuthorizeRequest(
            key=(held or self.held).text, keyspace=self.keyspace, action=action, organization=self.tenant.id, **more
        )
        return self.tenant.root.authz.Authorize(asked)

    def holder(self, **whose: str) -> dict[str, Any]:
        holder = credits_pb2.CreditHolder(organization=self.tenant.id, keyspace=self.keyspace, **whose)
        return {"holder": holder}

    def mine(self) -> dict[str, Any]:
        return self.holder(key_id=self.held.id)

    def get(self, **whose: str) -> Any:
        request = credits_pb2.GetCreditsRequest(**(self.holder(**whose) if whose else self.mine()))
        return self.tenant.root.credits.GetCredits(request).account

    def set(self, **wanted: Any) -> Any:
        return self.tenant.root.credits.SetCredits(credits_pb2.SetCreditsRequest(**self.mine(), **wanted)).account

    def add(self, amount: int, **more: Any) -> Any:
        return self.tenant.root.credits.AddCredits(credits_pb2.AddCreditsRequest(**self.mine(), amount=amount, **more))


def test_calls_use_them_up_and_then_are_denied(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 3}")
    assert [kiosk.ask().credits.balance for _ in range(3)] == [2, 1, 0]
    denied = kiosk.ask()
    assert (denied.decision, reason(denied)) == (authz_pb2.DECISION_DENY, "CREDITS_EXHAUSTED")
    assert (denied.credits.balance, denied.credits.HasField("retry_after")) == (0, False)
    assert denied.http.status == 429
    assert {it.name for it in denied.http.headers}.isdisjoint({"Retry-After", "RateLimit"})


def test_where_waiting_helps_the_answer_says_how_long(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 1, refill: {amount: 2, period: 10d}}")
    assert kiosk.ask().credits.refill_after.seconds > 9 * 86_400
    denied = kiosk.ask(cost=3)
    assert 19 * 86_400 < denied.credits.retry_after.seconds <= 20 * 86_400
    headers = {it.name: it.value for it in denied.http.headers}
    assert int(headers["Retry-After"]) >= denied.credits.retry_after.seconds


def test_what_is_not_allowed_costs_nothing(acme: Tenant) -> None:
    kiosk = Kiosk(acme)
    for _ in range(3):
        assert not kiosk.ask("things:write").HasField("credits")
        assert reason(kiosk.ask(dry_run=True)) == "ALLOWED"
    assert (kiosk.get().balance, kiosk.get().opened) == (10, False)
    assert reason(kiosk.ask(cost=11)) == "CREDITS_EXHAUSTED"
    assert kiosk.ask().credits.balance == 9


def test_a_call_costs_what_the_keyspace_or_the_caller_says(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 10, costs: {'things:make': 5, 'boxes:*': 0}}")
    assert kiosk.ask("things:make").credits.balance == 5
    assert kiosk.ask(cost=4).credits.balance == 1
    assert reason(kiosk.ask("things:make")) == "CREDITS_EXHAUSTED"
    assert kiosk.ask("things:make", cost=1).credits.balance == 0
    free = kiosk.ask("boxes:read")
    assert (reason(free), free.HasField("credits")) == ("ALLOWED", False)


@pytest.mark.parametrize(
    ("per", "together"), [("key", (False, False)), ("owner", (True, False)), ("organization", (True, True))]
)
def test_whose_calls_use_up_one_balance(acme: Tenant, per: str, together: tuple[bool, bool]) -> None:
    kiosk = Kiosk(acme, f"{{per: {per}, initial: 10}}")
    person, other = acme.person(), acme.person()
    for who in (person, other):
        acme.bind(kiosk.keyspace, "reader", principal=who)
    first, second, strangers = kiosk.key(owner=person), kiosk.key(owner=person), kiosk.key(owner=other)
    assert kiosk.ask(held=first).credits.balance == 9
    assert tuple(kiosk.ask(held=it).credits.balance < 9 for it in (second, strangers)) == together
    account = kiosk.get(key_id=first.id)
    assert account.balance == 9 - sum(together)
    whose = {"key": (first.id, ""), "owner": ("", person), "organization": ("", "")}[per]
    assert (account.key_id, account.owner) == whose
    if per == "owner":
        assert kiosk.get(owner=person).balance == account.balance


def test_a_key_without_an_owner_pays_for_itself(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{per: owner, initial: 10}")
    kiosk.ask()
    assert (kiosk.get().key_id, kiosk.get().balance) == (kiosk.held.id, 9)


def test_a_batch_pays_for_each_item_that_is_allowed(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 3}")
    items = [authz_pb2.BatchAuthorizeItem(action=it) for it in ("things:read", "things:write", "boxes:read")]
    items += [authz_pb2.BatchAuthorizeItem(action="things:read", cost=cost) for cost in (2, 1)]
    asked = authz_pb2.BatchAuthorizeRequest(
        key=kiosk.held.text, keyspace=kiosk.keyspace, organization=acme.id, items=items
    )
    results = acme.root.authz.BatchAuthorize(asked).results
    expected = ["ALLOWED", "SCOPE_INSUFFICIENT", "ALLOWED", "CREDITS_EXHAUSTED", "ALLOWED"]
    assert [reason(it) for it in results] == expected
    assert [it.credits.balance for it in results] == [2, 0, 1, 1, 0]
    assert kiosk.get().balance == 0


LIMITED = "limits: {windows: {few: {limit: 5, window: 1d}}}"


def test_what_credits_refuse_costs_no_units_of_limits_and_the_other_way_round(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 3}", LIMITED)
    assert [reason(kiosk.ask()) for _ in range(6)] == ["ALLOWED"] * 3 + ["CREDITS_EXHAUSTED"] * 3
    kiosk.add(100)
    check_the_rest_of_a_limit_is_there(kiosk, 2)


def check_the_rest_of_a_limit_is_there(kiosk: Kiosk, left: int) -> None:
    balance = kiosk.get().balance
    assert [reason(kiosk.ask()) for _ in range(left + 2)] == ["ALLOWED"] * left + ["QUOTA_EXCEEDED"] * 2
    assert kiosk.get().balance == balance - left
    assert not kiosk.ask().HasField("credits")


def test_a_batch_is_charged_like_calls_one_after_the_other(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 3}", "limits: {windows: {few: {limit: 2, window: 1d}}}")
    items = [authz_pb2.BatchAuthorizeItem(action="things:read", cost=cost) for cost in (4, 1, 1, 1)]
    asked = authz_pb2.BatchAuthorizeRequest(
        key=kiosk.held.text, keyspace=kiosk.keyspace, organization=acme.id, items=items
    )
    results = acme.root.authz.BatchAuthorize(asked).results
    assert [reason(it) for it in results] == ["CREDITS_EXHAUSTED", "ALLOWED", "ALLOWED", "QUOTA_EXCEEDED"]
    assert kiosk.get().balance == 1


def test_what_a_limit_refuses_in_a_batch_pays_for_the_rest_of_it(acme: Tenant) -> None:
    once = "limits: {windows: {once: {limit: 1, window: 1d, actions: ['things:read']}}}"
    kiosk = Kiosk(acme, "{initial: 2}", once)
    items = [authz_pb2.BatchAuthorizeItem(action=it) for it in ("things:read", "things:read", "boxes:read")]
    asked = authz_pb2.BatchAuthorizeRequest(
        key=kiosk.held.text, keyspace=kiosk.keyspace, organization=acme.id, items=items
    )
    results = acme.root.authz.BatchAuthorize(asked).results
    assert [reason(it) for it in results] == ["ALLOWED", "QUOTA_EXCEEDED", "ALLOWED"]
    assert kiosk.get().balance == 0


def test_a_batch_that_loses_the_store_on_its_way_is_given_back_once(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = "limits: {windows: {once: {limit: 1, window: 1d, actions: ['things:read']}}}"
    kiosk = Kiosk(acme, "{initial: 2}", once)
    items = [authz_pb2.BatchAuthorizeItem(action=it) for it in ("things:read", "things:read", "boxes:read")]
    asked = authz_pb2.BatchAuthorizeRequest(
        key=kiosk.held.text, keyspace=kiosk.keyspace, organization=acme.id, items=items
    )
    right, taken = CreditStore.debit, list[int]()

    def lost(self: CreditStore, debits: Sequence[Debit], clock: Any) -> Any:
        if debits[0].taken_since is None:
            taken.append(len(debits))
            if len(taken) == 2:
                raise StoreUnavailable
        return right(self, debits, clock)

    with monkeypatch.context() as spoilt:
        spoilt.setattr(CreditStore, "debit", lost)
        assert refused(lambda: acme.root.authz.BatchAuthorize(asked)).reason == "STORE_UNAVAILABLE"
    assert taken == [3, 1]
    assert kiosk.get().balance == 2


def test_a_defect_of_the_limits_costs_no_credits(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    kiosk = Kiosk(acme, TEN, LIMITED)

    async def broken(self: Limiter, *_: Any) -> Any:
        raise ZeroDivisionError

    items = [authz_pb2.BatchAuthorizeItem(action="things:read")] * 3
    asked = authz_pb2.BatchAuthorizeRequest(
        key=kiosk.held.text, keyspace=kiosk.keyspace, organization=acme.id, items=items
    )
    with monkeypatch.context() as spoilt:
        spoilt.setattr(Limiter, "charge", broken)
        assert refused(kiosk.ask).code == "INTERNAL"
        assert refused(lambda: acme.root.authz.BatchAuthorize(asked)).code == "INTERNAL"
    assert kiosk.get().balance == 10


def test_many_at_once_get_no_more_than_there_is(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 60}")
    with ThreadPoolExecutor(24) as pool:
        said = list(pool.map(lambda _: reason(kiosk.ask()), range(100)))
    assert (said.count("ALLOWED"), said.count("CREDITS_EXHAUSTED")) == (60, 40)


def test_what_takes_credits_is_kept_in_no_client(server: Server, acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 2}")
    with Client(server.target, server.root, cache=100) as client:
        for expected in (True, True, False, False):
            decision = client.authorize(
                kiosk.held.text, keyspace=kiosk.keyspace, action="things:read", organization=acme.id, timeout=30
            )
            assert decision.allowed is expected
        assert decision.credits == CreditStatus(balance=0, refill_after=None, retry_after=None)
    until(lambda: kiosk.ask("things:write").HasField("lease_cacheable_for"))


def test_nobody_may_consent_for_a_server_where_credits_are_taken(acme: Tenant) -> None:
    assert not Kiosk(acme).ask().fail_open
    assert Kiosk(acme, "null").ask().fail_open


@pytest.mark.parametrize("choice", ["refuse", "allow"])
def test_a_lost_store_is_no_denial_and_no_gift(acme: Tenant, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = f"limits: {{on_store_loss: {choice}, windows: {{few: {{limit: 5, window: 1d}}}}}}"
    kiosk = Kiosk(acme, TEN, more)

    def lost(self: CreditStore, *asked: Any) -> Any:
        raise StoreUnavailable

    with monkeypatch.context() as spoilt:
        spoilt.setattr(CreditStore, "debit", lost)
        for _ in range(7):
            assert refused(kiosk.ask).code == "UNAVAILABLE"
    answer = kiosk.ask()  # what was not decided has cost no units
    assert (reason(answer), answer.limits[0].remaining, answer.credits.balance) == ("ALLOWED", 4, 9)


def test_a_free_call_asks_nobody(server: Server, acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 10, costs: {'*:*': 0}}")
    kiosk.ask()
    with counted_work(server) as work:
        assert reason(kiosk.ask()) == "ALLOWED"
    assert work == []


def test_what_is_not_decided_in_the_end_costs_nothing(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    kiosk = Kiosk(acme, TEN, "decision_log: {record: all, to: [store]}")

    def full(self: UsageStore, records: Any) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as spoilt:
        spoilt.setattr(UsageStore, "record", full)
        assert refused(kiosk.ask).reason == "STORE_UNAVAILABLE"
    assert kiosk.get().balance == 10


@pytest.mark.parametrize("broken", ["taken", "given back"])
def test_a_call_that_may_be_charged_says_so_and_is_not_repeated_by_itself(
    server: Server, acme: Tenant, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kiosk = Kiosk(acme, TEN, "decision_log: {record: all, to: [store]}")
    right, tries = CreditStore.debit, list[str]()

    def lost(self: CreditStore, debits: Sequence[Debit], clock: Any) -> Any:
        given_back = debits[0].taken_since is not None
        tries.append("given back" if given_back else "taken")
        if broken == tries[-1]:
            raise StoreUnavailable(outcome_known=False)
        return right(self, debits, clock)

    def full(self: UsageStore, records: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(CreditStore, "debit", lost)
    monkeypatch.setattr(UsageStore, "record", full)
    with Client(server.target, server.root) as client, pytest.raises(MayBeCharged):
        client.authorize(
            kiosk.held.text, keyspace=kiosk.keyspace, action="things:read", organization=acme.id, timeout=30
        )
    assert tries == (["taken"] if broken == "taken" else ["taken", "given back"])


# --- seeing to balances -----------------------------------------------------------------------------------------------


def test_a_balance_is_set_and_begins_a_new_period(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{initial: 10, refill: {amount: 7, period: 30d}}")
    account = kiosk.set(balance=2)
    assert (account.balance, account.refill_amount, account.own_refill_amount, account.opened) == (2, 7, False, True)
    again = kiosk.set(balance=3)
    assert at_of(again.refills_at) >= at_of(account.refills_at)
    assert kiosk.ask(cost=3).credits.balance == 0
    assert [it.after for it in acme.events("credits:set")] == [{"balance": 2}, {"balance": 3}]
    assert acme.events("credits:set")[1].before == {"balance": 2}


def test_refills_of_an_account_may_be_others_than_the_keyspaces(acme: Tenant) -> None:
    kiosk = Kiosk(acme, "{refill: {amount: 7, period: 30d}}")
    account = kiosk.set(refill_amount=9)
    assert (account.balance, account.refill_amount, account.own_refill_amount) == (0, 9, True)
    assert kiosk.set(refill_amount=0).refill_amount == 0
    back = kiosk.set(default_refill_amount=True)
    assert (back.refill_amount, back.own_refill_amount) == (7, False)


def test_adding_counts_once_for_each_request_id(acme: Tenant) -> None:
    kiosk = Kiosk(acme)
    first = kiosk.add(5, request_id="invoice", note="invoice 4711")
    assert (first.account.balance, first.replayed) == (15, False)
    kiosk.ask()
    again = kiosk.add(5, request_id="invoice", note="invoice 4711")
    assert (again.account.balance, again.replayed) == (14, True)
    assert refused(lambda: kiosk.add(6, request_id="invoice")).reason == "REQUEST_ID_REUSED"
    assert kiosk.add(-20).account.balance == 0
    (event, *_) = acme.events("credits:add")
    assert (event.before, event.after, event.note) == ({"balance": 10}, {"balance": 15}, "invoice 4711")


def test_accounts_are_listed_one_page_after_the_other(acme: Tenant) -> None:
    kiosk = Kiosk(acme)
    held = sorted((kiosk.held, kiosk.key(), kiosk.key()), key=lambda it: str(it.id))
    for it in held:
        kiosk.ask(held=it)
    kiosk.key()  # not opened
    listed: list[Any] = []
    token = ""
    for _ in range(2):
        page = acme.root.credits.ListCredits(
            credits_pb2.ListCreditsRequest(organization=acme.id, keyspace=kiosk.keyspace, page_size=2, page_token=token)
        )
        listed += page.accounts
        token = page.next_page_token
    assert [(it.key_id, it.balance) for it in listed] == [(it.id, 9) for it in held]
    assert token == ""


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("balance", {}),
    "a negative balance": ("balance", {"balance": -1}),
    "too much": ("balance", {"balance": 10**15 + 1}),
    "a refill where there is none": ("refill_amount", {"refill_amount": 5}),
    "both refills": ("default_refill_amount", {"refill_amount": 5, "default_refill_amount": True}),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_set_is_told_by_its_field(acme: Tenant, case: str) -> None:
    field, wanted = BAD[case]
    refusal = refused(lambda: Kiosk(acme).set(**wanted))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", field)


def test_what_is_nobodys_account_is_told_by_its_field(acme: Tenant) -> None:
    kiosk, owned, shared = Kiosk(acme), Kiosk(acme, "{per: owner}"), Kiosk(acme, "{per: organization}")
    plain = Kiosk(acme, "null")
    cases = [
        (lambda: kiosk.get(owner="nobody"), "NOT_FOUND", None),
        (lambda: kiosk.get(owner=acme.person()), "INVALID_FIELD", "holder.key_id"),
        (lambda: owned.get(key_id=""), "INVALID_FIELD", "holder.key_id"),
        (lambda: shared.get(owner=acme.person()), "INVALID_FIELD", "holder.owner"),
        (lambda: owned.get(owner="a", key_id="b"), "INVALID_FIELD", "holder.owner"),
        (lambda: kiosk.get(key_id=owned.held.id), "NOT_FOUND", None),
        (lambda: kiosk.get(key_id="key_none"), "NOT_FOUND", None),
        (plain.get, "INVALID_FIELD", "holder.keyspace"),
        (lambda: kiosk.add(0), "INVALID_FIELD", "amount"),
        (lambda: kiosk.add(10**15 + 1), "INVALID_FIELD", "amount"),
        (lambda: kiosk.add(1, note="x" * 501), "INVALID_FIELD", "note"),
    ]
    for ask, why, field in cases:
        refusal = refused(ask)
        assert (refusal.reason, refusal.metadata.get("field")) == (why, field)
    assert shared.get(key_id=shared.held.id).balance == 0


def test_users_see_the_balances_of_their_own_keys_alone(acme: Tenant) -> None:
    kiosk, shared = Kiosk(acme), Kiosk(acme, "{per: organization}")
    person = acme.person()
    mine, member = kiosk.key(owner=person), acme.member(person)
    of = credits_pb2.GetCreditsRequest
    assert member.credits.GetCredits(of(**kiosk.holder(key_id=mine.id))).account.balance == 10
    others = [kiosk.mine(), kiosk.holder(key_id="key_none"), shared.holder(key_id=shared.key(owner=person).id)]
    for holder in others:
        assert refused(lambda: member.credits.GetCredits(of(**holder))).code == "PERMISSION_DENIED"  # noqa: B023


def test_an_admin_of_an_organization_cannot_come_to_credits(acme: Tenant) -> None:
    kiosk, admin = Kiosk(acme), acme.caller("admin")
    assert admin.credits.GetCredits(credits_pb2.GetCreditsRequest(**kiosk.mine())).account.balance == 10
    for ask in (
        lambda: admin.credits.SetCredits(credits_pb2.SetCreditsRequest(**kiosk.mine(), balance=10**9)),
        lambda: admin.credits.AddCredits(credits_pb2.AddCreditsRequest(**kiosk.mine(), amount=1)),
        lambda: admin.keys.CreateKey(acme.new_key("doorward", scopes=["billing"])),
    ):
        assert refused(ask).code == "PERMISSION_DENIED"
    seller = Tenant(acme.server, "operator").caller("billing")
    assert seller.credits.AddCredits(credits_pb2.AddCreditsRequest(**kiosk.mine(), amount=1)).account.balance == 11


# --- would the tests notice? ------------------------------------------------------------------------------------------


def test_credits_that_are_not_given_back_are_found(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    async def kept(self: Debiting, debits: Sequence[Debit]) -> None:
        pass

    monkeypatch.setattr(Debiting, "undo", kept)
    monkeypatch.setattr(Limiter, "refuses", lambda *_: None)
    with pytest.raises(AssertionError):
        check_the_rest_of_a_limit_is_there(Kiosk(acme, TEN, LIMITED), 5)
