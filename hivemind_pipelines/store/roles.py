"""The rights of the role that the pipelines run under: no DELETE, TRUNCATE or DDL on `public`."""

from psycopg import sql

from hivemind_pipelines.store import tables

_READABLE = tuple(table.name for table in tables.PUBLIC_TABLES)
_INSERTABLE = ("knowledge_items", "quality_signals", "deployment_config")

#: `content`, `content_hash` and signal metadata change only by `erase`, the validity by a version fork.
_UPDATABLE = {
    "knowledge_items": (
        "expired_at",
        "tags",
        "embedding",
        "quality_score",
        "valid_at",
        "invalid_at",
        "content",
        "content_hash",
    ),
    "pending_contributions": ("tags",),
    "quality_signals": ("metadata",),
    "deployment_config": ("value", "updated_at"),
}


def grants_sql(role: str) -> tuple[str, ...]:
    """The statements that give `role`, which must exist, what the pipelines need and nothing else.

    Run them as the owner of the tables, after `migrate`; twice is the same as once.
    """
    grantee = sql.Identifier(role)
    return tuple(statement.format(role=grantee).as_string() for statement in _statements())


def _statements() -> tuple[sql.SQL, ...]:
    own = [table.name for table in tables.OWN_TABLES if table.name != "ledger"]
    return (
        sql.SQL("GRANT USAGE ON SCHEMA public, distillation TO {role}"),
        sql.SQL(f"GRANT SELECT ON {_listed('public', _READABLE)} TO {{role}}"),
        sql.SQL(f"GRANT INSERT ON {_listed('public', _INSERTABLE)} TO {{role}}"),
        *(
            sql.SQL(f"GRANT UPDATE ({', '.join(columns)}) ON public.{table} TO {{role}}")
            for table, columns in _UPDATABLE.items()
        ),
        sql.SQL(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {_listed('distillation', own)} TO {{role}}"),
        sql.SQL("GRANT SELECT, INSERT ON distillation.ledger TO {role}"),
        sql.SQL("GRANT SELECT ON distillation.alembic_version TO {role}"),
        sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA distillation TO {role}"),
    )


def _listed(schema: str, names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"{schema}.{name}" for name in names)
