"""A real Doorward for tests: the App on a real store, served on a free port by a thread with its own event loop.

Only the clock and the dice are not real. Callers are raw gRPC stubs, so that a test says what is on the wire.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import structlog
import yaml
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from doorward.v1 import (
    alerts_pb2_grpc,
    audit_pb2_grpc,
    authz_pb2_grpc,
    credits_pb2_grpc,
    directory_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    keyspaces_pb2,
    keyspaces_pb2_grpc,
    usage_pb2_grpc,
    webhooks_pb2_grpc,
)
from doorward_server import logs
from doorward_server.app import App, build, opened
from doorward_server.config import Config
from doorward_server.wire.server import Servicers
from tests.fakes import FakeClock, FakeRandom

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "keyspaces"
TIMEOUT = 30.0
"""Seconds that a call of a test may take: a bound for what hangs, not an expectation."""
_numbers = itertools.count(1)


def unique(word: str) -> str:
    """An id that nothing else in this process has."""
    return f"{word}{next(_numbers)}"


def bearer(key: str) -> list[tuple[str, str]]:
    """The metadata of a caller."""
    return [("authorization", f"Bearer {key}")] if key else []


@dataclass(frozen=True)
class _Details(grpc.ClientCallDetails):
    method: Any
    timeout: Any
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any = None


class _As(
    grpc.UnaryUnaryClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds metadata, and a deadline to calls without one."""

    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._dressed(client_call_details), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._dressed(client_call_details), request_iterator)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._dressed(client_call_details), request)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._dressed(client_call_details), request_iterator)

    def _dressed(self, given: Any) -> _Details:
        return _Details(
            given.method,
            given.timeout or TIMEOUT,
            [*(given.metadata or ()), *self._metadata],
            given.credentials,
            given.wait_for_ready,
            given.compression,
        )


class Api:
    """All services, called with some metadata."""

    def __init__(self, channel: grpc.Channel, metadata: list[tuple[str, str]]) -> None:
        dressed = grpc.intercept_channel(channel, _As(metadata))
        self.keys = keys_pb2_grpc.KeyServiceStub(dressed)
        self.authz = authz_pb2_grpc.AuthzServiceStub(dressed)
        self.directory = directory_pb2_grpc.DirectoryServiceStub(dressed)
        self.webhooks = webhooks_pb2_grpc.WebhookServiceStub(dressed)
        self.alerts = alerts_pb2_grpc.AlertServiceStub(dressed)
        self.keyspaces = keyspaces_pb2_grpc.KeyspaceServiceStub(dressed)
        self.usage = usage_pb2_grpc.UsageServiceStub(dressed)
        self.audit = audit_pb2_grpc.AuditServiceStub(dressed)
        self.credits = credits_pb2_grpc.CreditServiceStub(dressed)

    def stub(self, service: str) -> Any:
        """The stub of a service by its name in the contract."""
        return {
            "KeyService": self.keys,
            "AuthzService": self.authz,
            "DirectoryService": self.directory,
            "KeyspaceService": self.keyspaces,
            "AlertService": self.alerts,
            "WebhookService": self.webhooks,
            "UsageService": self.usage,
            "AuditService": self.audit,
            "CreditService": self.credits,
        }[service]


@dataclass
class Server:
    """A Doorward that runs. `root` is the text of its root key."""

    app: App = field(repr=False)
    clock: FakeClock
    port: int
    root: str = field(repr=False)
    channel: grpc.Channel
    log: io.StringIO
    loop: asyncio.AbstractEventLoop = field(repr=False)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def api(self, key: str = "", acting_for: str = "") -> Api:
        """Stubs that call with *key* (default: the root key; "-": none)."""
        metadata = [] if key == "-" else bearer(key or self.root)
        return Api(self.channel, [*metadata, *([("doorward-acting-for", acting_for)] if acting_for else [])])

    def on_loop(self, work: Callable[[], Any]) -> Any:
        """Await what *work* returns on the server's event loop."""

        async def run() -> Any:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(TIMEOUT)

    def mark(self, *organizations: str) -> tuple[int, dict[str, int]]:
        """What a change moves: the revision, and how many audit events the operator and *organizations* have."""
        store = self.app.store
        return store.revision(), {id: store.verify_chain(id).length for id in ("operator", *organizations)}


@contextmanager
def serving(
    url: str,
    folder: Path,
    *,
    clock: FakeClock | None = None,
    servicers: Callable[[App], Servicers] | None = None,
    furnished: bool = True,
    **settings: Any,
) -> Iterator[Server]:
    """Serve from the store at *url*, with the example keyspaces applied if *furnished*."""
    clock, log = clock or FakeClock(), io.StringIO()
    _log_to(log)
    given = {"listen": "127.0.0.1:0", "metrics_listen": "", "drain_seconds": 2.0, **settings}
    config = Config(store=url, state_dir=folder, **given)
    random = FakeRandom(unique("server"))
    with opened(config, clock, random) as (store, keyring, _):
        app = build(config, store, keyring, clock, random)
        if servicers is not None:
            app.servicers = servicers(app)
        with _Thread(app) as thread, grpc.insecure_channel(f"127.0.0.1:{thread.port}") as channel:
            root = config.root_key.read_text("utf-8").strip()
            server = Server(app, clock, thread.port, root, channel, log, thread.loop)
            if furnished:
                furnish(server.api())
            yield server


def furnish(api: Api) -> None:
    """Apply the example keyspaces."""
    for file in sorted(EXAMPLES.glob("*.yaml")):
        api.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=example(file.stem)))


def example(name: str) -> str:
    """The file of an example keyspace without its guard rails, which are tested by themselves (tests/service), and
    without what goes with them.
    """
    document = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text("utf-8"))
    for part in ("keys", "api_version", "alerts", "tests"):
        document.pop(part, None)
    return str(yaml.safe_dump(document, sort_keys=False))


def _log_to(log: io.StringIO) -> None:
    """Send the product's log lines, dressed as in production, to *log*."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, logs.redact, structlog.processors.JSONRenderer(sort_keys=True)],
        logger_factory=lambda *_: structlog.PrintLogger(log),
        cache_logger_on_first_use=False,
    )


class _Thread:
    """The event loop of a server, in a thread of its own."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _run(self) -> None:
        self.loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            self.port = await self._app.start()
        except BaseException as failure:  # noqa: BLE001  # handed over to the test's thread
            self._failure = failure
            return
        finally:
            self._started.set()
        await self._stopping.wait()
        await self._app.stop()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(TIMEOUT)
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), f"it does not stop; what it waits for:\n{_stacks(self.loop)}"


def _stacks(loop: asyncio.AbstractEventLoop) -> str:
    """Where the tasks of a loop are."""
    text = io.StringIO()
    for task in asyncio.all_tasks(loop):
        task.print_stack(file=text)
    return text.getvalue()


def conversed(rpc: Any, request: Any) -> Any:
    """The first answer to *request* of an RPC in which both sides stream; then the caller goes away."""
    done = threading.Event()

    def messages() -> Iterator[Any]:
        yield request
        done.wait(TIMEOUT)  # a caller that says no more gets no more answers

    answers = rpc(messages())
    try:
        return next(answers)
    finally:
        done.set()
        answers.cancel()


def fed(rpc: Any, request: Any) -> Any:
    """The first answer to *request* of an RPC in which the server streams; then the caller goes away."""
    answers = rpc(request)
    try:
        return next(answers)
    finally:
        answers.cancel()


# --- errors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """How a call failed, as a caller sees it."""

    code: str
    reason: str
    metadata: dict[str, str]
    message: str
    raw: bytes = field(repr=False)

    def about(self, *words: str) -> Refusal:
        """The same with each of *words* blotted out: what is left must not depend on them."""

        def blot(text: str) -> str:
            for word in words:
                text = text.replace(word, "…")
            return text

        return replace(
            self,
            message=blot(self.message),
            metadata={k: blot(v) for k, v in self.metadata.items()},
            raw=b"",
        )


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Read a failed call: status, and the ErrorInfo in its details."""
    trailing: Any = error.trailing_metadata() or ()
    raw: bytes = dict(trailing).get("grpc-status-details-bin", b"")
    info = ErrorInfo()
    for detail in Status.FromString(raw).details:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
    assert info.domain in ("", "doorward")
    return Refusal(error.code().name, info.reason, dict(info.metadata), error.details() or "", raw)


def refused(call: Callable[[], object]) -> Refusal:
    """Return how *call* failed; fails if it did not."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return refusal_of(error)
    raise AssertionError(f"the call succeeded: {answer}")


# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """A key that a test has made, and its text."""

    key: keys_pb2.Key
    text: str

    @property
    def id(self) -> str:
        return self.key.id


def broken(text: str, position: int = -1) -> str:
    """*text* with one character changed."""
    letters = list(text)
    letters[position] = "A" if letters[position] != "A" else "B"
    return "".join(letters)
