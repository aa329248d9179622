"""Structured logs: one JSON object a line on stderr, and never a key's text."""

from __future__ import annotations

import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_KEY_TEXT = re.compile(r"[a-z][a-z0-9_]*_[a-z0-9]{1,16}_[0-9A-Za-z]{34,}")


def configure() -> None:
    """Set up logging for this process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        # Each line in one write: workers share this pipe.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take out whatever looks like a key's text: nothing logs one on purpose; this is for the day something does."""
    return {name: _KEY_TEXT.sub("[a key]", v) if isinstance(v, str) else v for name, v in event.items()}
