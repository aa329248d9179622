"""A whole organization's usage is found by its hours: its reports look at no other, nor at other organizations."""

from typing import Any

STATEMENTS = (
    "CREATE INDEX usage_cell_organization ON usage_cell (organization, hour, keyspace)",
    "CREATE INDEX usage_address_organization ON usage_address (organization, hour, keyspace)",
)


def up(migrator: Any, db: Any) -> None:
    """Add indexes; nothing that exists changes."""
    for statement in STATEMENTS:
        db.execute_sql(statement)
