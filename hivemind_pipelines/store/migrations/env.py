"""Alembic's entry point; `migrate` hands it the connection and the transaction."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # HiveMind's server owns public.alembic_version.
    version_table_schema="distillation",
)
context.run_migrations()
