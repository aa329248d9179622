"""A writer that sits on the lock of a SQLite file: `python -m tests.chaos.lock URL SECONDS`. A program of a run."""

from __future__ import annotations

import sys
import time

from tests.store import hands


def main(url: str, seconds: str) -> None:
    """Take the one write lock, keep it, and change nothing."""
    with hands.at(url) as hand:
        hand.run("PRAGMA busy_timeout = 50000")
        hand.run("BEGIN IMMEDIATE")
        time.sleep(float(seconds))
        hand.run("ROLLBACK")


if __name__ == "__main__":
    main(*sys.argv[1:])
