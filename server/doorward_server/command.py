"""The commands of `doorward-server`: serve, and the way back in."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer
import uvloop

from doorward_server.app import App, build, opened
from doorward_server.config import Config, ConfigProblem, load
from doorward_server.core.errors import DoorwardError
from doorward_server.demo import furnish
from doorward_server.logs import configure
from doorward_server.service.bootstrap import RootKeyProblem, recover_root
from doorward_server.service.peppers import PepperProblem
from doorward_server.service.ring_keys import Part, RingKeys
from doorward_server.service.rotation import Rotation, RotationRefused
from doorward_server.store import StoreNotReady
from doorward_server.wire.server import BindFailed

log = structlog.get_logger("doorward")
command = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they can show local variables, and so keys
    help="Doorward: the keeper of API keys.",
)


def now() -> int:
    """The real clock: microseconds since 1970-01-01T00:00:00Z."""
    return time.time_ns() // 1000


@command.callback()
def _root() -> None:
    """Configured by DOORWARD_* variables or the TOML file that DOORWARD_CONFIG names; see docs/operating.md."""


@command.command()
def serve(
    demo: Annotated[
        Path | None,
        typer.Option(help="Apply the keyspaces in this folder, make two organizations, and say what to try."),
    ] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain."""
    config = _configured()
    _guarded(lambda: _serve(config, demo))


@command.command("recover-root")
def recover() -> None:
    """Make another root key, on this host, without asking anybody. Audited. The server may be running."""
    config = _configured()

    def work() -> None:
        with opened(config, now, secrets.token_bytes) as (store, keyring, _):
            key = recover_root(store, keyring.current.peppers, config.root_key, now(), secrets.token_bytes)
        _say(f"A new root key {key.id} is in {config.root_key}. Revoke the lost one: doorward keys revoke.")

    _guarded(work)


@command.command()
def migrate() -> None:
    """Bring the store up to this version and make its change log anew, also one that somebody changed; then stop."""
    config = _configured()

    def work() -> None:
        with opened(config, now, secrets.token_bytes, repair=True):
            _say("The store is up to date, and its change log is whole.")

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


def _configured() -> Config:
    configure()
    try:
        return load(os.environ)
    except ConfigProblem as problem:
        _fail(str(problem), 2)


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except (PepperProblem, RootKeyProblem, RotationRefused, StoreNotReady, BindFailed) as problem:
        _fail(str(problem), 1)
    except DoorwardError as problem:
        _fail(problem.message, 1)
    except OSError as problem:
        _fail(f"{problem.filename or 'The system'}: {problem.strerror}.", 1)
    except ValueError as problem:
        _fail(str(problem), 2)


def _serve(config: Config, demo: Path | None) -> None:
    with opened(config, now, secrets.token_bytes) as (store, keyring, made):
        if made:
            _say(f"This store is new. Its root key is in {config.root_key}: it may do everything, keep it safe.")
            if sys.stderr.isatty():
                _say(f"  {config.root_key.read_text('utf-8').strip()}")
        uvloop.run(_run(build(config, store, keyring, now, secrets.token_bytes), demo))


async def _run(app: App, demo: Path | None) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    port = await app.start()
    log.info("serving", listen=app.config.listen, port=port, metrics_port=app.metrics_port)
    try:
        if demo is not None:
            _say(await furnish(app, demo, port))
        await stopping.wait()
    finally:
        log.info("draining", seconds=app.config.drain_seconds)
        await app.stop()
        log.info("stopped")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(text: str, code: int) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(code)
