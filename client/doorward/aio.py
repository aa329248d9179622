"""The client for asyncio; the one for threads, with the same methods, is in `doorward.client`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc

from doorward import status
from doorward.caller import Caller
from doorward.calls import (
    A,
    Call,
    Feed,
    Pages,
    Stream,
    T,
    alerts,
    audit,
    authz,
    credits,
    directory,
    facts,
    groups,
    imports,
    keys,
    keyspaces,
    leaks,
    listing,
    usage,
    webhooks,
)
from doorward.calls.authz import Deciding
from doorward.channels import aio_pool
from doorward.decision import Decision
from doorward.errors import CallFailed, Internal, Unavailable
from doorward.keeping import LeasedByTask
from doorward.methods import acall, adecided, afeed, alisted, astream


class AsyncClient(Caller[grpc.aio.Channel]):
    """Doorward for asyncio: the methods of Client, to be awaited; lists are read with `async for`.

    The connections belong to the event loop that runs at the first call; another loop gets connections of its own.
    Close it before you fork: gRPC works in no child of a process with open asyncio channels, and clients there say so.

        async with AsyncClient("127.0.0.1:50051", key) as doorward:
            decision = await doorward.authorize(text, keyspace="aiia", action="findings:read", resource="findings/42")
    """

    _open_pool = staticmethod(aio_pool)
    _open_cache = LeasedByTask
    _cached: LeasedByTask | None

    authorize = adecided(authz.authorize)
    require = adecided(authz.require, authz.allowed)
    batch_authorize = acall(authz.batch_authorize)
    introspect = acall(authz.introspect)
    explain_authorization = acall(listing.explain_authorization)
    list_allowed_actions = acall(listing.list_allowed_actions)
    list_accessible_resources = acall(listing.list_accessible_resources)
    whoami = acall(authz.whoami)

    create_key = acall(keys.create_key)
    get_key = acall(keys.get_key)
    list_keys = alisted(keys.list_keys)
    update_key = acall(keys.update_key)
    rotate_key = acall(keys.rotate_key)
    revoke_key = acall(keys.revoke_key)
    delete_key = acall(keys.delete_key)
    batch_revoke_keys = acall(keys.batch_revoke_keys)
    reveal_key = acall(keys.reveal_key)
    report_leak = acall(leaks.report_leak)
    import_keys = astream(imports.import_keys)

    create_organization = acall(directory.create_organization)
    get_organization = acall(directory.get_organization)
    list_organizations = alisted(directory.list_organizations)
    update_organization = acall(directory.update_organization)
    delete_organization = acall(directory.delete_organization)
    create_principal = acall(directory.create_principal)
    get_principal = acall(directory.get_principal)
    list_principals = alisted(directory.list_principals)
    update_principal = acall(directory.update_principal)
    delete_principal = acall(directory.delete_principal)

    create_group = acall(groups.create_group)
    get_group = acall(groups.get_group)
    list_groups = alisted(groups.list_groups)
    update_group = acall(groups.update_group)
    delete_group = acall(groups.delete_group)
    add_group_member = acall(groups.add_group_member)
    remove_group_member = acall(groups.remove_group_member)
    list_group_members = alisted(groups.list_group_members)
    create_binding = acall(groups.create_binding)
    get_binding = acall(groups.get_binding)
    list_bindings = alisted(groups.list_bindings)
    update_binding = acall(groups.update_binding)
    delete_binding = acall(groups.delete_binding)

    write_relations = acall(facts.write_relations)
    delete_relations = acall(facts.delete_relations)
    list_relations = alisted(facts.list_relations)
    put_resource = acall(facts.put_resource)
    get_resource = acall(facts.get_resource)
    list_resources = alisted(facts.list_resources)
    delete_resource = acall(facts.delete_resource)

    apply_keyspace = acall(keyspaces.apply_keyspace)
    test_keyspace = acall(keyspaces.test_keyspace)
    get_keyspace = acall(keyspaces.get_keyspace)
    list_keyspaces = alisted(keyspaces.list_keyspaces)
    get_json_web_key_set = acall(keyspaces.get_json_web_key_set)

    list_alerts = alisted(alerts.list_alerts)
    acknowledge_alert = acall(alerts.acknowledge_alert)
    watch_alerts = afeed(alerts.watch_alerts)
    set_alert_rule = acall(alerts.set_alert_rule)
    list_alert_rules = alisted(alerts.list_alert_rules)
    delete_alert_rule = acall(alerts.delete_alert_rule)

    create_webhook = acall(webhooks.create_webhook)
    list_webhooks = alisted(webhooks.list_webhooks)
    update_webhook = acall(webhooks.update_webhook)
    rotate_webhook_secret = acall(webhooks.rotate_webhook_secret)
    delete_webhook = acall(webhooks.delete_webhook)
    list_webhook_deliveries = alisted(webhooks.list_webhook_deliveries)
    redeliver_webhook = acall(webhooks.redeliver_webhook)
    test_webhook = acall(webhooks.test_webhook)
    get_usage = acall(usage.get_usage)
    export_usage = afeed(usage.export_usage)
    list_decisions = alisted(usage.list_decisions)
    list_events = alisted(audit.list_events)
    verify_chain = alisted(audit.verify_chain)
    get_head = acall(audit.get_head)
    get_credits = acall(credits.get_credits)
    list_credits = alisted(credits.list_credits)
    set_credits = acall(credits.set_credits)
    add_credits = acall(credits.add_credits)

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
        """Close the connections, and end the calls on them. A cache reports what it answered before."""
        if self._cached is not None:
            await self._cached.close()
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

    async def _decide(self, question: Deciding, words: bytes | None) -> Decision:
        asked = self._look(question.request, words)
        if isinstance(asked, Decision):
            return question.check(asked)
        try:
            answer = await self._ask(question.call)
        except CallFailed as failed:
            assumed = self._assumed(question, failed)
            if assumed is None:
                raise
            return assumed
        return self._learned(question, answer, asked)

    async def _turn(self, pages: Pages[A, T]) -> AsyncIterator[T]:
        items, token = await self._ask(pages.page(""))
        for item in items:
            yield item
        while token:
            items, token = await self._ask(pages.page(token))
            for item in items:
                yield item

    async def _follow(self, feed: Feed[A, T]) -> AsyncIterator[T]:
        method = self._pool.next().method(feed.kind, feed.answer)
        answers = method(feed.request, timeout=feed.timeout, metadata=self._metadata())
        failed: CallFailed
        try:
            async for answer in answers:
                if answer is None:  # grpc.aio says None where grpc says INTERNAL
                    raise Internal("The answer cannot be read.")
                yield feed.read(answer)
        except grpc.RpcError as error:
            failed = status.read(error)
        else:
            return
        finally:
            answers.cancel()  # whoever reads no further wants no more
        raise failed  # out here it has no context: nothing of the call hangs on to it
