"""Scratch databases: made on a server beside the real ones, migrated, and dropped whatever happens."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, make_url, text

from hivemind_pipelines.store.connection import Store, StoreError, open_store
from hivemind_pipelines.store.migrations.migrate import migrate

PREFIX = "hivemind_scratch"

#: A scratch database of this age that nobody is connected to was left behind by a killed process.
ABANDONED_AFTER_S = 3_600


class ScratchRefusedError(StoreError):
    """The server, or our role on it, cannot give us a database of our own."""


@contextmanager
def scratch_store(server_url: str) -> Iterator[Store]:
    """A store on a fresh, migrated database beside the one at `server_url`; it is gone afterwards.

    Raises ScratchRefusedError when the role may not create one, or not with pgvector in it.
    """
    with open_store(server_url) as server:
        name = _create(server)
        try:
            # Not by normalise_url alone: the name must replace the database, whatever the URL's form.
            address = make_url(server.url).set(database=name)
            with open_store(address.render_as_string(hide_password=False)) as store:
                _migrate(store)
                yield store
        finally:
            with server.session("AUTOCOMMIT") as session:
                _drop(session, name)


def _create(server: Store) -> str:
    name = f"{PREFIX}_{int(time.time())}_{secrets.token_hex(4)}"
    with server.session("AUTOCOMMIT") as session:
        if not session.execute(MAY_CREATE).scalar_one():
            raise ScratchRefusedError("its role may not create databases")
        _sweep(session)
        # template0 holds nothing an operator may have added to template1.
        session.execute(text(f'CREATE DATABASE "{name}" TEMPLATE template0'))
        # Nothing in it has to survive a crash.
        session.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = off'))
    return name


def _migrate(store: Store) -> None:
    try:
        migrate(store)
    except StoreError as error:
        raise ScratchRefusedError(str(error)) from None


MAY_CREATE = text("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")

ABANDONED = text("""
    -- Our own scratch databases of at least that age with nobody connected.
    SELECT d.datname FROM pg_database d
    WHERE CASE WHEN d.datname ~ :pattern THEN split_part(d.datname, '_', 3)::bigint < :before ELSE false END
      AND pg_get_userbyid(d.datdba) = current_user
      AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)
    ORDER BY d.datname
""")


def _sweep(session: Connection) -> None:
    parameters = {"pattern": f"^{PREFIX}_[0-9]+_[0-9a-f]+$", "before": int(time.time()) - ABANDONED_AFTER_S}
    for name in session.execute(ABANDONED, parameters).scalars().all():
        _drop(session, name)


def _drop(session: Connection, name: str) -> None:
    session.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
