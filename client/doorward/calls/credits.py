"""CreditService: balances that calls use up."""

from __future__ import annotations

import uuid

from doorward.calls import Call, Pages
from doorward.calls.values import instant_or_none
from doorward.credits import CreditAccount
from doorward.v1 import credits_pb2 as pb


def get_credits(
    *, keyspace: str, organization: str = "", key_id: str = "", owner: str = "", timeout: float | None = None
) -> Call[pb.GetCreditsResponse, CreditAccount]:
    """The account to which calls with a key are charged, or that of an owner; with neither, the organization's.

    No organization means the caller's own, here as below.
    """
    request = pb.GetCreditsRequest(holder=_holder(organization, keyspace, key_id, owner))
    return Call(request, pb.GetCreditsResponse, lambda answer: _read(answer.account), timeout)


def list_credits(
    *, keyspace: str, organization: str = "", page_size: int = 0, timeout: float | None = None
) -> Pages[pb.ListCreditsResponse, CreditAccount]:
    """All accounts of an organization in a keyspace that were opened."""
    return Pages(
        pb.ListCreditsRequest(organization=organization, keyspace=keyspace, page_size=page_size),
        pb.ListCreditsResponse,
        lambda answer: map(_read, answer.accounts),
        timeout,
    )


def set_credits(
    *,
    keyspace: str,
    organization: str = "",
    key_id: str = "",
    owner: str = "",
    balance: int | None = None,
    refill_amount: int | None = None,
    default_refill_amount: bool = False,
    timeout: float | None = None,
) -> Call[pb.SetCreditsResponse, CreditAccount]:
    """Set a balance, which begins a new period, or what each refill gives this account, or both; None stays as it is.

    `default_refill_amount` has refills give what the keyspace says again.
    """
    request = pb.SetCreditsRequest(
        holder=_holder(organization, keyspace, key_id, owner),
        balance=balance,
        refill_amount=refill_amount,
        default_refill_amount=default_refill_amount,
    )
    return Call(request, pb.SetCreditsResponse, lambda answer: _read(answer.account), timeout)


def add_credits(
    amount: int,
    *,
    keyspace: str,
    organization: str = "",
    key_id: str = "",
    owner: str = "",
    note: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.AddCreditsResponse, CreditAccount]:
    """Add to a balance, or take away (negative) until nothing is left; `note` says why, for the audit log.

    The same `request_id` adds once within 24 hours; without one, each call makes its own, so that only its retries are
    safe.
    """
    request = pb.AddCreditsRequest(
        holder=_holder(organization, keyspace, key_id, owner),
        amount=amount,
        note=note,
        request_id=request_id or str(uuid.uuid4()),
    )
    return Call(request, pb.AddCreditsResponse, lambda answer: _read(answer.account), timeout)


def _holder(organization: str, keyspace: str, key_id: str, owner: str) -> pb.CreditHolder:
    return pb.CreditHolder(organization=organization, keyspace=keyspace, key_id=key_id, owner=owner)


def _read(account: pb.CreditAccount) -> CreditAccount:
    return CreditAccount(
        organization=account.organization,
        keyspace=account.keyspace,
        key_id=account.key_id,
        owner=account.owner,
        balance=account.balance,
        refills_at=instant_or_none(account, "refills_at"),
        refill_amount=account.refill_amount if account.HasField("refill_amount") else None,
        own_refill_amount=account.own_refill_amount,
        opened=account.opened,
    )
