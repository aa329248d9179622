"""doorward webhooks …"""

from __future__ import annotations

from typing import Annotated

import typer

from doorward.cli.output import jsonable, listed, show, write_json
from doorward.cli.session import Session, tell
from doorward.cli.words import BadWord, Etag, PageSize, Yes, given
from doorward.webhooks import IssuedWebhook, WebhookDeliveryState

app = typer.Typer(help="Where alerts, and what becomes of keys, are sent to.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The webhook.")]
Description = Annotated[str | None, typer.Option(help="What it is for.")]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", metavar="TYPE", help="Only these, e.g. key.revoked or 'alert.*'. Default: all."),
]


@app.command("create")
def create_webhook(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="Where messages are sent.")],
    description: Description = None,
    event: Events = None,
) -> None:
    """Make a webhook; its signing secret is shown this once."""
    session: Session = ctx.obj
    made = session.client.create_webhook(
        url, organization=session.organization, description=description or "", events=event or ()
    )
    _issued(session, made, "is made")


@app.command("list")
def list_webhooks(ctx: typer.Context, page_size: PageSize = 0) -> None:
    """List all webhooks."""
    session: Session = ctx.obj
    found = session.client.list_webhooks(organization=session.organization, page_size=page_size)
    columns = {"ID": "id", "URL": "url", "EVENTS": "events", "ENABLED": "enabled", "DESCRIPTION": "description"}
    listed(session, found, columns, rare={"DISABLED BECAUSE": "disabled_why"})


@app.command("update")
def update_webhook(
    ctx: typer.Context,
    id: Id,
    url: Annotated[str | None, typer.Option(help="Where messages are sent.")] = None,
    description: Description = None,
    event: Events = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="Send everything.")] = False,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Disabled, it waits.")] = None,
    etag: Etag = "",
) -> None:
    """Change a webhook. While it is disabled nothing is lost: it goes on where it was."""
    session: Session = ctx.obj
    changes = given(url=url, description=description, events=() if all_events else event, enabled=enabled)
    show(session, session.client.update_webhook(id, organization=session.organization, etag=etag, **changes))


@app.command("rotate-secret")
def rotate_webhook_secret(ctx: typer.Context, id: Id) -> None:
    """Give a webhook another signing secret; for 24 hours the old one signs along."""
    session: Session = ctx.obj
    _issued(session, session.client.rotate_webhook_secret(id, organization=session.organization), "has another secret")


@app.command("delete")
def delete_webhook(ctx: typer.Context, id: Id, yes: Yes = False) -> None:
    """Remove a webhook, with all that is on its way to it."""
    session: Session = ctx.obj
    session.confirm(f"Remove the webhook {id}, with all that is on its way to it", yes)
    session.client.delete_webhook(id, organization=session.organization)
    tell(f"Webhook {id} is removed.")


@app.command("deliveries")
def list_webhook_deliveries(
    ctx: typer.Context,
    id: Id,
    state: Annotated[str, typer.Option(help="Only pending, delivered or dead ones.")] = "",
    page_size: PageSize = 0,
) -> None:
    """List what was sent to a webhook, what waits, and what is dead."""
    session: Session = ctx.obj
    found = session.client.list_webhook_deliveries(
        id, organization=session.organization, state=_state(state), page_size=page_size
    )
    columns = {"ID": "id", "TYPE": "type", "ABOUT": "subject", "STATE": "state", "ATTEMPTS": "attempts"}
    listed(session, found, columns | {"NEXT": "next_attempt_at", "PROBLEM": "problem"})


@app.command("redeliver")
def redeliver_webhook(
    ctx: typer.Context, id: Id, message: Annotated[str, typer.Argument(metavar="MESSAGE", help="Its webhook-id.")]
) -> None:
    """Send a message again, whatever became of it."""
    session: Session = ctx.obj
    sent = session.client.redeliver_webhook(id, message, organization=session.organization)
    tell(f"Message {sent.id} ({sent.type}) is sent again.")


@app.command("test")
def test_webhook(ctx: typer.Context, id: Id) -> None:
    """Send a message that tells of nothing, and say what came of it."""
    session: Session = ctx.obj
    tested = session.client.test_webhook(id, organization=session.organization)
    if not tested:
        tell(f"The receiver does not have it. {tested.problem}")
        raise typer.Exit(1)
    tell(f"The receiver has it; it answered {tested.status}.")


def _state(text: str) -> WebhookDeliveryState | None:
    word = text.upper()
    if word and word not in set(WebhookDeliveryState) - {WebhookDeliveryState.UNKNOWN}:
        raise BadWord(f"{text!r} is no state of a message; there are pending, delivered and dead")
    return WebhookDeliveryState(word) if word else None


def _issued(session: Session, made: IssuedWebhook, done: str) -> None:
    """Write a new secret: it alone on standard output, or with --output json the object that holds it."""
    if session.json:
        write_json(jsonable(made.webhook) | {"secret": made.secret.reveal()})
    else:
        print(made.secret.reveal())
    tell(f"Webhook {made.webhook.id} {done}. Its signing secret is shown this once.")
