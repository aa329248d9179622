"""The client for threads; the one for asyncio, with the same methods, is in `doorward.aio`.

The methods are described in `doorward.calls`; what both clients have is `doorward.caller`. Here calls are made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
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
from doorward.channels import sync_pool
from doorward.decision import Decision
from doorward.errors import CallFailed, Unavailable
from doorward.keeping import LeasedByThread
from doorward.methods import call, decided, feed, listed, stream


class Client(Caller[grpc.Channel]):
    """Doorward for threads; all methods may be called from several at once, and in children of a fork.

    Fork while no other thread is in a call: gRPC crashes then, unless GRPC_POLL_STRATEGY=poll is in the environment.

    Lists fetch their pages as they are read. Every method raises CallFailed, or a class below it that says why.

        with Client("127.0.0.1:50051", key) as doorward:
            if doorward.authorize(text, keyspace="aiia", action="findings:read", resource="findings/42"):
                ...
    """

    _open_pool = staticmethod(sync_pool)
    _open_cache = LeasedByThread
    _cached: LeasedByThread | None

    authorize = decided(authz.authorize)
    require = decided(authz.require, authz.allowed)
    batch_authorize = call(authz.batch_authorize)
    introspect = call(authz.introspect)
    explain_authorization = call(listing.explain_authorization)
    list_allowed_actions = call(listing.list_allowed_actions)
    list_accessible_resources = call(listing.list_accessible_resources)
    whoami = call(authz.whoami)

    create_key = call(keys.create_key)
    get_key = call(keys.get_key)
    list_keys = listed(keys.list_keys)
    update_key = call(keys.update_key)
    rotate_key = call(keys.rotate_key)
    revoke_key = call(keys.revoke_key)
    delete_key = call(keys.delete_key)
    batch_revoke_keys = call(keys.batch_revoke_keys)
    reveal_key = call(keys.reveal_key)
    report_leak = call(leaks.report_leak)
    import_keys = stream(imports.import_keys)

    create_organization = call(directory.create_organization)
    get_organization = call(directory.get_organization)
    list_organizations = listed(directory.list_organizations)
    update_organization = call(directory.update_organization)
    delete_organization = call(directory.delete_organization)
    create_principal = call(directory.create_principal)
    get_principal = call(directory.get_principal)
    list_principals = listed(directory.list_principals)
    update_principal = call(directory.update_principal)
    delete_principal = call(directory.delete_principal)

    create_group = call(groups.create_group)
    get_group = call(groups.get_group)
    list_groups = listed(groups.list_groups)
    update_group = call(groups.update_group)
    delete_group = call(groups.delete_group)
    add_group_member = call(groups.add_group_member)
    remove_group_member = call(groups.remove_group_member)
    list_group_members = listed(groups.list_group_members)
    create_binding = call(groups.create_binding)
    get_binding = call(groups.get_binding)
    list_bindings = listed(groups.list_bindings)
    update_binding = call(groups.update_binding)
    delete_binding = call(groups.delete_binding)

    write_relations = call(facts.write_relations)
    delete_relations = call(facts.delete_relations)
    list_relations = listed(facts.list_relations)
    put_resource = call(facts.put_resource)
    get_resource = call(facts.get_resource)
    list_resources = listed(facts.list_resources)
    delete_resource = call(facts.delete_resource)

    apply_keyspace = call(keyspaces.apply_keyspace)
    test_keyspace = call(keyspaces.test_keyspace)
    get_keyspace = call(keyspaces.get_keyspace)
    list_keyspaces = listed(keyspaces.list_keyspaces)
    get_json_web_key_set = call(keyspaces.get_json_web_key_set)

    list_alerts = listed(alerts.list_alerts)
    acknowledge_alert = call(alerts.acknowledge_alert)
    watch_alerts = feed(alerts.watch_alerts)
    set_alert_rule = call(alerts.set_alert_rule)
    list_alert_rules = listed(alerts.list_alert_rules)
    delete_alert_rule = call(alerts.delete_alert_rule)

    create_webhook = call(webhooks.create_webhook)
    list_webhooks = listed(webhooks.list_webhooks)
    update_webhook = call(webhooks.update_webhook)
    rotate_webhook_secret = call(webhooks.rotate_webhook_secret)
    delete_webhook = call(webhooks.delete_webhook)
    list_webhook_deliveries = listed(webhooks.list_webhook_deliveries)
    redeliver_webhook = call(webhooks.redeliver_webhook)
    test_webhook = call(webhooks.test_webhook)
    get_usage = call(usage.get_usage)
    export_usage = feed(usage.export_usage)
    list_decisions = listed(usage.list_decisions)
    list_events = listed(audit.list_events)
    verify_chain = listed(audit.verify_chain)
    get_head = call(audit.get_head)
    get_credits = call(credits.get_credits)
    list_credits = listed(credits.list_credits)
    set_credits = call(credits.set_credits)
    add_credits = call(credits.add_credits)

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
        """Close the connections, and end the calls on them. A cache reports what it answered before."""
        if self._cached is not None:
            self._cached.close()
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

    def _decide(self, question: Deciding, words: bytes | None) -> Decision:
        asked = self._look(question.request, words)
        if isinstance(asked, Decision):
            return question.check(asked)
        try:
            answer = self._ask(question.call)
        except CallFailed as failed:
            assumed = self._assumed(question, failed)
            if assumed is None:
                raise
            return assumed
        return self._learned(question, answer, asked)

    def _turn(self, pages: Pages[A, T]) -> Iterator[T]:
        items, token = self._ask(pages.page(""))
        yield from items
        while token:
            items, token = self._ask(pages.page(token))
            yield from items

    def _follow(self, feed: Feed[A, T]) -> Iterator[T]:
        method = self._pool.next().method(feed.kind, feed.answer)
        answers = method(feed.request, timeout=feed.timeout, metadata=self._metadata())
        try:
            for answer in answers:
                yield feed.read(answer)
        except grpc.RpcError as error:
            failed = status.read(error)
        else:
            return
        finally:
            answers.cancel()  # whoever reads no further wants no more
        raise failed  # out here it has no context: nothing of the call hangs on to it
