"""How the bad requests of test_bad_input.py are made, each with one thing wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from doorward.v1 import authz_pb2 as authz
from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from doorward.v1 import keyspaces_pb2 as keyspaces
from tests.wire.serving import EXAMPLES
from tests.wire.tenants import Tenant, question

AIIA = (EXAMPLES / "aiia.yaml").read_text("utf-8")
INVALID, UNKNOWN = "INVALID_FIELD", "UNKNOWN_REFERENCE"
HOUR = 3_600_000_000


@dataclass
class Place:
    """Where a bad request is made: an organization with a principal, a group, a binding and a key."""

    tenant: Tenant
    person: str
    group: str
    binding: str
    key: Any

    @property
    def org(self) -> str:
        return self.tenant.id

    @property
    def now(self) -> int:
        return self.tenant.server.clock.now


Make = Callable[[Place], Any]


def create(**fields: Any) -> Make:
    return lambda p: p.tenant.new_key(**fields)


def expiring(**expiry: Any) -> Make:
    return create(expiry=keys.Expiry(**expiry))


def update(*paths: str, **fields: Any) -> Make:
    return lambda p: p.tenant.changed(p.key.id, *paths, **fields)


def bound(**fields: Any) -> Make:
    return create(bindings=[keys.KeyBinding(**{"role": "read:findings", **fields})])


def ask(**fields: Any) -> Make:
    def make(p: Place) -> authz.AuthorizeRequest:
        given = {"action": "findings:read", "keyspace": "aiia", "organization": p.org, **fields}
        return question(p.key.text, given.pop("action"), given.pop("about", ""), **given)

    return make


def listing(**fields: Any) -> Make:
    return lambda p: keys.ListKeysRequest(organization=p.org, **fields)


def binding(**fields: Any) -> Make:
    def make(p: Place) -> directory.CreateBindingRequest:
        given = {"keyspace": "aiia", "role": "read:findings", **fields}
        if not given.keys() & {"principal", "group", "nobody"}:
            given["principal"] = p.person
        given.pop("nobody", None)
        return directory.CreateBindingRequest(binding=directory.Binding(organization=p.org, **given))

    return make


def principal(**fields: Any) -> Make:
    def make(p: Place) -> directory.CreatePrincipalRequest:
        given = {"organization": p.org, "id": "eve", **fields}
        return directory.CreatePrincipalRequest(principal=directory.Principal(**given))

    return make


def organization(**fields: Any) -> Make:
    given = directory.Organization(**{"id": "eve-corp", **fields})
    return lambda _: directory.CreateOrganizationRequest(organization=given)


def stale(type: str, id: Callable[[Place], str]) -> Make:
    """An update of the display name, or of a binding's resources, with an etag that is not the current one."""

    def make(p: Place) -> Any:
        field = "resources" if type == "Binding" else "display_name"
        given: dict[str, Any] = {"id": id(p), "etag": "77", field: ["findings/*"] if type == "Binding" else "New"}
        if type != "Organization":
            given["organization"] = p.org
        thing = getattr(directory, type)(**given)
        request: Any = getattr(directory, f"Update{type}Request")
        return request(**{type.lower(): thing, "update_mask": FieldMask(paths=[field])})

    return make


def keyspace(source: str, **fields: Any) -> Make:
    return lambda _: keyspaces.ApplyKeyspaceRequest(source=source, **fields)


def without_test_environment(p: Place) -> keyspaces.ApplyKeyspaceRequest:
    p.tenant.key("aiia", environment="test", scopes=["read:findings"])
    return keyspaces.ApplyKeyspaceRequest(source=AIIA.replace("[live, test]", "[live]"))


def flag(**value: Any) -> dict[str, directory.AttributeValue]:
    return {"x": directory.AttributeValue(**value)}


def date(text: str, zone: str = "") -> Make:
    return expiring(date=keys.ExpiryDate(date=text, time_zone=zone))


def rotate(p: Place, **grace: int) -> keys.RotateKeyRequest:
    return keys.RotateKeyRequest(organization=p.org, id=p.key.id, grace=Duration(**grace))


def first_page(p: Place, **filter: Any) -> str:
    p.tenant.key()
    wanted = keys.KeyFilter(**filter)
    answer = p.tenant.root.keys.ListKeys(keys.ListKeysRequest(organization=p.org, filter=wanted, page_size=1))
    assert answer.next_page_token
    return answer.next_page_token


def other_filter(p: Place) -> keys.ListKeysRequest:
    token = first_page(p, keyspace="aiia")
    return keys.ListKeysRequest(organization=p.org, filter=keys.KeyFilter(type="ci"), page_token=token)


def foreign_token(p: Place) -> keys.ListKeysRequest:
    p.tenant.person()
    people = directory.ListPrincipalsRequest(organization=p.org, page_size=1)
    return keys.ListKeysRequest(
        organization=p.org, page_token=p.tenant.root.directory.ListPrincipals(people).next_page_token
    )


def forge(token: str, position: list[Any]) -> str:
    """The same list's token, with another position: tokens are opaque, not signed."""
    mark, _ = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return base64.urlsafe_b64encode(json.dumps([mark, position]).encode()).decode().rstrip("=")


def forged(p: Place, position: str) -> directory.ListPrincipalsRequest:
    p.tenant.person()
    first = directory.ListPrincipalsRequest(organization=p.org, page_size=1)
    token = p.tenant.root.directory.ListPrincipals(first).next_page_token
    return directory.ListPrincipalsRequest(organization=p.org, page_token=forge(token, [position]))


def forged_moment(p: Place, moment: int) -> keys.ListKeysRequest:
    return keys.ListKeysRequest(organization=p.org, page_token=forge(first_page(p), [moment, "key_1"]))


def without_credential(p: Place) -> authz.AuthorizeRequest:
    return authz.AuthorizeRequest(keyspace="aiia", organization=p.org, action="findings:read")


def headers(p: Place, count: int) -> authz.AuthorizeRequest:
    request = without_credential(p)
    request.http.headers.extend(authz.HttpHeader(name="a", value="b") for _ in range(count))
    return request


def http(name: str = "x-api-key", value: str = "", query: str = "") -> Make:
    def make(p: Place) -> authz.AuthorizeRequest:
        request = without_credential(p)
        request.http.query = query
        request.http.headers.add(name=name, value=value)
        return request

    return make


def one_of_many_roles(p: Place) -> keys.CreateKeyRequest:
    roles = "".join(f"  {'r' * 100}{i}: {{}}\n" for i in range(300))
    source = f"keyspace: many\nprefix: many\ncredentials: [{{header: x}}]\ntypes: {{a: [b]}}\nroles:\n{roles}"
    p.tenant.root.keyspaces.ApplyKeyspace(keyspaces.ApplyKeyspaceRequest(source=source))
    return p.tenant.new_key("many", scopes=["x"])


def unknown_state(p: Place) -> keys.ListKeysRequest:
    return keys.ListKeysRequest.FromString(b"\x12\x02\x28\x63")  # filter.states: 99, which has no name


def batch(p: Place, count: int, **fields: Any) -> authz.BatchAuthorizeRequest:
    items = [authz.BatchAuthorizeItem(action="findings:read") for _ in range(count)]
    return authz.BatchAuthorizeRequest(
        **{"key": p.key.text, "keyspace": "aiia", "organization": p.org, "items": items, **fields}
    )
