"""Organizations for tests: made over the wire, by the root key, with as few words as possible."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.v1 import authz_pb2, directory_pb2, keys_pb2, webhooks_pb2
from doorward_server.core.keytext import mint
from doorward_server.core.model import SECOND
from tests.store.values import alert as an_alert
from tests.wire.replicas import until
from tests.wire.serving import Api, Held, Server, unique

HOUR = 3600


def stamp(at: int) -> Timestamp:
    """A moment of the fake clock as a message."""
    return Timestamp(seconds=at // SECOND, nanos=at % SECOND * 1000)


def at_of(timestamp: Timestamp) -> int:
    """The inverse of `stamp`."""
    return timestamp.seconds * SECOND + timestamp.nanos // 1000


@dataclass
class Tenant:
    """One organization, which nobody else uses."""

    server: Server
    id: str

    @property
    def root(self) -> Api:
        return self.server.api()

    def person(self, id: str = "") -> str:
        """Make a principal."""
        principal = directory_pb2.Principal(organization=self.id, id=id or unique("person"), email="a@acme.example")
        self.root.directory.CreatePrincipal(directory_pb2.CreatePrincipalRequest(principal=principal))
        return principal.id

    def group(self, *members: str) -> str:
        """Make a group with *members*."""
        id = unique("group")
        group = directory_pb2.Group(organization=self.id, id=id)
        self.root.directory.CreateGroup(directory_pb2.CreateGroupRequest(group=group))
        for member in members:
            self.root.directory.AddGroupMember(
                directory_pb2.AddGroupMemberRequest(organization=self.id, group=id, principal=member)
            )
        return id

    def bind(self, keyspace: str, role: str, *resources: str, **subject_and_window: Any) -> str:
        """Give a role to `principal=` or `group=`, with `not_before=` and `expires_at=` if wanted."""
        binding = directory_pb2.Binding(
            organization=self.id, keyspace=keyspace, role=role, resources=resources, **subject_and_window
        )
        made = self.root.directory.CreateBinding(directory_pb2.CreateBindingRequest(binding=binding))
        return made.binding.id

    def unbind(self, binding: str) -> None:
        self.root.directory.DeleteBinding(directory_pb2.DeleteBindingRequest(organization=self.id, id=binding))

    def new_key(self, keyspace: str = "aiia", **fields: Any) -> keys_pb2.CreateKeyRequest:
        """The request that `key` sends."""
        return keys_pb2.CreateKeyRequest(**{"organization": self.id, "keyspace": keyspace, "name": "a key", **fields})

    def key(self, keyspace: str = "aiia", **fields: Any) -> Held:
        """Make a key as the root."""
        made = self.root.keys.CreateKey(self.new_key(keyspace, **fields))
        return Held(made.key, made.secret)

    def caller(self, *scopes: str) -> Api:
        """Call with a key of this organization that has *scopes* in Doorward itself."""
        return self.server.api(self.key("doorward", scopes=scopes).text)

    def member(self, principal: str, *roles: str, acting: bool = False) -> Api:
        """Call with a key of *principal* that may what its owner may; it holds *roles* (default: member)."""
        for role in roles or ("member",):
            self.bind("doorward", role, principal=principal)
        return self.server.api(self.key("doorward", owner=principal, ceiling=keys_pb2.CEILING_OWNER).text)

    def get(self, id: str) -> keys_pb2.Key:
        return self.root.keys.GetKey(keys_pb2.GetKeyRequest(organization=self.id, id=id)).key

    def rotate(self, id: str, **fields: Any) -> keys_pb2.RotateKeyResponse:
        return self.root.keys.RotateKey(keys_pb2.RotateKeyRequest(organization=self.id, id=id, **fields))

    def revoke(self, id: str, reason: str = "") -> keys_pb2.RevokeKeyResponse:
        return self.root.keys.RevokeKey(keys_pb2.RevokeKeyRequest(organization=self.id, id=id, reason=reason))

    def update(self, id: str, *paths: str, **fields: Any) -> keys_pb2.UpdateKeyResponse:
        return self.root.keys.UpdateKey(self.changed(id, *paths, **fields))

    def changed(self, id: str, *paths: str, **fields: Any) -> keys_pb2.UpdateKeyRequest:
        """The request that `update` sends; without *paths*, the mask names the fields."""
        expiry = fields.pop("expiry", None)
        etag = fields.pop("etag", "")
        key = keys_pb2.Key(organization=self.id, id=id, etag=etag, **fields)
        return keys_pb2.UpdateKeyRequest(key=key, update_mask=FieldMask(paths=paths or list(fields)), expiry=expiry)

    def enable(self, enabled: bool) -> directory_pb2.UpdateOrganizationResponse:
        organization = directory_pb2.Organization(id=self.id, enabled=enabled)
        return self.root.directory.UpdateOrganization(
            directory_pb2.UpdateOrganizationRequest(organization=organization, update_mask=FieldMask(paths=["enabled"]))
        )

    def enable_person(self, id: str, enabled: bool) -> directory_pb2.UpdatePrincipalResponse:
        principal = directory_pb2.Principal(organization=self.id, id=id, enabled=enabled)
        return self.root.directory.UpdatePrincipal(
            directory_pb2.UpdatePrincipalRequest(principal=principal, update_mask=FieldMask(paths=["enabled"]))
        )

    def alert(self, **changes: Any) -> str:
        """Put an alert into the store, and return its id."""
        (added,) = self.server.app.store.alerts.add([an_alert(self.id, **{"at": self.server.clock.now, **changes})])
        return added.id

    def webhook(self, url: str, **settings: Any) -> str:
        """Make a webhook."""
        webhook = webhooks_pb2.Webhook(organization=self.id, url=url, **settings)
        return self.root.webhooks.CreateWebhook(webhooks_pb2.CreateWebhookRequest(webhook=webhook)).webhook.id

    def delivery(self, webhook: str) -> str:
        """Tell a webhook of an alert, and return the id of the message, once it is on its way."""
        self.alert()
        self.server.on_loop(self.server.app.watch.deliveries.work)
        request = webhooks_pb2.ListWebhookDeliveriesRequest(organization=self.id, webhook=webhook)
        until(lambda: bool(self.root.webhooks.ListWebhookDeliveries(request).deliveries))
        return str(self.root.webhooks.ListWebhookDeliveries(request).deliveries[0].id)

    def events(self, action: str = "", target: str = "") -> list[Any]:
        """The audit events of this organization, oldest first."""
        listed = [stored.event for stored in self.server.app.store.list_events(self.id, 0, 10_000)]
        return [e for e in listed if (not action or e.action == action) and (not target or e.target == target)]


def new_tenant(server: Server, word: str = "acme") -> Tenant:
    """Make an organization."""
    id = unique(word)
    organization = directory_pb2.Organization(id=id, display_name=word.title())
    server.api().directory.CreateOrganization(directory_pb2.CreateOrganizationRequest(organization=organization))
    return Tenant(server, id)


def never_made(prefix: str = "dw") -> str:
    """A key text of the right shape and checksum that nobody was given."""
    return mint(prefix, "live", unique("entropy").encode().ljust(32, b".")).secret.reveal()


def question(key: str, action: str, resource: str = "", **fields: Any) -> authz_pb2.AuthorizeRequest:
    """An AuthorizeRequest; *resource* is "type/id" or a type."""
    type, _, id = resource.partition("/")
    named = authz_pb2.Resource(type=type, id=id) if resource else None
    return authz_pb2.AuthorizeRequest(**{"key": key, "action": action, "resource": named, **fields})


def reason_of(answer: Any) -> str:
    """The reason by name, after checking that the outcome agrees with it."""
    name = authz_pb2.Reason.Name(answer.reason).removeprefix("REASON_")
    allowed = answer.decision == authz_pb2.DECISION_ALLOW
    assert allowed == (name == "ALLOWED")
    assert allowed or answer.decision == authz_pb2.DECISION_DENY
    return name


def state_of(key: keys_pb2.Key) -> str:
    return keys_pb2.KeyState.Name(key.state).removeprefix("KEY_STATE_")


def ids(things: Iterable[Any]) -> list[str]:
    return [thing.id for thing in things]


def asked(tenant: Tenant, text: str, **fields: Any) -> str:
    """Why *text* may or may not: by default, read findings of *tenant* in aiia."""
    given = {"action": "findings:read", "keyspace": "aiia", "organization": tenant.id, **fields}
    request = question(text, given.pop("action"), given.pop("about", ""), **given)
    return reason_of(tenant.root.authz.Authorize(request))


def hours(count: float) -> Duration:
    return Duration(seconds=round(count * HOUR))


def listed(tenant: Tenant, size: int = 0, **filter: Any) -> list[str]:
    """All pages."""
    found, token = [], ""
    while True:
        request = keys_pb2.ListKeysRequest(
            organization=tenant.id, filter=keys_pb2.KeyFilter(**filter), page_size=size, page_token=token
        )
        page = tenant.root.keys.ListKeys(request)
        assert len(page.keys) <= (size or 50)
        found += ids(page.keys)
        token = page.next_page_token
        if not token:
            return found
