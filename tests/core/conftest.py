"""Plants the bug that DOORWARD_PLANT names, before the tests import what it spoils. Read nowhere else."""

from __future__ import annotations

import os

from tests.core import plants

if name := os.environ.get("DOORWARD_PLANT"):
    plants.PLANTS[name][1]()
