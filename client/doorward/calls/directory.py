"""DirectoryService: organizations and principals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from doorward.calls import Call, Pages
from doorward.calls.attributes import attributes as _attributes
from doorward.calls.attributes import read_attributes as _read_attributes
from doorward.calls.values import KEEP, Effect, Keep, effect, given, instant, mask, numbers, words
from doorward.model import Attribute, Ended, Organization, Principal, PrincipalKind
from doorward.v1 import directory_pb2 as pb

KINDS = words(PrincipalKind, pb.PrincipalKind, "PRINCIPAL_KIND_")
_KIND_NUMBERS = numbers(KINDS)


# --- organizations ----------------------------------------------------------------------------------------------------


def create_organization(
    id: str,
    *,
    display_name: str = "",
    attributes: Mapping[str, Attribute] | None = None,
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.CreateOrganizationResponse, Organization]:
    """Make an organization (tenant); it begins enabled."""
    organization = pb.Organization(id=id, display_name=display_name, attributes=_attributes(attributes))
    return Call(
        pb.CreateOrganizationRequest(organization=organization, no_wait=no_wait),
        pb.CreateOrganizationResponse,
        lambda answer: read_organization(answer.organization, **effect(answer)),
        timeout,
    )


def get_organization(id: str = "", *, timeout: float | None = None) -> Call[pb.GetOrganizationResponse, Organization]:
    """Return an organization; without an id, the caller's own."""
    return Call(
        pb.GetOrganizationRequest(id=id),
        pb.GetOrganizationResponse,
        lambda answer: read_organization(answer.organization),
        timeout,
    )


def list_organizations(
    *, page_size: int = 0, timeout: float | None = None
) -> Pages[pb.ListOrganizationsResponse, Organization]:
    """All organizations, by id."""
    return Pages(
        pb.ListOrganizationsRequest(page_size=page_size),
        pb.ListOrganizationsResponse,
        lambda answer: map(read_organization, answer.organizations),
        timeout,
    )


def update_organization(
    id: str = "",
    *,
    display_name: str | Keep = KEEP,
    attributes: Mapping[str, Attribute] | Keep = KEEP,
    enabled: bool | Keep = KEEP,
    etag: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.UpdateOrganizationResponse, Organization]:
    """Change what is given, of the caller's own organization if there is no id. Disabled, none of its keys work."""
    changes = given(display_name=display_name, attributes=_changed(attributes), enabled=enabled)
    return Call(
        pb.UpdateOrganizationRequest(
            organization=pb.Organization(id=id, etag=etag, **changes), update_mask=mask(changes), no_wait=no_wait
        ),
        pb.UpdateOrganizationResponse,
        lambda answer: read_organization(answer.organization, answer.keys, **effect(answer)),
        timeout,
    )


def delete_organization(
    id: str, *, no_wait: bool = False, timeout: float | None = None
) -> Call[pb.DeleteOrganizationResponse, Ended]:
    """End an organization for good, and with it all its keys."""
    return Call(
        pb.DeleteOrganizationRequest(id=id, no_wait=no_wait),
        pb.DeleteOrganizationResponse,
        lambda answer: Ended(answer.keys, **effect(answer)),
        timeout,
    )


def read_organization(
    organization: pb.Organization, keys: int | None = None, **written: Unpack[Effect]
) -> Organization:
    return Organization(
        id=organization.id,
        display_name=organization.display_name,
        attributes=_read_attributes(organization.attributes),
        enabled=organization.enabled,
        created_at=instant(organization.created_at),
        updated_at=instant(organization.updated_at),
        etag=organization.etag,
        keys=keys,
        **written,
    )


# --- principals -------------------------------------------------------------------------------------------------------


def create_principal(
    id: str,
    *,
    organization: str = "",
    kind: PrincipalKind = PrincipalKind.USER,
    display_name: str = "",
    email: str = "",
    attributes: Mapping[str, Attribute] | None = None,
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.CreatePrincipalResponse, Principal]:
    """Make a user or a service account; it begins enabled. No organization means the caller's own, here as below."""
    principal = pb.Principal(
        id=id,
        organization=organization,
        kind=pb.PrincipalKind.ValueType(_KIND_NUMBERS[kind]),
        display_name=display_name,
        email=email,
        attributes=_attributes(attributes),
    )
    return Call(
        pb.CreatePrincipalRequest(principal=principal, no_wait=no_wait),
        pb.CreatePrincipalResponse,
        lambda answer: read_principal(answer.principal, **effect(answer)),
        timeout,
    )


def get_principal(
    id: str, *, organization: str = "", timeout: float | None = None
) -> Call[pb.GetPrincipalResponse, Principal]:
    """Return a principal."""
    return Call(
        pb.GetPrincipalRequest(organization=organization, id=id),
        pb.GetPrincipalResponse,
        lambda answer: read_principal(answer.principal),
        timeout,
    )


def list_principals(
    *, organization: str = "", page_size: int = 0, timeout: float | None = None
) -> Pages[pb.ListPrincipalsResponse, Principal]:
    """The principals of an organization, by id."""
    return Pages(
        pb.ListPrincipalsRequest(organization=organization, page_size=page_size),
        pb.ListPrincipalsResponse,
        lambda answer: map(read_principal, answer.principals),
        timeout,
    )


def update_principal(
    id: str,
    *,
    organization: str = "",
    display_name: str | Keep = KEEP,
    email: str | Keep = KEEP,
    attributes: Mapping[str, Attribute] | Keep = KEEP,
    enabled: bool | Keep = KEEP,
    etag: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.UpdatePrincipalResponse, Principal]:
    """Change what is given. Disabled, none of the keys that the principal owns work."""
    changes = given(display_name=display_name, email=email, attributes=_changed(attributes), enabled=enabled)
    return Call(
        pb.UpdatePrincipalRequest(
            principal=pb.Principal(id=id, organization=organization, etag=etag, **changes),
            update_mask=mask(changes),
            no_wait=no_wait,
        ),
        pb.UpdatePrincipalResponse,
        lambda answer: read_principal(answer.principal, answer.keys, **effect(answer)),
        timeout,
    )


def delete_principal(
    id: str, *, organization: str = "", no_wait: bool = False, timeout: float | None = None
) -> Call[pb.DeletePrincipalResponse, Ended]:
    """End a principal for good: its keys are revoked, its bindings and memberships go."""
    return Call(
        pb.DeletePrincipalRequest(organization=organization, id=id, no_wait=no_wait),
        pb.DeletePrincipalResponse,
        lambda answer: Ended(answer.keys, relations=answer.relations, **effect(answer)),
        timeout,
    )


def read_principal(principal: pb.Principal, keys: int | None = None, **written: Unpack[Effect]) -> Principal:
    return Principal(
        organization=principal.organization,
        id=principal.id,
        kind=KINDS.get(principal.kind, PrincipalKind.UNKNOWN),
        display_name=principal.display_name,
        email=principal.email,
        attributes=_read_attributes(principal.attributes),
        enabled=principal.enabled,
        created_at=instant(principal.created_at),
        updated_at=instant(principal.updated_at),
        etag=principal.etag,
        keys=keys,
        **written,
    )


def _changed(attributes: Mapping[str, Attribute] | Keep) -> dict[str, pb.AttributeValue] | Keep:
    return attributes if isinstance(attributes, Keep) else _attributes(attributes)
