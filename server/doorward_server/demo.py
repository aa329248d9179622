"""Something to try: the example keyspaces, two organizations with a user each, and what to type next."""

from __future__ import annotations

from pathlib import Path

from doorward_server.app import App
from doorward_server.core.directory import Binding, Organization, Principal, PrincipalKind, SubjectKind
from doorward_server.core.errors import AlreadyExists, NotFound
from doorward_server.service.guard import Caller

DEFAULT_PORT = 50051
PEOPLE = {"acme": ("alice", "Alice Ng"), "globex": ("bob", "Bob Diaz")}


async def furnish(app: App, folder: Path, port: int) -> str:
    """Fill a store that lacks the examples, as its root key, and return three commands to paste. Safe to repeat."""
    management = app.pools[1]
    root = await management.run(app.config.root_key.read_text, "utf-8")
    caller = await app.authorizer.authenticate([("authorization", f"Bearer {root.strip()}")], None)
    await management.run(_keyspaces, app, caller, folder)
    for organization, (principal, name) in PEOPLE.items():
        await management.run(_people, app, caller, organization, principal, name)
    return _commands(app.config.root_key, port)


def _keyspaces(app: App, caller: Caller, folder: Path) -> None:
    for file in sorted(folder.glob("*.yaml")):
        app.keyspaces.apply(caller, file.read_text("utf-8"), "", dry_run=False, force=True)


def _people(app: App, caller: Caller, organization: str, principal: str, name: str) -> None:
    try:
        app.directory.get_organization(caller, organization)
    except NotFound:
        app.directory.create_organization(caller, Organization(organization, organization.title(), {}, True, 0, 0))
    try:
        app.directory.create_principal(
            caller, Principal(organization, principal, PrincipalKind.USER, name, "", {}, True, 0, 0)
        )
    except AlreadyExists:
        return
    for keyspace, role in (("doorward", "member"), ("factorythread", "editor")):
        binding = Binding(organization, "", SubjectKind.PRINCIPAL, principal, keyspace, role, (), None, None, 0, 0)
        app.roles.create_binding(caller, binding)


def _commands(root_key: Path, port: int) -> str:
    target = "" if port == DEFAULT_PORT else f"DOORWARD_TARGET=127.0.0.1:{port} "
    key = root_key.parent / "servicenow.key"
    return f"""
Doorward is up on 127.0.0.1:{port}. In another terminal, in this folder:

export {target}DOORWARD_KEY_FILE={root_key} PATH="$PWD/.venv/bin:$PATH"
doorward keys create --organization acme --keyspace aiia --name ServiceNow --scope read:findings > {key}
doorward authorize findings:read findings/42 --keyspace aiia --organization acme --presented-key {key}
"""
