"""A server with a bug planted: it tells, by the way that PLANT names, what it was asked. For test_secrets.py."""

from __future__ import annotations

import os
import sys
from typing import Any

import structlog

from doorward_server.__main__ import main
from doorward_server.wire import authz


def tell(text: str) -> None:
    """Let *text* out."""
    match os.environ["PLANT"]:
        case "print":
            print(text, file=sys.stderr, flush=True)
        case "log":
            structlog.get_logger("doorward").info("asked", request=text)
        case "file":
            with open(os.path.join(os.environ["DOORWARD_STATE_DIR"], "trace"), "a", encoding="utf-8") as file:
                file.write(text)


original = authz.AuthzServicer.Authorize


async def authorize(self: Any, request: Any, caller: Any) -> Any:
    tell(str(request))
    return await original(self, request, caller)


authz.AuthzServicer.Authorize = authorize  # type: ignore[method-assign]  # the bug

if __name__ == "__main__":
    main()
