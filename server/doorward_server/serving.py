"""Running a Doorward: as one process, as a worker, or as the supervisor of several."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvloop
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from doorward_server.app import App, build, opened
from doorward_server.config import Config, split_address
from doorward_server.demo import furnish
from doorward_server.wire.scraping import Combined, dump, serve_metrics
from doorward_server.workers import Line, Supervisor, reserve, worker_command

SCRAPE_TIMEOUT = 5.0
log = structlog.get_logger("doorward")


def now() -> int:
    """The real clock: microseconds since 1970-01-01T00:00:00Z."""
    return time.time_ns() // 1000


def say(text: str) -> None:
    """Tell the person who started this."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def serve_alone(config: Config, demo: Path | None) -> None:
    """Serve from this process until SIGTERM or Ctrl-C, then drain. Raises what `opened` and `App.start` raise."""
    with opened(config, now, secrets.token_bytes) as (store, keyring, made):
        if made:
            _say_root_key(config)
        uvloop.run(_serve(build(config, store, keyring, now, secrets.token_bytes), demo))


def serve_as_worker(config: Config, demo: Path | None, descriptor: int) -> None:
    """Serve on a port that others share, until SIGTERM or the end of the supervisor behind *descriptor*."""
    with opened(config, now, secrets.token_bytes) as (store, keyring, _):
        uvloop.run(_serve_worker(build(config, store, keyring, now, secrets.token_bytes), demo, descriptor))


def supervise(config: Config, demo: Path | None, count: int) -> int:
    """Run *count* workers until SIGTERM or Ctrl-C, and return the exit status. Raises PortTaken, and as `opened`."""
    holder, address = reserve(config.listen)
    with holder:
        # Whatever is wrong with store or peppers is said once, before there are several to say it.
        with opened(config, now, secrets.token_bytes) as (_, _, made):
            if made:
                _say_root_key(config)
        command = worker_command(address, str(demo) if demo else "", config.transport)
        return asyncio.run(_supervise(config, Supervisor(count, command, config.drain_seconds), address, count))


async def _serve(app: App, demo: Path | None) -> None:
    stopping = _stopping()
    port = await app.start()
    _freeze()
    log.info("serving", listen=app.config.listen, port=port, metrics_port=app.metrics_port)
    _say_experiment(app.config)
    try:
        if demo is not None:
            say(await furnish(app, demo, port))
        await stopping.wait()
    finally:
        await _drain(app)


async def _serve_worker(app: App, demo: Path | None, descriptor: int) -> None:
    stopping, serving = _stopping(), asyncio.Event()
    following = asyncio.create_task(Line(descriptor, lambda: dump(app.metrics)).follow(serving))
    following.add_done_callback(lambda _: stopping.set())
    port = await app.start(shares_port=True)
    _freeze()
    log.info("worker serving", pid=os.getpid())
    try:
        if demo is not None:
            say(await furnish(app, demo, port))
        serving.set()
        await stopping.wait()
    finally:
        await _drain(app)
        following.cancel()


async def _supervise(config: Config, supervisor: Supervisor, address: str, count: int) -> int:
    scraped = _Scraped(supervisor, asyncio.get_running_loop())
    metrics_port, stop_metrics = None, None
    if config.metrics_listen:
        metrics_port, stop_metrics = serve_metrics(scraped, *split_address(config.metrics_listen))
    stopping = _stopping()
    running = asyncio.create_task(supervisor.run())
    ready = asyncio.create_task(supervisor.ready.wait())
    try:
        await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            port = split_address(address)[1]
            log.info("serving", listen=config.listen, port=port, metrics_port=metrics_port, workers=count)
            _say_experiment(config)
        ending = asyncio.create_task(stopping.wait())
        await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
        log.info("draining", seconds=config.drain_seconds)
        supervisor.stop()
        return await running
    finally:
        if stop_metrics is not None:
            await asyncio.to_thread(stop_metrics)  # its threads may be waiting for this loop
        log.info("stopped")


class _Scraped(Collector):
    """What all workers have counted, asked for when Prometheus asks: the counting itself stays on the event loop."""

    def __init__(self, supervisor: Supervisor, loop: asyncio.AbstractEventLoop) -> None:
        self._supervisor = supervisor
        self._loop = loop
        self._combined = Combined()
        supervisor.on_end = self._combined.end

    def collect(self) -> Iterator[Metric]:
        yield from asyncio.run_coroutine_threadsafe(self._collect(), self._loop).result(SCRAPE_TIMEOUT)

    def describe(self) -> list[Metric]:
        """Nothing: else the registry would collect before there is anything to ask."""
        return []

    async def _collect(self) -> list[Metric]:
        for worker, dumped in (await self._supervisor.scrape()).items():
            self._combined.update(worker, dumped)
        return list(self._combined.collect())


def _freeze() -> None:
    """Leave what was made for good at the start out of every garbage collection, and collect less often.

    A call leaves no cycles behind, but its objects count: at Python's threshold of 700 the collector takes 2 to 5 % of
    a core under load (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _stopping() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def _drain(app: App) -> None:
    log.info("draining", seconds=app.config.drain_seconds)
    await app.stop()
    log.info("stopped")


def _say_experiment(config: Config) -> None:
    if config.transport == "native":
        log.warning("the native transport is an experiment: unary RPCs only, fewer bounds; see docs/operating.md")


def _say_root_key(config: Config) -> None:
    say(f"This store is new. Its root key is in {config.root_key}: it may do everything, keep it safe.")
    if sys.stderr.isatty():
        say(f"  {config.root_key.read_text('utf-8').strip()}")
