"""Alerts and webhooks, put together: what `app` serves, flushes and keeps going of them."""

from __future__ import annotations

import random as dice
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from doorward_server.config import Config
from doorward_server.service.alert_rules import AlertRules
from doorward_server.service.alert_sweeps import SWEEP_SECONDS, AlertSweeps
from doorward_server.service.alerts import Alerts
from doorward_server.service.catalog import Catalog
from doorward_server.service.delivering import AT_ONCE, POLL_SECONDS, Deliveries
from doorward_server.service.guard import Clock, Guard
from doorward_server.service.ids import Random, new_id
from doorward_server.service.mint import Mint
from doorward_server.service.noticing import Noticing
from doorward_server.service.own_rules import LOOK_SECONDS, OwnRules
from doorward_server.service.pool import Pool
from doorward_server.service.posting import Poster
from doorward_server.service.webhooks import Signing, Webhooks
from doorward_server.store import Store

PRUNE_SECONDS = 3600.0
Kept = tuple[Callable[[], Awaitable[object]], float, str]
"""Work that goes on for as long as the server does, the seconds between two times, and what is logged if it fails."""


@dataclass(frozen=True)
class Watch:
    """What is told of, and how it gets to whoever wants to be told. Belongs to one event loop."""

    noticing: Noticing
    alerts: Alerts
    rules: AlertRules
    own_rules: OwnRules
    sweeps: AlertSweeps
    webhooks: Webhooks
    deliveries: Deliveries
    posting: Pool
    testing: Pool
    work: tuple[Kept, ...]
    forget: Callable[[], None]
    """To be called where the store has another history: what it told of keyspaces and rules may not hold."""

    @classmethod
    def build(
        cls,
        config: Config,
        store: Store,
        catalog: Catalog,
        guard: Guard,
        mint: Mint,
        management: Pool,
        clock: Clock,
        random: Random,
    ) -> Self:
        """Wire it. Raises OSError for a missing PEM file."""
        posting = Pool("posting", threads=AT_ONCE, backlog=AT_ONCE)
        testing = Pool("testing", threads=2, backlog=4)  # whoever tests a webhook holds up no delivery
        private, http = config.webhook_allow_private, config.webhook_allow_http
        poster = Poster(_trusted(config), allow_private=private)
        signing = Signing(mint, clock, random)
        webhooks = Webhooks(store, guard, signing, poster, clock, random, allow_http=http, allow_private=private)
        chance = dice.Random(random(8)).random  # noqa: S311  # when something is tried again is no secret
        holder = new_id("replica", random)
        deliveries = Deliveries(store, signing, poster, management, posting, clock, chance, holder)
        own_rules = OwnRules(store)
        sweeps = AlertSweeps(store, catalog, own_rules)

        async def sweep() -> None:
            await management.run(sweeps.sweep, clock())

        async def look() -> None:
            await management.run(own_rules.look)

        def forget() -> None:
            catalog.forget()
            own_rules.forget()

        work = (
            (look, LOOK_SECONDS, "alert rules stay as they were"),
            (sweep, SWEEP_SECONDS, "alerts wait for the next sweep"),
            (deliveries.work, POLL_SECONDS, "webhooks wait"),
            (deliveries.prune, PRUNE_SECONDS, "old deliveries stay"),
        )
        noticing = Noticing(store, catalog, own_rules, management, clock)
        alerts, rules = Alerts(store, guard, clock), AlertRules(store, catalog, guard, clock)
        return cls(noticing, alerts, rules, own_rules, sweeps, webhooks, deliveries, posting, testing, work, forget)

    def close(self) -> None:
        """End what has no end of its own: watches, and attempts that have not begun."""
        self.alerts.close()
        self.deliveries.close()


def _trusted(config: Config) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if config.webhook_ca is not None:
        context.load_verify_locations(config.webhook_ca)
    return context
