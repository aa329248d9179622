"""The root of the command line: global options, and what becomes of errors."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from doorward import cli
from doorward.cli import (
    alerts,
    audit,
    compromised,
    credits,
    directory,
    facts,
    groups,
    imports,
    keys,
    keyspaces,
    rights,
    scan,
    usage,
    webhooks,
)
from doorward.cli.decisions import authorize, whoami
from doorward.cli.session import Output, Session, environment, exit_code, explain, tell
from doorward.errors import DoorwardError

_VALUED = frozenset(
    f"--{name}"
    for name in (
        "target", "key-file", "organization", "acting-for", "output", "timeout", "tls-ca", "tls-cert", "tls-key"
    )
)  # fmt: skip
_FLAGS = frozenset(["--insecure"])


def _hoist(args: list[str]) -> list[str]:
    """Return the arguments with the global options in front, where they count; people write them anywhere."""
    first: list[str] = []
    rest: list[str] = []
    left = iter(args)
    for arg in left:
        if arg == "--":
            rest.append(arg)
            break
        name, equals, _ = arg.partition("=")
        if name in _VALUED and not equals:
            first += [arg, *(value for value in [next(left, None)] if value is not None)]
        else:
            (first if name in _VALUED | _FLAGS else rest).append(arg)
    return first + rest + list(left)


class Root(TyperGroup):
    """The group of all commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _hoist(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (DoorwardError, ValueError, OSError) as error:
            tell(explain(error))
            # Whoever asks for a decision must not take "could not ask" for a denial, nor for another outcome.
            raise typer.Exit(2 if ctx.invoked_subcommand == "authorize" else exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    name="doorward",
    cls=Root,
    help=(cli.__doc__ or "").replace("\n\n0  done", "\n\n\b\n0  done"),
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(keyspaces.app, name="keyspaces")
app.add_typer(directory.organizations, name="organizations")
app.add_typer(directory.principals, name="principals")
app.add_typer(groups.groups, name="groups")
app.add_typer(groups.bindings, name="bindings")
app.add_typer(facts.relations, name="relations")
app.add_typer(facts.resources, name="resources")
app.add_typer(audit.app, name="audit")
app.add_typer(alerts.app, name="alerts")
app.add_typer(webhooks.app, name="webhooks")
keys.app.command("import")(imports.import_keys)
keys.app.command("compromised")(compromised.compromised)
app.add_typer(keys.app, name="keys")
app.add_typer(usage.app, name="usage")
app.add_typer(credits.app, name="credits")
app.command()(authorize)
app.command()(rights.explain)
app.command()(rights.allowed_actions)
app.command()(rights.accessible_resources)
app.command()(whoami)
app.command()(scan.scan)


@app.callback()
def options(
    ctx: typer.Context,
    target: Annotated[
        str | None, typer.Option(help="Where Doorward is. Default: DOORWARD_TARGET, 127.0.0.1:50051.")
    ] = None,
    key_file: Annotated[
        str | None, typer.Option(help="File with your key. Default: DOORWARD_KEY_FILE, DOORWARD_KEY.")
    ] = None,
    organization: Annotated[str, typer.Option(help="The organization. Default: your key's own.")] = "",
    acting_for: Annotated[str, typer.Option(help="Act for this principal, e.g. acme/alice.")] = "",
    output: Annotated[Output, typer.Option(help="How to write results.")] = Output.TABLE,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait. Default: 2 for decisions, 10 else.")] = None,
    tls_ca: Annotated[
        str | None, typer.Option(help="Authorities that prove the server: a PEM file, or 'system'.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="Certificate of this client: a PEM file.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="Private key of the certificate: a PEM file.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plaintext even to other machines.")] = False,
) -> None:
    environ = environment(
        target=target,
        key_file=key_file,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure="1" if insecure else None,
    )
    ctx.obj = Session(environ, organization, acting_for, output, timeout)


options.__doc__ = None  # the help of the app is that of the package
