"""What a run did to a database, seen from outside: dumps held against what the pipelines may change."""

from collections.abc import Collection, Iterator
from typing import Any

from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import Dump, rows, scalar

#: Columns of an existing item that a run may write; content and validity belong to `erase` and verdicts.
WRITABLE = {"expired_at", "tags", "embedding", "quality_score"}
ITEM_KEYS = {"provenance_links"}
#: A summary of ours that says what a new topic would say gets the sources of that topic.
SUMMARY_KEYS = {"distilled", "source_item_ids"}
PENDING_KEYS = {"low_quality_prescreened", "preliminary_quality_score", "prescreen"}
LAST_RUN_KEYS = {"distillation_last_run", "quality_aggregation_last_run"}

#: What a run that changes nothing may write all the same.
NO_OP_TABLES = {"runs", "receipts", "policies"}


def forbidden_changes(before: Dump, after: Dump, removed: Collection[str] = ()) -> list[str]:
    """Every difference of two public dumps that no run may make; `removed` are ids the server deleted."""
    return [
        *_vanished(before, after, removed),
        *(problem for key, row in after["knowledge_items"].items() for problem in _item(key, row, before)),
        *(
            problem
            for key, row in after["pending_contributions"].items()
            for problem in _queue(key, row, before)
        ),
        *(problem for key, row in after["quality_signals"].items() for problem in _signal(key, row, before)),
        *_config(before, after),
    ]


def _vanished(before: Dump, after: Dump, removed: Collection[str]) -> Iterator[str]:
    for table, table_rows in before.items():
        for key in table_rows.keys() - after[table].keys() - set(removed):
            yield f"{table} {key} vanished"


def _item(key: str, row: dict[str, Any], before: Dump) -> Iterator[str]:
    old = before["knowledge_items"].get(key)
    if old is None:
        if row["source_agent_id"] != "distillation" or row["is_public"]:
            yield f"item {key} appeared"
        return
    changed = {name for name in row if row[name] != old[name]}
    yield from (f"item {key}: {name} changed" for name in sorted(changed - WRITABLE))
    if "embedding" in changed and old["embedding"] is not None:
        yield f"item {key}: an embedding was replaced"
    if "tags" in changed:
        is_summary = old["source_agent_id"] == "distillation"
        yield from _tags(key, old["tags"], row["tags"], ITEM_KEYS | (SUMMARY_KEYS if is_summary else set()))


def _tags(key: str, old: Any, new: Any, ours: set[str]) -> Iterator[str]:
    if not isinstance(old, dict | None) or not isinstance(new, dict | None):
        yield f"{key}: tags of another shape changed"
        return
    old, new = old or {}, new or {}
    if {name: old[name] for name in old.keys() - ours} != {name: new[name] for name in new.keys() - ours}:
        yield f"{key}: foreign tags changed"


def _queue(key: str, row: dict[str, Any], before: Dump) -> Iterator[str]:
    old = before["pending_contributions"].get(key)
    if old is None:
        yield f"pending row {key} appeared"
        return
    yield from (f"pending row {key}: {name}" for name in row if name != "tags" and row[name] != old[name])
    if row["tags"] != old["tags"]:
        yield from _tags(key, old["tags"], row["tags"], PENDING_KEYS)


def _signal(key: str, row: dict[str, Any], before: Dump) -> Iterator[str]:
    old = before["quality_signals"].get(key)
    if old is None:
        if row["signal_type"] != "contradiction_cluster":
            yield f"signal {key} appeared"
    elif old != row:
        yield f"signal {key} changed"


def _config(before: Dump, after: Dump) -> Iterator[str]:
    old, new = before.get("deployment_config", {}), after.get("deployment_config", {})
    for key in new.keys() - LAST_RUN_KEYS:
        if old.get(key) != new[key]:
            yield f"configuration {key} changed"


def without_last_run(dump: Dump) -> Dump:
    """The same dump without the keys that every run writes."""
    kept = {key: row for key, row in dump["deployment_config"].items() if key not in LAST_RUN_KEYS}
    return dump | {"deployment_config": kept}


_OWN_TABLES = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'distillation'::regnamespace AND c.relkind = 'r' ORDER BY 1
"""


def own_digest(store: Store) -> dict[str, tuple[int, str]]:
    """Rows and a digest of each of our tables but those a run that changes nothing writes."""
    tables = [row.relname for row in rows(store, _OWN_TABLES) if row.relname not in NO_OP_TABLES]
    found = {}
    for table in tables:
        [row] = rows(
            store,
            "SELECT count(*) AS n, COALESCE(md5(string_agg(line, chr(10) ORDER BY line)), '') AS digest"
            f" FROM (SELECT md5(t::text) AS line FROM distillation.{table} t) lines",
        )
        found[table] = (row.n, row.digest)
    return found


def touched_rows(store: Store, table: str, since: int) -> int:
    """Rows of a table written by transactions that began after `since`, a value of `next_transaction`."""
    return int(
        scalar(
            store,
            # Row versions carry the low 32 bits of the transaction's number.
            f"SELECT count(*) FROM {table} WHERE xmin::text::bigint >= :since",
            since=since % 2**32,
        )
    )


def next_transaction(store: Store) -> int:
    """The number that the next writing transaction will get."""
    return int(scalar(store, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))
