"""docs/operating.md tells every setting with its default, every metric, and nothing that is not there."""

from __future__ import annotations

import grpc

from doorward_server.config import CLIENT_NAMES, PREFIX, Config
from doorward_server.service.freshness import Freshness
from doorward_server.service.pool import Pool
from doorward_server.wire.metrics import Metrics
from tests.docs.tables import DOCS, table, words


def shown(default: object) -> str:
    """A default as one would type it; nothing for none."""
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)


def test_every_setting_is_told_with_its_default() -> None:
    told = {row[0]: row[1] for row in table("operating.md", "setting")}
    assert told == {PREFIX + name.upper(): shown(field.default) for name, field in Config.model_fields.items()}


def test_the_variables_of_the_client_are_told() -> None:
    text = (DOCS / "operating.md").read_text("utf-8")
    assert [name for name in sorted(CLIENT_NAMES) if f"`{name}`" not in text] == []
    assert len(CLIENT_NAMES) == 7  # "these seven"


def test_every_metric_is_told_with_its_labels() -> None:
    metrics = Metrics()
    metrics.handled("/doorward.v1.KeyService/GetKey", grpc.StatusCode.OK, 0.01)
    metrics.decided("aiia", "ALLOWED")
    metrics.hit("ALLOWED", 3)
    metrics.waited("ACKNOWLEDGED", 0.01)
    metrics.watch(Freshness(Pool("reads", 1, 1), b"key"), {"taken": 1})
    counted = {
        metric.name + ("_total" if metric.type == "counter" else ""): set(metric.samples[0].labels) - {"le"}
        for metric in metrics.collect()
    }
    assert {row[0]: words(row[1]) for row in table("operating.md", "name")} == counted
