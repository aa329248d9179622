"""`doorward-server`: the command. Says what to install if the server's parts are missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Exits with 0 when done, 1 when it could not, 2 for wrong usage or configuration."""
    try:
        from doorward_server.command import command  # absent without the extra
    except ImportError as missing:
        print(
            f"doorward-server needs the module {missing.name!r}. Install the server's parts: "
            "pip install 'doorward[server]'",
            file=sys.stderr,
        )
        sys.exit(2)
    command()


if __name__ == "__main__":
    main()
