"""`doorward-server` with a bug planted: `python -m tests.limits_proof.replica PLANT serve`. An empty word is no bug.

The word is gone before the product starts: Doorward knows nothing of it.
"""

from __future__ import annotations

import os
import sys
import threading

from doorward_server.__main__ import main
from tests.chaos.replica import end_with_the_run
from tests.limits_proof.plants import PLANTS

if __name__ == "__main__":
    threading.Thread(target=end_with_the_run, args=(os.getppid(),), daemon=True).start()
    if name := sys.argv.pop(1):
        PLANTS[name].plant()
    main()
