"""CreditService on the wire."""

from __future__ import annotations

from doorward.v1 import credits_pb2 as pb
from doorward_server.service.credits import Balance, Credits, Setting, Whose
from doorward_server.service.guard import Caller
from doorward_server.service.pool import Pool
from doorward_server.wire.convert import repeat_of, to_timestamp


class CreditServicer:
    """Parses, calls `Credits` on the management pool, converts."""

    def __init__(self, balances: Credits, management: Pool) -> None:
        self._credits = balances
        self._run = management.run

    async def GetCredits(self, request: pb.GetCreditsRequest, caller: Caller) -> pb.GetCreditsResponse:
        balance = await self._run(self._credits.get, caller, _whose(request.holder))
        return pb.GetCreditsResponse(account=_to_account(balance))

    async def ListCredits(self, request: pb.ListCreditsRequest, caller: Caller) -> pb.ListCreditsResponse:
        rows, token = await self._run(
            self._credits.list, caller, request.organization, request.keyspace, request.page_size, request.page_token
        )
        return pb.ListCreditsResponse(accounts=map(_to_account, rows), next_page_token=token)

    async def SetCredits(self, request: pb.SetCreditsRequest, caller: Caller) -> pb.SetCreditsResponse:
        wanted = Setting(
            request.balance if request.HasField("balance") else None,
            request.refill_amount if request.HasField("refill_amount") else None,
            request.default_refill_amount,
        )
        balance = await self._run(self._credits.set, caller, _whose(request.holder), wanted)
        return pb.SetCreditsResponse(account=_to_account(balance))

    async def AddCredits(self, request: pb.AddCreditsRequest, caller: Caller) -> pb.AddCreditsResponse:
        balance, replayed = await self._run(
            self._credits.add, caller, _whose(request.holder), request.amount, request.note, repeat_of(request)
        )
        return pb.AddCreditsResponse(account=_to_account(balance), replayed=replayed)


def _whose(holder: pb.CreditHolder) -> Whose:
    return Whose(holder.organization, holder.keyspace, holder.key_id, holder.owner)


def _to_account(it: Balance) -> pb.CreditAccount:
    account = it.account
    return pb.CreditAccount(
        organization=it.holder.organization,
        keyspace=it.holder.keyspace,
        key_id=it.holder.key,
        owner=it.holder.owner,
        balance=account.balance,
        refills_at=to_timestamp(account.refills_at()),
        refill_amount=account.refill_amount(),
        own_refill_amount=account.rule is not None and account.own is not None,
        opened=it.opened,
    )
