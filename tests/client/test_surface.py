"""What the package offers, held against the contract."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from typing import Any

import pytest

import doorward
from doorward import (
    AsyncClient,
    Client,
    alerts,
    audit,
    credits,
    decision,
    errors,
    imports,
    leaks,
    model,
    usage,
    webhooks,
)
from doorward.calls import alerts as alert_calls
from doorward.calls import audit as auditing
from doorward.calls import decided, directory, keys, keyspaces, listing
from doorward.calls import leaks as leaking
from doorward.calls.imports import OUTCOMES
from doorward.calls.usage import DIMENSIONS, FORMATS
from doorward.calls.values import PROPAGATIONS
from doorward.calls.webhooks import DELIVERY_STATES
from doorward.channels import PATHS, SERVICE_CONFIG
from doorward.v1 import (
    alerts_pb2,
    audit_pb2,
    authz_pb2,
    directory_pb2,
    errors_pb2,
    freshness_pb2,
    keys_pb2,
    keyspaces_pb2,
    usage_pb2,
    webhooks_pb2,
)

RPCS = sorted({path.rpartition("/")[2] for path in PATHS.values()} - {"Lease"})
"""All but the one that is no call: what keeps a cache fresh."""


def test_all_holds_every_public_name() -> None:
    names = doorward.__all__
    assert len(names) == len(set(names))
    assert all(getattr(doorward, name) is not None for name in names)
    defined = {
        name
        for module in (alerts, audit, credits, decision, errors, imports, leaks, model, usage, webhooks)
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and kind.__module__ == module.__name__
    }
    assert set(names) == defined | {"AsyncClient", "Cache", "Client", "Secret", "TLS"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Manager'"):
        doorward.Manager  # noqa: B018


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_is_a_method_of_the_same_name(rpc: str, kind: type) -> None:
    method = getattr(kind, re.sub(r"(?<!^)(?=[A-Z])", "_", rpc).lower())
    assert method.__doc__
    assert method.__module__ == kind.__module__


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    def shape(kind: type) -> dict[str, Any]:
        public = {name: value for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}
        return {name: inspect.signature(method).parameters for name, method in public.items()}

    assert shape(Client) == shape(AsyncClient)
    assert len(shape(Client)) > len(RPCS)


def test_signatures_tell_arguments_and_answers() -> None:
    client = Client("127.0.0.1:1", "key")
    signature = inspect.signature(client.get_key)
    assert list(signature.parameters) == ["id", "organization", "timeout"]
    assert signature.return_annotation == "Key"
    assert inspect.signature(client.list_keys).return_annotation == "Iterator[Key]"
    assert inspect.signature(AsyncClient.list_keys).return_annotation == "AsyncIterator[Key]"
    assert inspect.signature(Client.import_keys).return_annotation == "list[ImportResult]"
    assert inspect.iscoroutinefunction(AsyncClient.get_key)
    assert inspect.iscoroutinefunction(AsyncClient.import_keys)


def test_every_reason_is_one_class_and_every_class_one_reason() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()} - {"UNSPECIFIED"}
    assert set(errors.BY_REASON) == reasons
    assert len(set(errors.BY_REASON.values())) == len(reasons)
    assert all(kind.reason == reason for reason, kind in errors.BY_REASON.items())
    declared = [kind for kind in vars(errors).values() if inspect.isclass(kind) and "reason" in vars(kind)]
    assert {kind for kind in declared if kind is not errors.CallFailed} == set(errors.BY_REASON.values())


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn = re.findall(r"^([│ ]*)(?:[├└]── )?([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE)
    names = [name for _, name in drawn if hasattr(errors, name)]
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert sorted(names) == sorted(kind.__name__ for kind in kinds)
    parents = {0: "Exception"}
    tree = [line for line in (errors.__doc__ or "").splitlines() if re.match(r"[│ ]*[├└]|DoorwardError$", line)]
    for line in tree:
        depth = len(re.match(r"[│ ├└─]*", line)[0]) // 4 + 1  # type: ignore[index]
        name = re.search(r"\w+", line)[0]  # type: ignore[index]
        parents[depth] = name
        assert getattr(errors, name).__mro__[1].__name__ == parents[depth - 1], line


@pytest.mark.parametrize(
    ("words", "table", "wire", "prefix"),
    [
        (decision.Reason, decided.REASONS, authz_pb2.Reason, "REASON_"),
        (decision.Step, listing.STEPS, authz_pb2.DecisionStep, "DECISION_STEP_"),
        (decision.Effect, listing.EFFECTS, authz_pb2.Effect, "EFFECT_"),
        (decision.RuleOutcome, listing.RULE_OUTCOMES, authz_pb2.RuleOutcome, "RULE_OUTCOME_"),
        (audit.ChainStatus, auditing.STATUSES, audit_pb2.ChainStatus, "CHAIN_STATUS_"),
        (audit.HeadStatus, auditing.HEADS, audit_pb2.HeadStatus, "HEAD_STATUS_"),
        (leaks.LeakOutcome, leaking.OUTCOMES, keys_pb2.LeakOutcome, "LEAK_OUTCOME_"),
        (
            webhooks.WebhookDeliveryState,
            DELIVERY_STATES,
            webhooks_pb2.WebhookDeliveryState,
            "WEBHOOK_DELIVERY_STATE_",
        ),
        (alerts.AlertKind, alert_calls.ALERT_KINDS, alerts_pb2.AlertKind, "ALERT_KIND_"),
        (
            alerts.AlertRuleOrigin,
            alert_calls.ALERT_RULE_ORIGINS,
            alerts_pb2.AlertRuleOrigin,
            "ALERT_RULE_ORIGIN_",
        ),
        (model.KeyState, keys.STATES, keys_pb2.KeyState, "KEY_STATE_"),
        (model.Ceiling, keys.CEILINGS, keys_pb2.Ceiling, "CEILING_"),
        (model.PrincipalKind, directory.KINDS, directory_pb2.PrincipalKind, "PRINCIPAL_KIND_"),
        (imports.ImportOutcome, OUTCOMES, keys_pb2.ImportOutcome, "IMPORT_OUTCOME_"),
        (model.Propagation, PROPAGATIONS, freshness_pb2.Propagation, "PROPAGATION_"),
        (usage.UsageDimension, DIMENSIONS, usage_pb2.UsageDimension, "USAGE_DIMENSION_"),
        (usage.ExportFormat, FORMATS, usage_pb2.ExportFormat, "EXPORT_FORMAT_"),
        (model.ApplyOutcome, keyspaces.OUTCOMES, keyspaces_pb2.ApplyOutcome, "APPLY_OUTCOME_"),
    ],
)
def test_enums_are_the_contracts(words: Any, table: Any, wire: Any, prefix: str) -> None:
    assert {word.value for word in words} - {"UNKNOWN"} == {
        name.removeprefix(prefix) for name, number in wire.items() if number
    }
    assert all(wire.Name(number) == prefix + word for number, word in table.items())


def test_retries_are_for_unavailable_and_for_what_may_be_repeated() -> None:
    policy: Any = SERVICE_CONFIG["methodConfig"]
    assert [entry["retryPolicy"]["retryableStatusCodes"] for entry in policy] == [["UNAVAILABLE"]]
    retried = {name["method"] for entry in policy for name in entry["name"]}
    assert "Lease" not in retried
    assert set(RPCS) - retried == {
        "BatchRevokeKeys", "ImportKeys", "CreateBinding", "CreateGroup", "CreateOrganization", "CreatePrincipal",
        "DeleteBinding", "DeleteGroup", "DeleteKey", "DeleteOrganization", "DeletePrincipal", "DeleteResource",
        "CreateWebhook", "DeleteAlertRule", "DeleteWebhook", "RotateWebhookSecret",
        "SetCredits",
    }  # fmt: skip


def test_importing_the_package_does_not_import_grpc() -> None:
    program = "import sys, doorward; assert 'grpc' not in sys.modules; doorward.Client; assert 'grpc' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
