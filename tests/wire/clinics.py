"""An API product with everything that a rule can ask for: relations, parents, attributes, context, an HTTP profile."""

from __future__ import annotations

from typing import Any

from doorward.v1 import authz_pb2 as authz
from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from tests.wire.serving import Held
from tests.wire.tenants import Tenant, question

CLINIC = """
keyspace: clinic
prefix: cl
credentials: [{header: x-key}, {header: Authorization, scheme: Bearer}]
inherit: true
ceilings: [list, owner]
api_version: {header: Clinic-Version, versions: ["1", "2"]}
keys: {api_version: "1"}
types: {cases: [list, read, close], notes: [create, read], rooms: [read]}
parents: {notes: cases}
relations: {cases: [doctor], notes: [writer]}
attributes:
  organization: {region: string}
  resource:
    cases: {open: bool, severity: int, ward: string, weight: float, tags: strings}
  context: {mfa: bool, shift: timestamp}
roles:
  doctor:
    rules:
      - {actions: [cases:read], relation: doctor}
      - {actions: [notes:create, notes:read], relation: parent.doctor}
  closer: {rules: [{actions: [cases:close], condition: resource.open && context.mfa}]}
  triage: {rules: [{actions: [cases:read], condition: resource.severity >= 5}]}
  day: {rules: [{actions: [rooms:read], condition: context.time < timestamp("2027-01-15T08:00:00Z")}]}
  inside: {rules: [{actions: [rooms:read], condition: 'in_network(context.client_ip, "10.0.0.0/8")'}]}
http:
  unauthenticated: {status: 401, body: {error: {code: "{reason}", message: "{message}"}}}
  RELATION_MISSING: {status: 404, headers: {X-Why: "{reason}"}, body: "Nothing here."}
"""


def doctor(clinic: Tenant, *roles: str) -> tuple[str, Held]:
    """Somebody with *roles*, and a key that may do as much."""
    person = clinic.person()
    for role in roles:
        clinic.bind("clinic", role, principal=person)
    return person, clinic.key("clinic", owner=person, ceiling=keys.CEILING_OWNER)


def ask(clinic: Tenant, credential: Held | str, action: str, resource: str = "", **fields: Any) -> Any:
    """Ask as root; a text is a principal's id."""
    about = fields.pop("about", {})
    request = question("", action, resource, keyspace="clinic", organization=clinic.id, **fields)
    if about:
        request.resource.MergeFrom(authz.Resource(**about))
    if isinstance(credential, str):
        request.principal.CopyFrom(authz.PrincipalReference(organization=clinic.id, principal=credential))
    else:
        request.key = credential.text
    return clinic.root.authz.Authorize(request)


def put(clinic: Tenant, resource: str, parent: str = "", **attributes: directory.AttributeValue) -> None:
    stored = directory.StoredResource(
        organization=clinic.id, keyspace="clinic", resource=resource, parent=parent, attributes=attributes
    )
    clinic.root.directory.PutResource(directory.PutResourceRequest(resource=stored))


def relate(clinic: Tenant, resource: str, relation: str, **subject: Any) -> None:
    relations = [directory.Relation(resource=resource, relation=relation, **subject)]
    clinic.root.directory.WriteRelations(
        directory.WriteRelationsRequest(organization=clinic.id, keyspace="clinic", relations=relations)
    )


def flag(value: bool) -> directory.AttributeValue:
    return directory.AttributeValue(flag=value)


def integer(value: int) -> directory.AttributeValue:
    return directory.AttributeValue(integer=value)


CASE_7 = {"parent": authz.ResourceReference(type="cases", id="7")}
MFA = authz.Context(attributes={"mfa": flag(True)})
