"""The rights of the role that the pipelines run under: no DELETE, TRUNCATE or DDL on `public`.

`erase` is for people, not for schedules, and needs more: its grants go to a role of their own.
"""

from collections.abc import Iterable, Iterator, Mapping

from psycopg import sql

from hivemind_pipelines.store import tables

_READABLE = tuple(table.name for table in tables.PUBLIC_TABLES)
_INSERTABLE = ("knowledge_items", "quality_signals", "deployment_config")

#: The validity changes by a version fork, the flag of a pending row only when `prescreen.flag_sensitive` says so.
_UPDATABLE = {
    "knowledge_items": ("expired_at", "tags", "embedding", "quality_score", "valid_at", "invalid_at"),
    "pending_contributions": ("tags", "is_sensitive_flagged"),
    "deployment_config": ("value", "updated_at"),
}

#: What only `erase` may overwrite.
_ERASABLE = {
    "knowledge_items": ("content", "content_hash", "deleted_at"),
    "quality_signals": ("metadata",),
}


def grants_sql(role: str) -> tuple[str, ...]:
    """The statements that give `role`, which must exist, what the pipelines need and nothing else.

    Run them as the owner of the tables, after `migrate`; twice is the same as once.
    """
    return _granted(role, _statements())


def erasing_grants_sql(role: str) -> tuple[str, ...]:
    """The same for a role that also runs `erase`: the grants of the pipelines, and what it overwrites."""
    return _granted(role, (*_statements(), *_updates(_ERASABLE)))


def _granted(role: str, statements: Iterable[sql.SQL]) -> tuple[str, ...]:
    grantee = sql.Identifier(role)
    return tuple(statement.format(role=grantee).as_string() for statement in statements)


def _statements() -> tuple[sql.SQL, ...]:
    own = [table.name for table in tables.OWN_TABLES if table.name != "ledger"]
    return (
        sql.SQL("GRANT USAGE ON SCHEMA public, distillation TO {role}"),
        sql.SQL(f"GRANT SELECT ON {_listed('public', _READABLE)} TO {{role}}"),
        sql.SQL(f"GRANT INSERT ON {_listed('public', _INSERTABLE)} TO {{role}}"),
        *_updates(_UPDATABLE),
        sql.SQL(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {_listed('distillation', own)} TO {{role}}"),
        sql.SQL("GRANT SELECT, INSERT ON distillation.ledger TO {role}"),
        sql.SQL("GRANT SELECT ON distillation.alembic_version TO {role}"),
        sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA distillation TO {role}"),
    )


def _updates(columns_of: Mapping[str, tuple[str, ...]]) -> Iterator[sql.SQL]:
    for table, columns in columns_of.items():
        yield sql.SQL(f"GRANT UPDATE ({', '.join(columns)}) ON public.{table} TO {{role}}")


def _listed(schema: str, names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"{schema}.{name}" for name in names)
