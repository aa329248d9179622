"""doorward relations …, doorward resources …"""

from __future__ import annotations

from typing import Annotated

import typer

from doorward.cli.output import changed, listed, show
from doorward.cli.session import Session
from doorward.cli.words import Attributes, Etag, NoWait, PageSize, Yes, facts
from doorward.model import Relation

relations = typer.Typer(
    help="Who is related to which resource: assessments/42#assigned@user:alice.", no_args_is_help=True
)
resources = typer.Typer(help="What is known about resources: facts, and what they are parts of.", no_args_is_help=True)

Keyspace = Annotated[str, typer.Option(help="The keyspace that declares them.")]
Relations = Annotated[
    list[str], typer.Argument(metavar="RELATION…", help="assessments/42#assigned@user:alice, …@group:staff")
]
Path = Annotated[str, typer.Argument(metavar="RESOURCE", help="A type and an id, e.g. vulnerabilities/7.")]


@relations.command("write")
def write_relations(ctx: typer.Context, relation: Relations, keyspace: Keyspace, no_wait: NoWait = False) -> None:
    """Keep up to 100 relations, all or none; those that are there already stay."""
    session: Session = ctx.obj
    written = session.client.write_relations(
        map(Relation.parse, relation), keyspace=keyspace, organization=session.organization, no_wait=no_wait
    )
    changed(f"{written.count} of {len(relation)} are new", written.propagation)


@relations.command("delete")
def delete_relations(ctx: typer.Context, relation: Relations, keyspace: Keyspace, no_wait: NoWait = False) -> None:
    """Forget up to 100 relations, all or none; those that are not there are passed over."""
    session: Session = ctx.obj
    deleted = session.client.delete_relations(
        map(Relation.parse, relation), keyspace=keyspace, organization=session.organization, no_wait=no_wait
    )
    changed(f"{deleted.count} of {len(relation)} are deleted", deleted.propagation)


@relations.command("list")
def list_relations(
    ctx: typer.Context,
    keyspace: Keyspace,
    resource: Annotated[str, typer.Option(help="Only to this resource.")] = "",
    relation: Annotated[str, typer.Option(help="Only of this name.")] = "",
    principal: Annotated[str, typer.Option(help="Only this principal's own.")] = "",
    group: Annotated[str, typer.Option(help="Only this group's own.")] = "",
    page_size: PageSize = 0,
) -> None:
    """List the relations of a keyspace."""
    session: Session = ctx.obj
    found = session.client.list_relations(
        keyspace=keyspace,
        organization=session.organization,
        resource=resource,
        relation=relation,
        principal=principal,
        group=group,
        page_size=page_size,
    )
    columns = {"RESOURCE": "resource", "RELATION": "relation", "PRINCIPAL": "principal", "GROUP": "group"}
    listed(session, found, columns | {"WRITTEN": "created_at"})


@resources.command("put")
def put_resource(
    ctx: typer.Context,
    resource: Path,
    keyspace: Keyspace,
    attribute: Attributes = None,
    parent: Annotated[str, typer.Option(help="What it is a part of, e.g. assessments/42.")] = "",
    etag: Etag = "",
    no_wait: NoWait = False,
) -> None:
    """Keep facts about a resource, and what it is a part of; what was kept before is replaced as a whole."""
    session: Session = ctx.obj
    kept = session.client.put_resource(
        resource,
        keyspace=keyspace,
        organization=session.organization,
        attributes=facts(attribute),
        parent=parent,
        etag=etag,
        no_wait=no_wait,
    )
    show(session, kept)


@resources.command("show")
def show_resource(ctx: typer.Context, resource: Path, keyspace: Keyspace) -> None:
    """Show what is kept about a resource."""
    session: Session = ctx.obj
    show(session, session.client.get_resource(resource, keyspace=keyspace, organization=session.organization))


@resources.command("list")
def list_resources(
    ctx: typer.Context,
    keyspace: Keyspace,
    type: Annotated[str, typer.Option(help="Only of this type.")] = "",
    parent: Annotated[str, typer.Option(help="Only parts of this resource.")] = "",
    page_size: PageSize = 0,
) -> None:
    """List what is kept about the resources of a keyspace."""
    session: Session = ctx.obj
    found = session.client.list_resources(
        keyspace=keyspace, organization=session.organization, type=type, parent=parent, page_size=page_size
    )
    columns = {"RESOURCE": "resource", "PARENT": "parent", "ATTRIBUTES": "attributes", "CHANGED": "updated_at"}
    listed(session, found, columns)


@resources.command("delete")
def delete_resource(
    ctx: typer.Context, resource: Path, keyspace: Keyspace, yes: Yes = False, no_wait: NoWait = False
) -> None:
    """Forget all that is kept about a resource, and every relation to it."""
    session: Session = ctx.obj
    session.confirm(f"Forget the resource {resource!r}, with every relation to it", yes)
    gone = session.client.delete_resource(
        resource, keyspace=keyspace, organization=session.organization, no_wait=no_wait
    )
    changed(f"Resource {resource} is deleted, with {gone.count} relations to it", gone.propagation)
