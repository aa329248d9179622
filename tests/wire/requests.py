"""A minimal valid request for every RPC, each about a thing of its own in a tenant: the table of the matrix test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from doorward.v1 import alerts_pb2 as alerts
from doorward.v1 import audit_pb2 as audit
from doorward.v1 import authz_pb2 as authz
from doorward.v1 import credits_pb2 as credit
from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from doorward.v1 import keyspaces_pb2 as keyspaces
from doorward.v1 import usage_pb2 as usage
from doorward.v1 import webhooks_pb2 as webhooks
from tests.wire.serving import example, unique
from tests.wire.tenants import Tenant, new_tenant, question

NAME = FieldMask(paths=["display_name"])


@dataclass(frozen=True)
class Row:
    """How to call one RPC, and what it takes."""

    permission: str
    """The permission that the contract names; empty: none is needed."""
    make: Callable[[Tenant], Message]
    """Returns a request that succeeds, about something that exists."""
    names: str = ""
    """The field that names the thing, e.g. "key.id"; empty if the request names none."""
    operator: bool = False
    """Whether only keys of the operator organization can do it."""


def _key(t: Tenant) -> dict[str, Any]:
    return {"organization": t.id, "id": t.key().id}


def _group_update(t: Tenant) -> Message:
    group = directory.Group(organization=t.id, id=t.group(), display_name="New")
    return directory.UpdateGroupRequest(group=group, update_mask=NAME)


def _binding_update(t: Tenant) -> Message:
    binding = directory.Binding(organization=t.id, id=_binding(t), resources=["findings/*"])
    return directory.UpdateBindingRequest(binding=binding, update_mask=FieldMask(paths=["resources"]))


def _binding(t: Tenant) -> str:
    return t.bind("aiia", "read:findings", principal=t.person())


def _member(t: Tenant) -> dict[str, Any]:
    person = t.person()
    return {"organization": t.id, "group": t.group(person), "principal": person}


def _person_update(t: Tenant) -> Message:
    principal = directory.Principal(organization=t.id, id=t.person(), display_name="New")
    return directory.UpdatePrincipalRequest(principal=principal, update_mask=NAME)


def _batch(t: Tenant) -> Message:
    item = authz.BatchAuthorizeItem(action="findings:read")
    return authz.BatchAuthorizeRequest(key=t.key().text, keyspace="aiia", organization=t.id, items=[item])


def _new_binding(t: Tenant) -> Message:
    binding = directory.Binding(organization=t.id, keyspace="aiia", role="read:findings", principal=t.person())
    return directory.CreateBindingRequest(binding=binding)


VAULT = """
keyspace: vault
prefix: vault
recoverable: true
environments: [live]
credentials: [{header: x-api-key}]
types: {things: [read]}
roles: {}
"""


def _shown(t: Tenant) -> Message:
    t.root.keyspaces.ApplyKeyspace(keyspaces.ApplyKeyspaceRequest(source=VAULT))
    return keys.RevealKeyRequest(organization=t.id, id=t.key("vault").id)


def _batch_revoke(t: Tenant) -> Message:
    name = unique("old")
    t.key(name=name)
    chosen = keys.KeyFilter(keyspace="aiia", name_contains=name)
    return keys.BatchRevokeKeysRequest(organization=t.id, filter=chosen, reason="leaked", expected_count=1)


DESK = """
keyspace: desk
prefix: desk
environments: [live]
credentials: [{header: x-api-key}]
attributes:
  organization: {plan: string}
  resource: {tickets: {open: bool, weight: int}}
types: {tickets: [read, close], boards: [read]}
relations: {tickets: [assigned, watching], boards: [lead]}
parents: {tickets: boards}
roles:
  agent: {rules: [{actions: ["tickets:read"], relation: assigned}]}
  lead: {rules: [{actions: ["tickets:*"], relation: parent.lead}]}
  closer: {rules: [{actions: ["tickets:close"], condition: resource.open}]}
  guest: {rules: [{actions: ["boards:read"]}]}
"""
"""A keyspace that declares relations, parents and attributes. Its keys can be granted freely: no owner limits them."""


PORCH = """
keyspace: porch
prefix: porch
environments: [live]
credentials: [{header: x-api-key}]
types: {mats: [read]}
roles: {}
alerts:
  soon: {when: expiring, before: [30d, 1d]}
  leak: {when: leaked}
"""
"""A keyspace with alert rules."""


def on_porch(t: Tenant, **fields: Any) -> dict[str, Any]:
    """The fields that say that it is about `porch` in this organization, and *fields*; the keyspace is there then."""
    t.root.keyspaces.ApplyKeyspace(keyspaces.ApplyKeyspaceRequest(source=PORCH))
    return {"organization": t.id, "keyspace": "porch", **fields}


def _silent(t: Tenant) -> dict[str, Any]:
    fields = on_porch(t, name="leak")
    t.root.alerts.SetAlertRule(alerts.SetAlertRuleRequest(**fields, silenced=True))
    return fields


def _used(t: Tenant) -> usage.UsageScope:
    return usage.UsageScope(organization=t.id, key_id=t.key().id)


def at_desk(t: Tenant, **fields: Any) -> dict[str, Any]:
    """The fields that say that it is about `desk` in this organization, and *fields*; the keyspace is there then."""
    t.root.keyspaces.ApplyKeyspace(keyspaces.ApplyKeyspaceRequest(source=DESK))
    return {"organization": t.id, "keyspace": "desk", **fields}


def _relations(t: Tenant) -> dict[str, Any]:
    relation = directory.Relation(resource=f"tickets/{unique('t')}", relation="assigned", principal=t.person())
    return at_desk(t, relations=[relation])


def _written(t: Tenant) -> dict[str, Any]:
    fields = _relations(t)
    t.root.directory.WriteRelations(directory.WriteRelationsRequest(**fields))
    return fields


def _resource(t: Tenant) -> dict[str, Any]:
    fields = at_desk(t, resource=f"tickets/{unique('t')}")
    t.root.directory.PutResource(directory.PutResourceRequest(resource=directory.StoredResource(**fields)))
    return fields


RECEIVER = "http://127.0.0.1:1/hook"
"""Nobody listens there, which takes no time to find out."""


def _webhook_update(t: Tenant) -> Message:
    webhook = webhooks.Webhook(organization=t.id, id=t.webhook(RECEIVER), description="New")
    return webhooks.UpdateWebhookRequest(webhook=webhook, update_mask=FieldMask(paths=["description"]))


def _redelivery(t: Tenant) -> Message:
    webhook = t.webhook(RECEIVER)
    return webhooks.RedeliverWebhookRequest(organization=t.id, webhook=webhook, id=t.delivery(webhook))


PAID = """
keyspace: paid
prefix: paid
environments: [live]
credentials: [{header: x-api-key}]
credits: {initial: 10, refill: {amount: 10, period: 30d}}
types: {things: [read]}
roles: {}
"""


def _paid(t: Tenant) -> dict[str, Any]:
    t.root.keyspaces.ApplyKeyspace(keyspaces.ApplyKeyspaceRequest(source=PAID))
    return {"holder": credit.CreditHolder(organization=t.id, keyspace="paid", key_id=t.key("paid").id)}


REQUESTS: dict[str, Row] = {
    "CreateKey": Row("keys:create", lambda t: t.new_key(scopes=["read:findings"])),
    "GetKey": Row("keys:get", lambda t: keys.GetKeyRequest(**_key(t)), "id"),
    "ListKeys": Row("keys:list", lambda t: keys.ListKeysRequest(organization=t.id)),
    "UpdateKey": Row("keys:update", lambda t: t.changed(t.key().id, name="another"), "key.id"),
    "RotateKey": Row("keys:rotate", lambda t: keys.RotateKeyRequest(**_key(t)), "id"),
    "RevokeKey": Row("keys:revoke", lambda t: keys.RevokeKeyRequest(**_key(t)), "id"),
    "DeleteKey": Row("keys:delete", lambda t: keys.DeleteKeyRequest(**_key(t)), "id"),
    "BatchRevokeKeys": Row("keys:revoke", _batch_revoke),
    "RevealKey": Row("keys:reveal", _shown, "id"),
    "ReportLeak": Row(
        "keys:report-leak",
        lambda t: keys.ReportLeakRequest(key=t.key().text, keyspace="aiia", found_in="web/.env line 3"),
    ),
    "ImportKeys": Row(
        "keys:import",
        lambda t: keys.ImportKeysRequest(header=keys.ImportHeader(organization=t.id, keyspace="aiia")),
    ),
    "Authorize": Row(
        "decisions:authorize",
        lambda t: question(t.key().text, "findings:read", keyspace="aiia", organization=t.id),
    ),
    "BatchAuthorize": Row("decisions:authorize", _batch),
    "Introspect": Row("decisions:introspect", lambda t: authz.IntrospectRequest(key=t.key().text, keyspace="aiia")),
    "ExplainAuthorization": Row(
        "decisions:explain",
        lambda t: authz.ExplainAuthorizationRequest(
            question=question(t.key().text, "findings:read", keyspace="aiia", organization=t.id)
        ),
    ),
    "ListAllowedActions": Row(
        "decisions:list-actions",
        lambda t: authz.ListAllowedActionsRequest(key=t.key().text, keyspace="aiia", organization=t.id),
    ),
    "ListAccessibleResources": Row(
        "decisions:list-resources",
        lambda t: authz.ListAccessibleResourcesRequest(
            key=t.key().text, keyspace="aiia", organization=t.id, action="findings:read"
        ),
    ),
    "Lease": Row(
        "decisions:lease",
        lambda t: authz.LeaseRequest(ping=authz.LeaseRequest.Ping(sequence=1), organization=t.id, keyspaces=["aiia"]),
    ),
    "CreateOrganization": Row(
        "organizations:create",
        lambda _: directory.CreateOrganizationRequest(organization=directory.Organization(id=unique("new"))),
        "organization.id",
        operator=True,
    ),
    "GetOrganization": Row("organizations:get", lambda t: directory.GetOrganizationRequest(id=t.id), "id"),
    "ListOrganizations": Row("organizations:list", lambda _: directory.ListOrganizationsRequest(), operator=True),
    "UpdateOrganization": Row(
        "organizations:update",
        lambda t: directory.UpdateOrganizationRequest(
            organization=directory.Organization(id=t.id, display_name="New"), update_mask=NAME
        ),
        "organization.id",
    ),
    "DeleteOrganization": Row(
        "organizations:delete",
        lambda t: directory.DeleteOrganizationRequest(id=new_tenant(t.server).id),
        "id",
        operator=True,
    ),
    "CreatePrincipal": Row(
        "principals:create",
        lambda t: directory.CreatePrincipalRequest(principal=directory.Principal(organization=t.id, id=unique("p"))),
        "principal.id",
    ),
    "GetPrincipal": Row(
        "principals:get", lambda t: directory.GetPrincipalRequest(organization=t.id, id=t.person()), "id"
    ),
    "ListPrincipals": Row("principals:list", lambda t: directory.ListPrincipalsRequest(organization=t.id)),
    "UpdatePrincipal": Row("principals:update", _person_update, "principal.id"),
    "DeletePrincipal": Row(
        "principals:delete", lambda t: directory.DeletePrincipalRequest(organization=t.id, id=t.person()), "id"
    ),
    "CreateGroup": Row(
        "groups:create",
        lambda t: directory.CreateGroupRequest(group=directory.Group(organization=t.id, id=unique("g"))),
        "group.id",
    ),
    "GetGroup": Row("groups:get", lambda t: directory.GetGroupRequest(organization=t.id, id=t.group()), "id"),
    "ListGroups": Row("groups:list", lambda t: directory.ListGroupsRequest(organization=t.id)),
    "UpdateGroup": Row("groups:update", _group_update, "group.id"),
    "DeleteGroup": Row("groups:delete", lambda t: directory.DeleteGroupRequest(organization=t.id, id=t.group()), "id"),
    "AddGroupMember": Row(
        "groups:update",
        lambda t: directory.AddGroupMemberRequest(organization=t.id, group=t.group(), principal=t.person()),
        "group",
    ),
    "RemoveGroupMember": Row("groups:update", lambda t: directory.RemoveGroupMemberRequest(**_member(t)), "group"),
    "ListGroupMembers": Row(
        "groups:get", lambda t: directory.ListGroupMembersRequest(organization=t.id, group=t.group()), "group"
    ),
    "CreateBinding": Row("bindings:create", _new_binding, "binding.principal"),
    "GetBinding": Row("bindings:get", lambda t: directory.GetBindingRequest(organization=t.id, id=_binding(t)), "id"),
    "ListBindings": Row("bindings:list", lambda t: directory.ListBindingsRequest(organization=t.id)),
    "UpdateBinding": Row("bindings:update", _binding_update, "binding.id"),
    "DeleteBinding": Row(
        "bindings:delete", lambda t: directory.DeleteBindingRequest(organization=t.id, id=_binding(t)), "id"
    ),
    "WriteRelations": Row("relations:write", lambda t: directory.WriteRelationsRequest(**_relations(t)), "keyspace"),
    "DeleteRelations": Row("relations:delete", lambda t: directory.DeleteRelationsRequest(**_written(t)), "keyspace"),
    "ListRelations": Row("relations:list", lambda t: directory.ListRelationsRequest(**at_desk(t)), "keyspace"),
    "PutResource": Row(
        "resources:write",
        lambda t: directory.PutResourceRequest(
            resource=directory.StoredResource(**at_desk(t, resource=f"tickets/{unique('t')}"))
        ),
        "resource.resource",
    ),
    "GetResource": Row("resources:get", lambda t: directory.GetResourceRequest(**_resource(t)), "resource"),
    "ListResources": Row("resources:list", lambda t: directory.ListResourcesRequest(**at_desk(t)), "keyspace"),
    "DeleteResource": Row("resources:delete", lambda t: directory.DeleteResourceRequest(**_resource(t)), "resource"),
    "ApplyKeyspace": Row(
        "keyspaces:apply",
        lambda _: keyspaces.ApplyKeyspaceRequest(source=example("aiia")),
        operator=True,
    ),
    "GetKeyspace": Row("keyspaces:get", lambda _: keyspaces.GetKeyspaceRequest(name="aiia"), "name", operator=True),
    "GetJsonWebKeySet": Row(
        "keyspaces:get", lambda _: keyspaces.GetJsonWebKeySetRequest(name="aiia"), "name", operator=True
    ),
    "TestKeyspace": Row("keyspaces:get", lambda _: keyspaces.TestKeyspaceRequest(name="aiia"), "name", operator=True),
    "CreateWebhook": Row(
        "webhooks:create",
        lambda t: webhooks.CreateWebhookRequest(webhook=webhooks.Webhook(organization=t.id, url=RECEIVER)),
    ),
    "ListWebhooks": Row("webhooks:list", lambda t: webhooks.ListWebhooksRequest(organization=t.id)),
    "UpdateWebhook": Row("webhooks:update", _webhook_update, "webhook.id"),
    "RotateWebhookSecret": Row(
        "webhooks:update",
        lambda t: webhooks.RotateWebhookSecretRequest(organization=t.id, id=t.webhook(RECEIVER)),
        "id",
    ),
    "DeleteWebhook": Row(
        "webhooks:delete",
        lambda t: webhooks.DeleteWebhookRequest(organization=t.id, id=t.webhook(RECEIVER)),
        "id",
    ),
    "ListWebhookDeliveries": Row(
        "webhooks:list",
        lambda t: webhooks.ListWebhookDeliveriesRequest(organization=t.id, webhook=t.webhook(RECEIVER)),
        "webhook",
    ),
    "RedeliverWebhook": Row("webhooks:redeliver", _redelivery, "webhook"),
    "TestWebhook": Row(
        "webhooks:test",
        lambda t: webhooks.TestWebhookRequest(organization=t.id, id=t.webhook(RECEIVER)),
        "id",
    ),
    "ListAlerts": Row("alerts:list", lambda t: alerts.ListAlertsRequest(organization=t.id)),
    "WatchAlerts": Row("alerts:watch", lambda t: alerts.WatchAlertsRequest(organization=t.id)),
    "AcknowledgeAlert": Row(
        "alerts:acknowledge",
        lambda t: alerts.AcknowledgeAlertRequest(organization=t.id, id=t.alert()),
        "id",
    ),
    "SetAlertRule": Row(
        "alert-rules:set",
        lambda t: alerts.SetAlertRuleRequest(**on_porch(t, name=unique("rule"), rule="{when: superseded_used}")),
        "name",
    ),
    "ListAlertRules": Row("alert-rules:list", lambda t: alerts.ListAlertRulesRequest(**on_porch(t)), "keyspace"),
    "DeleteAlertRule": Row("alert-rules:delete", lambda t: alerts.DeleteAlertRuleRequest(**_silent(t)), "name"),
    "GetUsage": Row("usage:get", lambda t: usage.GetUsageRequest(scope=_used(t)), "scope.key_id"),
    "ExportUsage": Row(
        "usage:get",
        lambda t: usage.ExportUsageRequest(scope=_used(t), format=usage.EXPORT_FORMAT_CSV),
        "scope.key_id",
    ),
    "ListDecisions": Row("decisions:list", lambda t: usage.ListDecisionsRequest(scope=_used(t)), "scope.key_id"),
    "GetCredits": Row("credits:get", lambda t: credit.GetCreditsRequest(**_paid(t)), "holder.key_id"),
    "ListCredits": Row(
        "credits:list",
        lambda t: credit.ListCreditsRequest(organization=t.id, keyspace=_paid(t)["holder"].keyspace),
    ),
    "SetCredits": Row("credits:set", lambda t: credit.SetCreditsRequest(balance=5, **_paid(t)), "holder.key_id"),
    "AddCredits": Row("credits:add", lambda t: credit.AddCreditsRequest(amount=5, **_paid(t)), "holder.key_id"),
    "ListEvents": Row("events:list", lambda t: audit.ListEventsRequest(organization=t.id)),
    "VerifyChain": Row("events:verify", lambda t: audit.VerifyChainRequest(organization=t.id)),
    "GetHead": Row("events:verify", lambda t: audit.GetHeadRequest(organization=t.id)),
    "ListKeyspaces": Row("keyspaces:list", lambda _: keyspaces.ListKeyspacesRequest(), operator=True),
}
"""By the name of the RPC. An RPC without a row here fails the matrix test."""


def renamed(request: Message, path: str, id: str) -> Message:
    """A copy of *request* with the field at *path* set to *id*."""
    copy = type(request)()
    copy.CopyFrom(request)
    *parents, name = path.split(".")
    inner = copy
    for parent in parents:
        inner = getattr(inner, parent)
    setattr(inner, name, id)
    return copy


def named(request: Message, path: str) -> str:
    """What the field at *path* holds."""
    value: object = request
    for name in path.split("."):
        value = getattr(value, name)
    return str(value)
