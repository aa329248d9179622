"""doorward credits …"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from doorward.cli.output import jsonable, labelled, listed, write_json
from doorward.cli.session import Session
from doorward.cli.words import BadWord, PageSize
from doorward.credits import CreditAccount

app = typer.Typer(help="Balances that calls use up, in keyspaces with credits.", no_args_is_help=True)

OfKeyspace = Annotated[str, typer.Option("--keyspace", help="The keyspace.")]
OfKey = Annotated[str, typer.Option("--key", help="The account to which calls with this key are charged, by its id.")]
OfOwner = Annotated[str, typer.Option("--owner", help="The account of this principal.")]


@app.command("get")
def get_credits(ctx: typer.Context, keyspace: OfKeyspace, key: OfKey = "", owner: OfOwner = "") -> None:
    """Show a balance; with neither key nor owner, the organization's."""
    session: Session = ctx.obj
    _show(session, session.client.get_credits(**_holder(session, keyspace, key, owner)))


@app.command("list")
def list_credits(ctx: typer.Context, keyspace: OfKeyspace, page_size: PageSize = 0) -> None:
    """List the accounts that were opened."""
    session: Session = ctx.obj
    found = session.client.list_credits(organization=session.organization, keyspace=keyspace, page_size=page_size)
    columns = {"KEY": "key_id", "OWNER": "owner", "BALANCE": "balance", "REFILL": "refill_amount"}
    listed(session, found, columns | {"REFILLS AT": "refills_at"})


@app.command("set")
def set_credits(
    ctx: typer.Context,
    keyspace: OfKeyspace,
    balance: Annotated[int | None, typer.Option(help="The balance from now on; begins a new period.")] = None,
    refill_amount: Annotated[int | None, typer.Option(help="What each refill gives this account.")] = None,
    default_refill_amount: Annotated[
        bool, typer.Option("--default-refill-amount", help="Refills give what the keyspace says again.")
    ] = False,
    key: OfKey = "",
    owner: OfOwner = "",
) -> None:
    """Set a balance, or what each refill gives, or both."""
    session: Session = ctx.obj
    if balance is None and refill_amount is None and not default_refill_amount:
        raise BadWord("say what to set: --balance, --refill-amount or --default-refill-amount")
    account = session.client.set_credits(
        **_holder(session, keyspace, key, owner),
        balance=balance,
        refill_amount=refill_amount,
        default_refill_amount=default_refill_amount,
    )
    _show(session, account)


@app.command("add")
def add_credits(
    ctx: typer.Context,
    amount: Annotated[int, typer.Argument(help="How many; after -- a negative number takes away.")],
    keyspace: OfKeyspace,
    key: OfKey = "",
    owner: OfOwner = "",
    note: Annotated[str, typer.Option(help="Why, for the audit log, e.g. 'invoice 4711'.")] = "",
    request_id: Annotated[str, typer.Option(help="The same id adds once within 24 hours. Default: a new one.")] = "",
) -> None:
    """Add to a balance."""
    session: Session = ctx.obj
    account = session.client.add_credits(
        amount, **_holder(session, keyspace, key, owner), note=note, request_id=request_id
    )
    _show(session, account)


def _holder(session: Session, keyspace: str, key: str, owner: str) -> dict[str, Any]:
    return {"organization": session.organization, "keyspace": keyspace, "key_id": key, "owner": owner}


def _show(session: Session, account: CreditAccount) -> None:
    if session.json:
        write_json(jsonable(account))
        return
    whose = account.key_id or account.owner or f"organization {account.organization}"
    labelled({
        "account": f"{whose} in {account.keyspace}" + ("" if account.opened else ", not opened yet"),
        "balance": account.balance,
        "refill": account.refill_amount if account.refill_amount is not None else "none",
        "refills at": account.refills_at or "never",
    })  # fmt: skip
