"""`doorward-server` that counts no usage, to tell what counting costs: `python -m tests.bench.uncounted serve`."""

from __future__ import annotations

from typing import Any

from doorward_server.__main__ import main
from doorward_server.service.counting import Counting


def _nothing(self: Counting, *decided: Any) -> None:
    pass


if __name__ == "__main__":
    Counting.decided = _nothing  # type: ignore[method-assign, assignment]  # that is what it is for
    main()
