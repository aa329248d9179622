"""The two clients: one for threads, one for asyncio, with the same methods.

The methods are described in `doorward.calls`; here is what they have in common: deadlines, connections and errors.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import grpc

from doorward import config, status
from doorward.calls import A, Call, Pages, Stream, Streams, T, authz, directory, groups, imports, keys, keyspaces
from doorward.channels import DECISIONS, C, Pool, aio_pool, sync_pool
from doorward.config import TLS, Settings
from doorward.errors import CallFailed, Internal, Misconfigured, Unavailable
from doorward.secret import Secret

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

AUTHORIZE_TIMEOUT = 2.0
TIMEOUT = 10.0


class _Caller(Generic[C]):
    """Whom to call, as whom, over what, and how long to wait: what both clients have."""

    _open_pool: Callable[[Settings, int], Pool[C]]

    def __init__(
        self,
        target: str,
        key: str | Secret,
        *,
        tls: TLS | None = None,
        insecure: bool = False,
        channels: int = 1,
        authorize_timeout: float = AUTHORIZE_TIMEOUT,
        timeout: float = TIMEOUT,
    ) -> None:
        """Make a client that calls *target* with a key of the keyspace `doorward`. Nothing is opened before a call.

        Without `tls`, and without `insecure`, only targets on this machine are called. `channels` connections are used
        in turn: each is served by one worker process of the server. `authorize_timeout` is how many seconds the methods
        that decide wait by default, `timeout` how many the others do. Raises Misconfigured.
        """
        self._set_up(config.check(target, key, tls, insecure), channels, authorize_timeout, timeout)

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        channels: int = 1,
        authorize_timeout: float = AUTHORIZE_TIMEOUT,
        timeout: float = TIMEOUT,
    ) -> Self:
        """Make a client as the environment says. Raises Misconfigured with everything that is wrong.

        DOORWARD_TARGET (127.0.0.1:50051); DOORWARD_KEY_FILE (path of a file with the key) or DOORWARD_KEY; for TLS
        DOORWARD_TLS_CA (path, or `system` for the authorities that grpc brings along), DOORWARD_TLS_CERT and
        DOORWARD_TLS_KEY (paths); DOORWARD_INSECURE (1: plaintext even to other machines).
        """
        caller = cls.__new__(cls)
        caller._set_up(config.from_env(environ), channels, authorize_timeout, timeout)
        return caller

    def _set_up(self, settings: Settings, channels: int, authorize_timeout: float, timeout: float) -> None:
        if channels < 1 or not authorize_timeout > 0 or not timeout > 0:
            raise Misconfigured(["channels, authorize_timeout and timeout must be positive"])
        self._settings = settings
        self._authorize_timeout = authorize_timeout
        self._timeout = timeout
        self._acting_for = ""
        self._pool = type(self)._open_pool(settings, channels)

    def acting_for(self, principal: str) -> Self:
        """Return a view of this client whose calls are made for a principal ("acme/alice") that you have signed in.

        They have the rights of both, and need `principals:act`. The view shares the connections: closing either
        closes both.
        """
        if not re.fullmatch(r"[!-~]+/[!-~]+", principal):
            raise ValueError("acting_for: write <organization>/<principal>, e.g. acme/alice")
        view = copy.copy(self)
        view._acting_for = principal
        return view

    def _metadata(self) -> list[tuple[str, str | bytes]]:
        # Made for each call, so that no attribute shows the key.
        own = ("authorization", f"Bearer {self._settings.key.reveal()}")
        return [own, ("doorward-acting-for", self._acting_for)] if self._acting_for else [own]

    def _deadline(self, call: Call[Any, Any] | Stream[Any, Any]) -> float:
        if call.timeout is not None:
            return call.timeout
        usual = self._authorize_timeout if call.kind.DESCRIPTOR.full_name in DECISIONS else self._timeout
        return max(usual, call.patience)

    def __repr__(self) -> str:
        acting = f", acting for {self._acting_for}" if self._acting_for else ""
        return f"<{type(self).__name__} of {self._settings.target}{acting}>"


def _dressed(method: F, describe: Callable[..., Any], answer: str) -> F:
    """Give a method the name, the docstring and, for people and tools that ask, the signature of its description."""
    described = inspect.signature(describe)
    told = re.sub(r"^(Call|Pages|Streams)\[[\w.]+, (.+)\]$", r"\2", str(described.return_annotation))
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__name__, method.__doc__ = describe.__name__, describe.__doc__
    method.__signature__ = described.replace(  # type: ignore[attr-defined]  # what inspect looks for
        parameters=[me, *described.parameters.values()], return_annotation=answer.format(told)
    )
    return method


def _call(describe: Callable[P, Call[A, T]]) -> Callable[Concatenate[Client, P], T]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(describe(*args, **kwargs))

    return _dressed(method, describe, "{}")


def _list(describe: Callable[P, Pages[A, T]]) -> Callable[Concatenate[Client, P], Iterator[T]]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._turn(describe(*args, **kwargs))

    return _dressed(method, describe, "Iterator[{}]")


def _stream(describe: Callable[P, Streams[A, list[T]]]) -> Callable[Concatenate[Client, P], list[T]]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return [result for stream in describe(*args, **kwargs) for result in self._ask(stream)]

    return _dressed(method, describe, "{}")


def _acall(describe: Callable[P, Call[A, T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(describe(*args, **kwargs))

    return _dressed(method, describe, "{}")


def _alist(describe: Callable[P, Pages[A, T]]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._turn(describe(*args, **kwargs))

    return _dressed(method, describe, "AsyncIterator[{}]")


def _astream(
    describe: Callable[P, Streams[A, list[T]]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, list[T]]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return [result for stream in describe(*args, **kwargs) for result in await self._ask(stream)]

    return _dressed(method, describe, "{}")


class Client(_Caller[grpc.Channel]):
    """Doorward for threads; all methods may be called from several at once, and in children of a fork.

    Lists fetch their pages as they are read. Every method raises CallFailed, or a class below it that says why.

        with Client("127.0.0.1:50051", key) as doorward:
            if doorward.authorize(text, keyspace="aiia", action="findings:read", resource="findings/42"):
                ...
    """

    _open_pool = staticmethod(sync_pool)

    authorize = _call(authz.authorize)
    require = _call(authz.require)
    batch_authorize = _call(authz.batch_authorize)
    introspect = _call(authz.introspect)
    whoami = _call(authz.whoami)

    create_key = _call(keys.create_key)
    get_key = _call(keys.get_key)
    list_keys = _list(keys.list_keys)
    update_key = _call(keys.update_key)
    rotate_key = _call(keys.rotate_key)
    revoke_key = _call(keys.revoke_key)
    delete_key = _call(keys.delete_key)
    batch_revoke_keys = _call(keys.batch_revoke_keys)
    reveal_key = _call(keys.reveal_key)
    import_keys = _stream(imports.import_keys)

    create_organization = _call(directory.create_organization)
    get_organization = _call(directory.get_organization)
    list_organizations = _list(directory.list_organizations)
    update_organization = _call(directory.update_organization)
    delete_organization = _call(directory.delete_organization)
    create_principal = _call(directory.create_principal)
    get_principal = _call(directory.get_principal)
    list_principals = _list(directory.list_principals)
    update_principal = _call(directory.update_principal)
    delete_principal = _call(directory.delete_principal)

    create_group = _call(groups.create_group)
    get_group = _call(groups.get_group)
    list_groups = _list(groups.list_groups)
    update_group = _call(groups.update_group)
    delete_group = _call(groups.delete_group)
    add_group_member = _call(groups.add_group_member)
    remove_group_member = _call(groups.remove_group_member)
    list_group_members = _list(groups.list_group_members)
    create_binding = _call(groups.create_binding)
    get_binding = _call(groups.get_binding)
    list_bindings = _list(groups.list_bindings)
    update_binding = _call(groups.update_binding)
    delete_binding = _call(groups.delete_binding)

    apply_keyspace = _call(keyspaces.apply_keyspace)
    get_keyspace = _call(keyspaces.get_keyspace)
    list_keyspaces = _list(keyspaces.list_keyspaces)
    get_json_web_key_set = _call(keyspaces.get_json_web_key_set)

    def wait_until_ready(self, timeout: float) -> None:
        """Open every connection, waiting until the server is there. For start-up: calls themselves fail at once.

        Raises Unavailable after *timeout* seconds.
        """
        end = time.monotonic() + timeout
        waiting = [grpc.channel_ready_future(connection.channel) for connection in self._pool.open().connections]
        try:
            for ready in waiting:
                ready.result(max(0, end - time.monotonic()))
        except grpc.FutureTimeoutError:
            raise Unavailable(f"No connection to {self._settings.target} within {timeout} s.") from None
        finally:
            for ready in waiting:
                ready.cancel()

    def close(self) -> None:
        """Close the connections, and end the calls on them."""
        for connection in self._pool.close():
            connection.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, call: Call[A, T] | Stream[A, T]) -> T:
        method = self._pool.next().method(call.kind, call.answer)
        try:
            answer = method(call.sent, timeout=self._deadline(call), metadata=self._metadata())
        except grpc.RpcError as error:
            failed = status.read(error)
        else:
            return call.read(answer)
        raise failed  # out here it has no context: nothing of the call hangs on to it

    def _turn(self, pages: Pages[A, T]) -> Iterator[T]:
        items, token = self._ask(pages.page(""))
        yield from items
        while token:
            items, token = self._ask(pages.page(token))
            yield from items


class AsyncClient(_Caller[grpc.aio.Channel]):
    """Doorward for asyncio: the methods of Client, to be awaited; lists are read with `async for`.

    The connections belong to the event loop that runs at the first call; another loop gets connections of its own.
    Close it before you fork: gRPC works in no child of a process with open asyncio channels, and clients there say so.

        async with AsyncClient("127.0.0.1:50051", key) as doorward:
            decision = await doorward.authorize(text, keyspace="aiia", action="findings:read", resource="findings/42")
    """

    _open_pool = staticmethod(aio_pool)

    authorize = _acall(authz.authorize)
    require = _acall(authz.require)
    batch_authorize = _acall(authz.batch_authorize)
    introspect = _acall(authz.introspect)
    whoami = _acall(authz.whoami)

    create_key = _acall(keys.create_key)
    get_key = _acall(keys.get_key)
    list_keys = _alist(keys.list_keys)
    update_key = _acall(keys.update_key)
    rotate_key = _acall(keys.rotate_key)
    revoke_key = _acall(keys.revoke_key)
    delete_key = _acall(keys.delete_key)
    batch_revoke_keys = _acall(keys.batch_revoke_keys)
    reveal_key = _acall(keys.reveal_key)
    import_keys = _astream(imports.import_keys)

    create_organization = _acall(directory.create_organization)
    get_organization = _acall(directory.get_organization)
    list_organizations = _alist(directory.list_organizations)
    update_organization = _acall(directory.update_organization)
    delete_organization = _acall(directory.delete_organization)
    create_principal = _acall(directory.create_principal)
    get_principal = _acall(directory.get_principal)
    list_principals = _alist(directory.list_principals)
    update_principal = _acall(directory.update_principal)
    delete_principal = _acall(directory.delete_principal)

    create_group = _acall(groups.create_group)
    get_group = _acall(groups.get_group)
    list_groups = _alist(groups.list_groups)
    update_group = _acall(groups.update_group)
    delete_group = _acall(groups.delete_group)
    add_group_member = _acall(groups.add_group_member)
    remove_group_member = _acall(groups.remove_group_member)
    list_group_members = _alist(groups.list_group_members)
    create_binding = _acall(groups.create_binding)
    get_binding = _acall(groups.get_binding)
    list_bindings = _alist(groups.list_bindings)
    update_binding = _acall(groups.update_binding)
    delete_binding = _acall(groups.delete_binding)

    apply_keyspace = _acall(keyspaces.apply_keyspace)
    get_keyspace = _acall(keyspaces.get_keyspace)
    list_keyspaces = _alist(keyspaces.list_keyspaces)
    get_json_web_key_set = _acall(keyspaces.get_json_web_key_set)

    async def wait_until_ready(self, timeout: float) -> None:  # noqa: ASYNC109  # as Client has it
        """Open every connection, waiting until the server is there. For start-up: calls themselves fail at once.

        Raises Unavailable after *timeout* seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(
                    *(connection.channel.channel_ready() for connection in self._pool.open().connections)
                )
        except TimeoutError:
            raise Unavailable(f"No connection to {self._settings.target} within {timeout} s.") from None

    async def close(self) -> None:
        """Close the connections, and end the calls on them."""
        for connection in self._pool.close():
            await connection.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, call: Call[A, T] | Stream[A, T]) -> T:
        method = self._pool.next().method(call.kind, call.answer)
        failed: CallFailed
        lost = False
        try:
            answer = await method(call.sent, timeout=self._deadline(call), metadata=self._metadata())
        except grpc.RpcError as error:
            failed = status.read(error)
            lost = isinstance(failed, Internal) and not error.trailing_metadata()
        else:
            if answer is not None:
                return call.read(answer)
            failed = Internal("The answer cannot be read.")  # grpc.aio says None where grpc says INTERNAL
        if lost and isinstance(call, Stream) and len(call.requests) > 1:
            # Where a server refuses a stream that is still being sent, grpc.aio often forgets why. The header alone,
            # which changes nothing, is refused again.
            await self._ask(call.opening)
        raise failed  # out here it has no context: nothing of the call hangs on to it

    async def _turn(self, pages: Pages[A, T]) -> AsyncIterator[T]:
        items, token = await self._ask(pages.page(""))
        for item in items:
            yield item
        while token:
            items, token = await self._ask(pages.page(token))
            for item in items:
                yield item
