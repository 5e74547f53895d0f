"""A HiveMind that has run for years without us: migrated, distilled, and touched only where we may."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import pytest

from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.stages import backlog, distillation
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store, raw_cursor
from hivemind_pipelines.store.migrations.migrate import migrate
from hivemind_pipelines_tests.builders import org_dump, public_dump, read_item, rows, scalar, set_item
from hivemind_pipelines_tests.fakes import HashEmbedder
from hivemind_pipelines_tests.observed import (
    forbidden_changes,
    next_transaction,
    own_digest,
    touched_rows,
    without_last_run,
)
from hivemind_pipelines_tests.stages.commons import NOW, policy, services

SIZES = {"acme": 2_500, "globex": 1_500, "initech": 1_000}
YEARS_AGO = datetime(2024, 5, 1, tzinfo=UTC)
LOOSE = policy(topics={"distance_max": 0.4}, matching={"cosine_min": 0.85, "jaccard_min": 0.75})

CATEGORIES = ("bug_fix", "config", "workaround", "tooling", "general")
LETTERS = "bcdfghjklmnpqrstvwxz", "aeiouy"
FRAMES = (
    "{} {} times out on {}, so raise its {} before {} {}",
    "drain {} {} and replay {} from {} whenever {} or {} restarts",
    "rotate the {} of {} by hand; {} {} still reads {} from {}",
    "{} rejects {} {} unless {} was warmed by {} and {}",
    "never pin {} to {}: {} starves {} and then {} {}",
    "{} leaks {} while {} copies {} {} into {}",
)
REMEDIES = (
    "raise its limit before the next release",
    "drain it and replay from the last marker",
    "rotate it by hand and open a ticket",
    "disable compression for it",
    "pin it to one zone",
    "delete the orphaned entries first",
)


@dataclass
class Commons:
    """The rows of one org as a server of old left them, by deterministic chance."""

    org: str
    random: random.Random
    rows: list[dict[str, Any]] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)

    def add(self, text: str, **columns: object) -> UUID | None:
        """One more row, unless the org has its text already."""
        if text in self.texts:
            return None
        self.texts.add(text)
        row = {
            "id": UUID(int=self.random.getrandbits(128), version=4),
            "org_id": self.org,
            "is_public": self.random.random() < 0.1,
            "source_agent_id": f"agent-{self.random.randint(1, 9)}",
            "content": text,
            "content_hash": content_hash(text),
            "category": self.random.choice(CATEGORIES),
            "confidence": round(self.random.uniform(0.3, 1.0), 2),
            "version": None,
            "tags": self.random.choice([None, "null", "{}", '{"team": "a"}', '["x"]', '"note"']),
            "embedding": self.random.random() < 0.5,
            "contributed_at": YEARS_AGO + timedelta(hours=len(self.rows)),
            "approved_at": YEARS_AGO + timedelta(hours=len(self.rows) + 5),
            "quality_score": round(self.random.uniform(0.2, 0.9), 3),
            "retrieval_count": self.random.randint(0, 60),
            "helpful_count": self.random.randint(0, 9),
            "not_helpful_count": self.random.randint(0, 4),
            "deleted_at": None,
            "expired_at": None,
        } | columns
        self.rows.append(row)
        return UUID(str(row["id"]))


def name(chance: random.Random) -> str:
    """A service, table or setting that only this house knows."""
    consonants, vowels = LETTERS
    return "".join(chance.choice(consonants) + chance.choice(vowels) for _ in range(chance.randint(2, 5)))


def sentence(chance: random.Random) -> str:
    """A note of one sentence."""
    return chance.choice(FRAMES).format(*(name(chance) for _ in range(6)))


def plant_duplicates(commons: Commons) -> None:
    """The same note again in other case, spacing, punctuation or with an article more."""
    text, category = sentence(commons.random), commons.random.choice(CATEGORIES)
    for again in (text, f"{text}.", text.replace(" ", "  ", 3), f"{text[:1].upper()}{text[1:]}!"):
        commons.add(again, category=category)


def plant_versions(commons: Commons) -> None:
    """Notes that differ in a version only: never duplicates."""
    text = sentence(commons.random)
    for version in ("2.1", "2.2", "3.0"):
        commons.add(f"{text} since version {version}", category="version_workaround")


def plant_relatives(commons: Commons) -> None:
    """Several notes about one thing."""
    thing, place = name(commons.random), name(commons.random)
    for remedy in commons.random.sample(REMEDIES, 4):
        commons.add(f"When the {thing} of {place} is stuck, {remedy}", category="domain_expertise")


def plant_legacy_merge(commons: Commons) -> None:
    """What the server's own distillation merged: expired rows that the canonical's tags name."""
    text = sentence(commons.random)
    long_ago = YEARS_AGO + timedelta(days=90)
    duplicates = [commons.add(f"{text}{end}", expired_at=long_ago) for end in ("!", " ...", " , really")]
    links = {"provenance_links": [str(item) for item in duplicates if item], "team": "b"}
    commons.add(text, tags=json.dumps(links), category="general")


def plant_legacy_summary(commons: Commons) -> None:
    """A summary that the server's own distillation wrote."""
    texts = [f"{sentence(commons.random)} ({number})" for number in range(3)]
    sources = [commons.add(text, category="reasoning_trace", tags="{}") for text in texts]
    tags = {"distilled": True, "source_item_ids": [str(item) for item in sources if item]}
    commons.add(
        f"In short: {' '.join(texts)}",
        source_agent_id="distillation",
        tags=json.dumps(tags),
        category="reasoning_trace",
        is_public=False,
    )


def plant_leavers(commons: Commons) -> None:
    """Rows that their owner deleted, or that the server expired for reasons of its own."""
    text = sentence(commons.random)
    commons.add(f"{text} (deleted)", deleted_at=YEARS_AGO + timedelta(days=9))
    commons.add(f"{text} (expired)", expired_at=YEARS_AGO + timedelta(days=9))
    commons.add(f"{text} (both)", deleted_at=YEARS_AGO, expired_at=YEARS_AGO)


def a_commons(org: str, size: int) -> Commons:
    """An org of exactly `size` rows with a bit of everything."""
    commons = Commons(org, random.Random(org))
    while len(commons.rows) < size:
        commons.random.choices(
            [
                plant_duplicates,
                plant_versions,
                plant_relatives,
                plant_legacy_merge,
                plant_legacy_summary,
                plant_leavers,
                lambda commons: commons.add(sentence(commons.random)),
            ],
            [3, 3, 5, 1, 1, 2, 80],
        )[0](commons)
    del commons.rows[size:]
    return commons


@cache
def all_commons() -> tuple[Commons, ...]:
    """The three orgs; some texts are in all of them."""
    orgs = tuple(a_commons(org, size - 20) for org, size in SIZES.items())
    for commons in orgs:
        for number in range(20):
            commons.add(f"A note that every org has under number {'abcdefghijklmnopqrst'[number]}")
    return orgs


def copy_into(store: Store, table: str, found: list[dict[str, Any]]) -> None:
    """Rows by COPY, as a restored backup would bring them."""
    names = list(found[0])
    with store.begin() as connection, raw_cursor(connection) as cursor:
        statement = f"COPY public.{table} ({', '.join(names)}) FROM STDIN"
        with cursor.copy(statement) as copy:
            for row in found:
                copy.write_row([row[name] for name in names])


def fill(store: Store) -> None:
    """The three orgs, their queues and their signals, by plain SQL."""
    chance = random.Random(7)
    for commons in all_commons():
        copy_into(store, "knowledge_items", list(_with_vectors(commons.rows)))
        copy_into(store, "pending_contributions", list(_queue(commons, chance)))
        copy_into(store, "quality_signals", list(_signals(commons, chance)))


def _with_vectors(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    lacking = [row for row in found if row["embedding"]]
    vectors = dict(
        zip(
            (row["id"] for row in lacking),
            HashEmbedder().embed([row["content"] for row in lacking]),
            strict=True,
        )
    )
    for row in found:
        vector = vectors.get(row["id"])
        yield row | {"embedding": None if vector is None else str(vector.tolist())}


def _queue(commons: Commons, chance: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(60):
        text = f"{sentence(chance)} ({number}, to be reviewed)"
        yield {
            "id": UUID(int=chance.getrandbits(128), version=4),
            "org_id": commons.org,
            "source_agent_id": "agent-1",
            "content": text,
            "content_hash": content_hash(text),
            "category": "general",
            "confidence": chance.choice([0.1, 0.3, 0.8]),
            "tags": chance.choice([None, "null", '{"mine": 1}', "[1]", '"x"']),
            "contributed_at": YEARS_AGO,
            "is_sensitive_flagged": False,
        }


def _signals(commons: Commons, chance: random.Random) -> Iterator[dict[str, Any]]:
    kinds = ("retrieval", "retrieval", "outcome_solved", "outcome_not_helpful", "contradiction")
    for row in chance.choices(commons.rows, k=300):
        yield {
            "id": UUID(int=chance.getrandbits(128), version=4),
            "knowledge_item_id": row["id"],
            "signal_type": chance.choice(kinds),
            "agent_id": "agent-2",
            "metadata": chance.choice([None, '{"rank": 3}', "[]"]),
            "created_at": YEARS_AGO + timedelta(days=chance.randint(0, 300)),
        }


def distil_orgs(store: Store, *orgs: str, hours: int = 0) -> dict[str, dict[str, Any]]:
    """One run of each org; its receipts by org and stage."""
    done = distillation.distill(
        store, services(), LOOSE, list(map(OrgId, orgs)), now=NOW + timedelta(hours=hours)
    )
    return {org: {stage.value: receipt for stage, receipt in found.items()} for org, found in done.items()}


def holds(store: Store) -> None:
    """No invariant is violated."""
    with store.read() as conn:
        assert invariants.violations(conn) == ()


def own_tables(store: Store) -> list[str]:
    """Our tables, but those that every run writes."""
    return [f"distillation.{table}" for table in own_digest(store) if table != "alembic_version"]


@pytest.mark.timeout(600)
def test_a_hivemind_of_old_is_distilled_within_what_we_may_touch(hivemind_store: Store) -> None:
    store = hivemind_store
    fill(store)
    untouched = public_dump(store)
    migrate(store)
    assert public_dump(store) == untouched

    others = {org: org_dump(store, org) for org in ("globex", "initech")}
    receipts = distil_orgs(store, "acme")
    assert {org: org_dump(store, org) for org in others} == others
    receipts |= distil_orgs(store, "globex", "initech")
    distilled = public_dump(store)
    assert forbidden_changes(untouched, distilled) == []
    holds(store)
    _everything_happened(store, receipts)
    _legacy_is_honoured(store)
    _pending_rows_carry_our_tags_only(store)

    own = own_digest(store)
    again = distil_orgs(store, *SIZES, hours=1)
    assert {one.outcome for found in again.values() for one in found.values()} == {"nothing_due"}
    assert own_digest(store) == own
    assert without_last_run(public_dump(store)) == without_last_run(distilled)
    found = backlog.read(store, LOOSE, NOW, ModelStamps.of(services()))
    assert {org.org_id: sum(org.due.values()) for org in found.orgs} == dict.fromkeys(SIZES, 0)

    _one_changed_item_costs_little(store)


def _everything_happened(store: Store, receipts: dict[str, dict[str, Any]]) -> None:
    for org in SIZES:
        found = receipts[org]
        assert found["item_features"].items > 0.8 * SIZES[org]
        assert found["duplicate_merges"].merged >= 20
        assert found["duplicate_merges"].outcome == "applied"
        assert found["cluster_summaries"].published >= 3
        assert found["contradiction_cases"].applied > 0
        assert found["prescreened_contributions"].screened == 60
    lacking = (
        "SELECT count(*) FROM public.knowledge_items"
        " WHERE embedding IS NULL AND deleted_at IS NULL AND expired_at IS NULL"
        " AND source_agent_id <> 'distillation'"
    )
    assert scalar(store, lacking) == 0
    versions = (
        "SELECT count(*) FROM public.knowledge_items WHERE category = 'version_workaround'"
        " AND content ~ 'since version' AND expired_at IS NOT NULL"
    )
    assert scalar(store, versions) == 0


def _legacy_is_honoured(store: Store) -> None:
    merges = "SELECT count(*) FROM distillation.merges WHERE is_legacy"
    assert scalar(store, merges) > 20
    kept = scalar(
        store,
        """
        SELECT count(*) FROM public.knowledge_items s
        WHERE s.content LIKE 'In short:%' AND s.expired_at IS NULL
          AND (SELECT count(*) FROM distillation.derivations d
               JOIN public.knowledge_items k ON k.id = d.source_id AND k.expired_at IS NULL
               WHERE d.derived_id = s.id) = 3
        """,
    )
    assert kept > 5
    retired = "SELECT after ->> 'reason' AS reason FROM distillation.ledger WHERE change = 'retire'"
    assert "topic_dissolved" not in {row.reason for row in rows(store, retired)}


def _pending_rows_carry_our_tags_only(store: Store) -> None:
    found = rows(store, "SELECT confidence, tags FROM public.pending_contributions")
    for row in found:
        labelled = isinstance(row.tags, dict) and row.tags.get("low_quality_prescreened") is True
        assert labelled is (row.confidence < 0.33 and not isinstance(row.tags, list | str))


def _one_changed_item_costs_little(store: Store) -> None:
    item = scalar(
        store,
        "SELECT id FROM public.knowledge_items WHERE org_id = 'acme' AND category = 'general'"
        " AND expired_at IS NULL AND deleted_at IS NULL ORDER BY id LIMIT 1",
    )
    text = f"{read_item(store, item)['content']} and tell the owner"
    set_item(store, item, content=text, content_hash=content_hash(text))
    since = next_transaction(store)
    before = public_dump(store)
    receipts = distil_orgs(store, "acme", hours=2)["acme"]
    assert receipts["item_features"].items == 1
    assert forbidden_changes(before, public_dump(store)) == []
    assert touched_rows(store, "public.knowledge_items", since) <= 5
    assert touched_rows(store, "public.pending_contributions", since) == 0
    assert touched_rows(store, "public.quality_signals", since) == 0
    touched = {table: touched_rows(store, table, since) for table in own_tables(store)}
    total = sum(count for count, _ in own_digest(store).values())
    assert sum(touched.values()) < 250 < total / 100, touched
    holds(store)
