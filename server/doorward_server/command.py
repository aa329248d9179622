"""The commands of `doorward-server`: serve, and the way back in."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

from doorward_server.app import opened
from doorward_server.config import Config, ConfigProblem, load
from doorward_server.core.errors import DoorwardError
from doorward_server.logs import configure
from doorward_server.service.bootstrap import RootKeyProblem, recover_root
from doorward_server.service.peppers import PepperProblem
from doorward_server.service.ring_keys import Part, RingKeys
from doorward_server.service.rotation import Rotation, RotationRefused
from doorward_server.serving import now, say, serve_alone, serve_as_worker, supervise
from doorward_server.store import StoreNotReady
from doorward_server.wire.server import BindFailed, Transport, TransportMissing
from doorward_server.workers import PortTaken

T = TypeVar("T")
KNOWN = (PepperProblem, RootKeyProblem, RotationRefused, StoreNotReady, BindFailed, PortTaken, TransportMissing)
"""What says by itself what happened and what to do."""
command = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they can show local variables, and so keys
    help="Doorward: the keeper of API keys.",
)


@command.callback()
def _root() -> None:
    """Configured by DOORWARD_* variables or the TOML file that DOORWARD_CONFIG names; see docs/operating.md."""


Demo = Annotated[
    Path | None, typer.Option(help="Apply the keyspaces in this folder, make two organizations, and say what to try.")
]
Transports = Annotated[
    Transport | None,
    typer.Option(
        help="Who speaks HTTP/2; DOORWARD_TRANSPORT says it too. native is an experiment: unary RPCs only, no TLS, on "
        "a loopback address or behind a proxy."
    ),
]


@command.command()
def serve(
    demo: Demo = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that share the port; one for each core at most.")
    ] = 1,
    transport: Transports = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain."""
    config = _configured(transport)
    if workers == 1:
        _guarded(lambda: serve_alone(config, demo))
        return
    status = _guarded(lambda: supervise(config, demo, workers))
    if status:
        sys.exit(status)


@command.command(hidden=True)
def worker(line: int, listen: Annotated[str, typer.Option()], demo: Demo = None, transport: Transports = None) -> None:
    """One of the processes of `serve --workers`, which starts it; *line* is its end of a socket pair."""
    config = _configured(transport).model_copy(update={"listen": listen, "metrics_listen": ""})
    _guarded(lambda: serve_as_worker(config, demo, line))


@command.command("recover-root")
def recover() -> None:
    """Make another root key, on this host, without asking anybody. Audited. The server may be running."""
    config = _configured()

    def work() -> None:
        with opened(config, now, secrets.token_bytes) as (store, keyring, _):
            key = recover_root(store, keyring.current.peppers, config.root_key, now(), secrets.token_bytes)
        say(f"A new root key {key.id} is in {config.root_key}. Revoke the lost one: doorward keys revoke.")

    _guarded(work)


@command.command()
def migrate() -> None:
    """Bring the store up to this version and make its change log anew, also one that somebody changed; then stop."""
    config = _configured()

    def work() -> None:
        with opened(config, now, secrets.token_bytes, repair=True):
            say("The store is up to date, and its change log is whole.")

    _guarded(work)


pepper = typer.Typer(no_args_is_help=True, help="Change the pepper that keys are kept with, while servers run.")
command.add_typer(pepper, name="pepper")
Version = Annotated[int, typer.Argument(help="As `pepper status` shows it.")]


@pepper.command()
def status() -> None:
    """Show the versions, how many secrets are under each, which replicas have them, and what to do next."""
    _rotate(Rotation.status)


@pepper.command()
def add() -> None:
    """First: make a new pepper in this host's file. Nothing uses it yet."""
    _rotate(Rotation.add)


@pepper.command()
def activate(version: Version) -> None:
    """Second, when every replica has the file: make new secrets with it."""
    _rotate(lambda rotation: rotation.activate(version))


@pepper.command()
def rewrap(
    retired: Annotated[
        bool, typer.Option("--retired", help="Also secrets under retired versions: only after a backup was restored.")
    ] = False,
) -> None:
    """Third: put every stored secret under the active pepper. Nobody notices; may be stopped and run again."""
    _rotate(lambda rotation: rotation.rewrap(include_retired=retired))


@pepper.command()
def retire(version: Version) -> None:
    """Last: let a version that is no longer needed by itself prove nothing any more."""
    _rotate(lambda rotation: rotation.retire(version))


def _rotate(step: Callable[[Rotation], None]) -> None:
    config = _configured()

    def work() -> None:
        with opened(config, now, secrets.token_bytes) as (store, keyring, _):
            step(Rotation(store, keyring, config.peppers, now, secrets.token_bytes, print, time.sleep))

    _guarded(work)


def _ring_commands(part: Part) -> typer.Typer:
    """Return the two steps for *part* of the pepper file as commands."""
    steps = typer.Typer(no_args_is_help=True, help=f"Change the {part} key, while servers run.")

    @steps.command("add")
    def add_key() -> None:
        """First: make a new version in this host's pepper file. Nothing uses it yet."""
        _change_ring(part, RingKeys.add)

    @steps.command("activate")
    def activate_key(version: Annotated[int, typer.Argument(help="As `add` said it.")]) -> None:
        """Second, when every replica has the file: use it for what is new."""
        _change_ring(part, lambda keys: keys.activate(version))

    return steps


def _change_ring(part: Part, step: Callable[[RingKeys], None]) -> None:
    config = _configured()

    def work() -> None:
        with opened(config, now, secrets.token_bytes) as (store, _, _):
            step(RingKeys(store, config.peppers, part, now, secrets.token_bytes, print))

    _guarded(work)


for each in Part:
    command.add_typer(_ring_commands(each), name=each.value)


def _configured(transport: Transport | None = None) -> Config:
    configure()
    said = {"DOORWARD_TRANSPORT": transport} if transport else {}
    try:
        return load({**os.environ, **said})
    except ConfigProblem as problem:
        _fail(str(problem), 2)


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except KNOWN as problem:
        _fail(str(problem), 1)
    except DoorwardError as problem:
        _fail(problem.message, 1)
    except OSError as problem:
        _fail(f"{problem.filename or 'The system'}: {problem.strerror}.", 1)
    except ValueError as problem:
        _fail(str(problem), 2)


def _fail(text: str, code: int) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(code)
