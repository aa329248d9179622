"""`doorward-server`, with a bug planted if PLANT names one. A program of a chaos run.

The variable is gone before the product starts: Doorward knows nothing of it.
"""

from __future__ import annotations

import os
import threading

from doorward_server.__main__ import main
from tests.chaos.plants import PLANTS


def end_with_the_run(run: int) -> None:
    """End when the process that started this one has: a run that is killed leaves nothing behind."""
    while not threading.Event().wait(1):
        if os.getppid() != run:
            os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_the_run, args=(os.getppid(),), daemon=True).start()
    if name := os.environ.pop("PLANT", ""):
        PLANTS[name].plant()
    main()
