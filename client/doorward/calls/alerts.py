"""AlertService: what somebody is to be told of."""

from __future__ import annotations

from datetime import datetime

from doorward.alerts import Alert, AlertKind, AlertRule, AlertRuleOrigin, WatchedAlert
from doorward.calls import Call, Feed, Pages
from doorward.calls.values import instant, instant_or_none, numbers, timestamp, words
from doorward.v1 import alerts_pb2 as pb

ALERT_KINDS = words(AlertKind, pb.AlertKind, "ALERT_KIND_")
ALERT_RULE_ORIGINS = words(AlertRuleOrigin, pb.AlertRuleOrigin, "ALERT_RULE_ORIGIN_")


def list_alerts(
    *,
    organization: str = "",
    keyspace: str = "",
    kind: AlertKind | None = None,
    key: str = "",
    unacknowledged: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[pb.ListAlertsResponse, Alert]:
    """The alerts for which everything given holds, the latest first. No organization means the caller's own."""
    return Pages(
        pb.ListAlertsRequest(
            organization=organization,
            keyspace=keyspace,
            kind=numbers(ALERT_KINDS)[kind] if kind is not None else None,  # type: ignore[arg-type]  # an enum's number
            key=key,
            unacknowledged=unacknowledged,
            since=timestamp("since", since),
            until=timestamp("until", until),
            page_size=page_size,
        ),
        pb.ListAlertsResponse,
        lambda answer: map(_read, answer.alerts),
        timeout,
    )


def acknowledge_alert(
    id: str, *, organization: str = "", note: str = "", timeout: float | None = None
) -> Call[pb.AcknowledgeAlertResponse, Alert]:
    """Say that somebody has seen an alert; one that is acknowledged already stays as it is."""
    return Call(
        pb.AcknowledgeAlertRequest(organization=organization, id=id, note=note),
        pb.AcknowledgeAlertResponse,
        lambda answer: _read(answer.alert),
        timeout,
    )


def watch_alerts(
    *, organization: str = "", after: int | None = None, timeout: float | None = None
) -> Feed[pb.WatchAlertsResponse, WatchedAlert]:
    """Alerts as they come, behind the sequence `after`: 0 for all that are kept, None for those from now on.

    Ends when the server stops: watch again with the last `sequence` that came as `after`, and none is missed.
    """
    return Feed(
        pb.WatchAlertsRequest(organization=organization, after=after), pb.WatchAlertsResponse, _watched, timeout
    )


def set_alert_rule(
    keyspace: str,
    name: str,
    rule: str = "",
    *,
    silenced: bool = False,
    organization: str = "",
    timeout: float | None = None,
) -> Call[pb.SetAlertRuleResponse, AlertRule]:
    """Give an organization a rule of its own in a keyspace, or change it, e.g. "{when: expiring, before: [30d, 1d]}".

    For this organization it takes the place of the keyspace's rule of the same name; another name adds one; `silenced`,
    without a rule, keeps the keyspace's from telling.
    """
    return Call(
        pb.SetAlertRuleRequest(organization=organization, keyspace=keyspace, name=name, rule=rule, silenced=silenced),
        pb.SetAlertRuleResponse,
        lambda answer: _rule(answer.alert_rule),
        timeout,
    )


def list_alert_rules(
    keyspace: str, *, organization: str = "", page_size: int = 0, timeout: float | None = None
) -> Pages[pb.ListAlertRulesResponse, AlertRule]:
    """The rules of an organization in a keyspace, by name: the keyspace's that it has not replaced, and its own."""
    return Pages(
        pb.ListAlertRulesRequest(organization=organization, keyspace=keyspace, page_size=page_size),
        pb.ListAlertRulesResponse,
        lambda answer: map(_rule, answer.alert_rules),
        timeout,
    )


def delete_alert_rule(
    keyspace: str, name: str, *, organization: str = "", timeout: float | None = None
) -> Call[pb.DeleteAlertRuleResponse, None]:
    """Remove a rule of an organization; the keyspace's of the same name, if there is one, holds again."""
    request = pb.DeleteAlertRuleRequest(organization=organization, keyspace=keyspace, name=name)
    return Call(request, pb.DeleteAlertRuleResponse, lambda answer: None, timeout)


def _watched(answer: pb.WatchAlertsResponse) -> WatchedAlert:
    return WatchedAlert(_read(answer.alert) if answer.HasField("alert") else None, answer.sequence)


def _read(alert: pb.Alert) -> Alert:
    return Alert(
        id=alert.id,
        organization=alert.organization,
        sequence=alert.sequence,
        keyspace=alert.keyspace,
        rule=alert.rule,
        kind=ALERT_KINDS.get(alert.kind, AlertKind.UNKNOWN),
        subject=alert.subject,
        key=alert.key,
        at=instant(alert.at),
        message=alert.message,
        threshold=alert.threshold if alert.HasField("threshold") else None,
        expected=alert.expected if alert.HasField("expected") else None,
        observed=alert.observed if alert.HasField("observed") else None,
        acknowledged_at=instant_or_none(alert, "acknowledged_at"),
        acknowledged_by=alert.acknowledged_by,
        note=alert.note,
    )


def _rule(rule: pb.AlertRule) -> AlertRule:
    return AlertRule(
        organization=rule.organization,
        keyspace=rule.keyspace,
        name=rule.name,
        rule=rule.rule,
        origin=ALERT_RULE_ORIGINS.get(rule.origin, AlertRuleOrigin.UNKNOWN),
        silenced=rule.silenced,
        problem=rule.problem,
        updated_at=instant_or_none(rule, "updated_at"),
    )
