"""Every statement of the store says whose rows it means, seen in its compiled SQL."""

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module

import pytest
from sqlalchemy import TextClause
from sqlalchemy.dialects import postgresql

import hivemind_pipelines.store as package
from hivemind_pipelines.store import tables

#: Statements that mean the rows of every org, and why they may.
EVERY_ORG = {
    "erasures.ORGS_WITH_LOSSES": "asks which orgs have something to propagate",
    "items.ORGS": "asks which orgs there are",
    "status.ORG_IDS": "asks which orgs there are",
    "legacy._GONE": "a removed id belongs to the org that names it, whoever that is",
    "legacy._ORGS": "asks which orgs a server's own distillation worked in",
    "reviews.PAIR_BY_ID": "a person types an id alone",
    "reviews.CASE_BY_ID": "a person types an id alone",
    "reviews.ITEM_ORGS": "a person types an id alone; the answer says whose it is",
    "runs._FINISHED_ORGS": "a backfill spans orgs; asks which of them it has finished",
    "status.HALF_BACKFILLED": "asks in which orgs a backfill failed",
    "status.STALE_RECEIPTS": "counts by org",
    "scores.DISTRIBUTION": "one picture of the whole deployment",
    "scores.SPREAD": "counts by org",
    "suspicions.COUNTS": "counts by org",
    "tombstones.TARGETS": "a person types an id alone; the answer says whose it is",
    "tombstones.SOURCES_OF": "an item id is unique over all orgs",
    "tombstones.REGISTER_ERASED": "an id that another org registered first stays that org's",
    "undoing.RUN_ORGS": "asks in which orgs a run did something",
    "undoing.RUN_KNOWN": "a run id is unique over all orgs",
    "undoing.MERGE_ORG": "a person types an id alone",
    "runs._READ": "a run id is unique over all orgs",
    "runs._FINISH": "a run id is unique over all orgs",
    "loading.INSERT_ITEMS": "each new row brings its org",
    "loading.INSERT_PENDING": "each new row brings its org",
    "loading.PENDING_TURN": "locks one key, reads no row",
    "loading.FIND_KNOWN_ITEMS": "ids are unique over all orgs: an id of another org must be refused",
    "loading.FIND_KNOWN_PENDING": "ids are unique over all orgs: an id of another org must be refused",
    "status.SUMMARY_COUNTS": "counts by org",
    "status.CASE_ITEM_COUNTS": "counts by org",
    "status.STALE_COUNTS": "counts by org",
    "status.DELAYS": "counts by org",
    "status.SPEND": "counts by org",
    "status.LAST_RUNS": "the newest run of each org",
}

ORG_TABLES = {
    table.fullname for table in (*tables.PUBLIC_TABLES, *tables.OWN_TABLES) if "org_id" in table.columns
}
REFERENCE = re.compile(
    r"\b(?P<verb>FROM|JOIN|UPDATE|INTO|USING)\s+(?:ONLY\s+)?(?P<table>(?:public|distillation)\.\w+)"
    r"(?:\s+(?:AS\s+)?(?!(?:ON|WHERE|SET|JOIN|LEFT|USING|ORDER|GROUP|FOR|VALUES|SELECT|UNION|LIMIT|CROSS)\b)"
    r"(?P<alias>[a-z]\w*))?"
)


def statements() -> Iterator[tuple[str, str]]:
    """The name of every statement and its compiled SQL, comments left out."""
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg:
            continue
        for name, value in vars(import_module(f"{package.__name__}.{module.name}")).items():
            if isinstance(value, TextClause):
                compiled = str(value.compile(dialect=postgresql.psycopg.dialect()))
                yield f"{module.name}.{name}", re.sub(r"--[^\n]*", "", compiled)


STATEMENTS = dict(statements())


def unbound(sql: str) -> list[str]:
    """References to rows of an org that no `org_id` of theirs binds."""
    found = []
    for match in REFERENCE.finditer(sql):
        alias = match["alias"]
        column = rf"\b{alias}\.org_id\b" if alias else r"(?<![\w.])org_id\b"
        is_listed = re.search(r"(?<![\w.])org_id\b", sql) and match["verb"] == "INTO"
        if match["table"] in ORG_TABLES and not is_listed and not re.search(column, sql):
            found.append(match[0])
    return found


def touches_org_rows(sql: str) -> bool:
    return any(match["table"] in ORG_TABLES for match in REFERENCE.finditer(sql))


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - EVERY_ORG.keys()))
def test_a_statement_binds_every_row_it_touches_to_an_org(name: str) -> None:
    sql = STATEMENTS[name]
    assert unbound(sql) == []
    if touches_org_rows(sql):
        assert re.search(r"%\(org_ids?\)s", sql)


def test_what_means_every_org_exists_and_says_why() -> None:
    assert EVERY_ORG.keys() <= STATEMENTS.keys()
    assert all(EVERY_ORG.values())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT content FROM public.knowledge_items k WHERE k.id = %(id)s",
        "SELECT 1 FROM distillation.merges m JOIN public.knowledge_items k ON k.id = m.duplicate_id "
        "WHERE m.org_id = %(org_id)s",
        "UPDATE public.knowledge_items SET expired_at = NULL WHERE id = %(id)s",
    ],
)
def test_a_statement_that_forgets_the_org_is_seen(sql: str) -> None:
    assert unbound(sql)
