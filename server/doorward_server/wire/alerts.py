"""AlertService on the wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from doorward.v1 import alerts_pb2 as pb
from doorward_server.core.alert_rules import ListedRule, Origin
from doorward_server.core.alerts import Alert, AlertFilter, AlertKind
from doorward_server.core.errors import InvalidField
from doorward_server.service.alert_rules import AlertRules
from doorward_server.service.alerts import Alerts
from doorward_server.service.guard import Caller
from doorward_server.service.pool import Pool
from doorward_server.wire.convert import from_enum, from_timestamp, to_timestamp

KINDS = {kind: pb.AlertKind.Value(f"ALERT_KIND_{kind}") for kind in AlertKind}
ORIGINS = {origin: pb.AlertRuleOrigin.Value(f"ALERT_RULE_ORIGIN_{origin}") for origin in Origin}


class AlertServicer:
    """Parses, calls `Alerts` and `AlertRules` on the management pool, converts."""

    def __init__(self, alerts: Alerts, rules: AlertRules, management: Pool) -> None:
        self._alerts = alerts
        self._rules = rules
        self._management = management

    async def ListAlerts(self, request: pb.ListAlertsRequest, caller: Caller) -> pb.ListAlertsResponse:
        filter = AlertFilter(
            keyspace=request.keyspace,
            kind=from_enum("kind", request.kind, KINDS, None),
            key=request.key,
            unacknowledged=request.unacknowledged,
            since=from_timestamp("since", request, "since"),
            until=from_timestamp("until", request, "until"),
        )
        rows, token = await self._management.run(
            self._alerts.list, caller, request.organization, filter, request.page_size, request.page_token
        )
        return pb.ListAlertsResponse(alerts=map(to_alert, rows), next_page_token=token)

    async def AcknowledgeAlert(
        self, request: pb.AcknowledgeAlertRequest, caller: Caller
    ) -> pb.AcknowledgeAlertResponse:
        written = await self._management.run(
            self._alerts.acknowledge, caller, request.organization, request.id, request.note
        )
        return pb.AcknowledgeAlertResponse(alert=to_alert(written.value))

    async def WatchAlerts(
        self, request: pb.WatchAlertsRequest, caller: Caller
    ) -> AsyncGenerator[pb.WatchAlertsResponse, None]:
        after = request.after if request.HasField("after") else None
        if after is not None and after < 0:
            raise InvalidField("after", "must not be negative")
        watch = self._alerts.watch(caller, request.organization, after, self._management)
        async with aclosing(watch) as answers:
            async for it in answers:
                alert = None if it.alert is None else to_alert(it.alert)
                yield pb.WatchAlertsResponse(alert=alert, sequence=it.sequence)

    async def SetAlertRule(self, request: pb.SetAlertRuleRequest, caller: Caller) -> pb.SetAlertRuleResponse:
        of = (request.organization, request.keyspace, request.name)
        rule = await self._management.run(self._rules.set, caller, *of, request.rule, silenced=request.silenced)
        return pb.SetAlertRuleResponse(alert_rule=_to_rule(rule))

    async def ListAlertRules(self, request: pb.ListAlertRulesRequest, caller: Caller) -> pb.ListAlertRulesResponse:
        rows, token = await self._management.run(
            self._rules.list, caller, request.organization, request.keyspace, request.page_size, request.page_token
        )
        return pb.ListAlertRulesResponse(alert_rules=map(_to_rule, rows), next_page_token=token)

    async def DeleteAlertRule(self, request: pb.DeleteAlertRuleRequest, caller: Caller) -> pb.DeleteAlertRuleResponse:
        of = (request.organization, request.keyspace, request.name)
        await self._management.run(self._rules.delete, caller, *of)
        return pb.DeleteAlertRuleResponse()


def _to_rule(rule: ListedRule) -> pb.AlertRule:
    return pb.AlertRule(
        organization=rule.organization,
        keyspace=rule.keyspace,
        name=rule.name,
        rule=rule.text,
        origin=ORIGINS[rule.origin],
        silenced=rule.silenced,
        problem=rule.problem,
        updated_at=to_timestamp(rule.updated_at),
    )


def to_alert(alert: Alert) -> pb.Alert:
    """Return *alert* as a message."""
    seen = alert.acknowledgement
    return pb.Alert(
        id=alert.id,
        organization=alert.organization,
        sequence=alert.sequence,
        keyspace=alert.keyspace,
        rule=alert.rule,
        kind=KINDS[alert.kind],
        subject=alert.subject,
        key=alert.key,
        at=to_timestamp(alert.at),
        message=alert.message,
        threshold=alert.threshold,
        expected=alert.expected,
        observed=alert.observed,
        acknowledged_at=to_timestamp(seen.at) if seen else None,
        acknowledged_by=seen.by if seen else "",
        note=seen.note if seen else "",
    )
