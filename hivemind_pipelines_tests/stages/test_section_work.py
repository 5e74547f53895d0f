"""A section of the policy that changes causes its own work only, counted by the rows that are written."""

from typing import Any
from uuid import uuid4

import pytest

from hivemind_pipelines.core.model import RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.services.pii import GatedScanner
from hivemind_pipelines.stages import quality_scores
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import insert_items, insert_pending, insert_signal, rows, scalar
from hivemind_pipelines_tests.fakes import HashEmbedder
from hivemind_pipelines_tests.observed import next_transaction, own_digest, touched_rows
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services

TOPIC = [
    "Retry the upload with exponential backoff when the gateway answers slowly and tell the owner",
    "When the gateway answers slowly the upload should retry with backoff and jitter and tell the owner",
    "Uploads retry with exponential backoff while the gateway answers slowly and tell the owner of it",
]
NEAR = [
    "The nightly export of invoices fails when the accounting service rotates its certificate",
    "The nightly export of invoices fails when the accounting service rotates its certificates",
]
CONFLICT = [
    "Enable HTTP/2 for internal traffic between the gateway and the services.",
    "Disable HTTP/2 for internal traffic between the gateway and the services.",
]
IN_FORCE: dict[str, dict[str, Any]] = {"topics": {"distance_max": 0.6}, "matching": {"duplicate_min": 1.0}}

#: What the queue is held against moves with all sections but the wording of summaries.
QUEUE = {"prescreens", "screened_items"}
#: Scores that are taken anew leave their inputs and the day's distribution.
SCORES = {"quality_inputs", "quality_history"}

#: The sections that change, and the tables that a run may then write; `public` are the items themselves.
WORK: dict[str, tuple[dict[str, dict[str, Any]], set[str]]] = {
    "pii": ({"pii": {"detect_persons": False, "score_threshold": 0.6}}, {"summaries"}),
    "matching": (
        {"matching": {"duplicate_min": 0.8}},
        # A merge expires an item, whose votes then count for another one.
        {"candidate_pairs", "item_features", "merges", "ledger", "public", *QUEUE, *SCORES},
    ),
    "summary": (
        {"summary": {"method": "extractive", "prompt_version": "summary-2"}},
        {"item_features", "topic_clusters", "topic_members", "summaries", "derivations", "ledger", "public"},
    ),
    "quality": (
        {"quality": {"usefulness_weight": 0.5, "popularity_weight": 0.15}},
        {"ledger", "public", *QUEUE, *SCORES},
    ),
    "contradiction": ({"contradiction": {"score_min": 0.55}}, {"contradiction_cases", *QUEUE}),
}

#: Of features, all but who has looked at them since.
COMPUTED = """
    SELECT item_id, content_hash, scope_hash, class_key, signature, discriminators, embedding::text, stamp,
           probed_stamp
    FROM distillation.item_features ORDER BY item_id
"""
COMPARED = """
    SELECT a_id, b_id, a_hash, b_hash, comparison, probability FROM distillation.candidate_pairs ORDER BY 1, 2
"""


class CountingEmbedder(HashEmbedder):
    """Says how many texts it embedded."""

    def __init__(self) -> None:
        self.texts = 0

    def embed(self, texts, on_progress=None):
        self.texts += len(texts)
        return super().embed(texts, on_progress)


def run_under(store: Store, chosen: DistillationPolicy, embedder: HashEmbedder) -> None:
    using = services(embedder=embedder, scanner=GatedScanner(chosen.pii))
    distil(store, under=chosen, using=using)
    quality_scores.run(store, NOW, chosen, RunId(uuid4()))


def written(store: Store, before: dict[str, tuple[int, str]], since: int) -> dict[str, int]:
    """Rows written since, by table; a table that only lost rows counts 0."""
    after = own_digest(store)
    touched = {table: touched_rows(store, f"distillation.{table}", since) for table in after}
    found = {table: touched[table] for table in after if touched[table] or after[table] != before[table]}
    items = touched_rows(store, "public.knowledge_items", since)
    return found | ({"public": items} if items else {})


@pytest.fixture
def commons(store: Store) -> Store:
    """A topic, two near duplicates, two that conflict and a row in the queue, settled under `IN_FORCE`."""
    for item_id in [*insert_items(store, [*TOPIC, *CONFLICT]), *insert_items(store, NEAR, category="config")]:
        insert_signal(store, item_id, "outcome_helpful")
    insert_pending(store, "Clear the build cache before the release pipeline is started again by hand")
    for _ in range(2):
        run_under(store, policy(**IN_FORCE), HashEmbedder())
    assert scalar(store, "SELECT count(*) FROM distillation.summaries") == 1
    assert scalar(store, "SELECT count(*) FROM distillation.contradiction_cases WHERE status = 'open'") == 1
    return store


@pytest.mark.parametrize("section", WORK)
def test_a_section_that_changes_causes_its_own_work_only(commons: Store, section: str) -> None:
    changed, expected = WORK[section]
    computed, compared = rows(commons, COMPUTED), rows(commons, COMPARED)
    before, since, embedder = own_digest(commons), next_transaction(commons), CountingEmbedder()
    run_under(commons, policy(**IN_FORCE | changed), embedder)
    found = written(commons, before, since)
    assert set(found) == expected
    assert (rows(commons, COMPUTED), rows(commons, COMPARED)) == (computed, compared)
    # Only a new text is embedded: the summary that is written again.
    assert embedder.texts == (1 if section == "summary" else 0)
    if section == "matching":
        assert (found["candidate_pairs"], found["merges"]) == (before["candidate_pairs"][0], 1)
    before, since = own_digest(commons), next_transaction(commons)
    run_under(commons, policy(**IN_FORCE | changed), embedder)
    assert written(commons, before, since) == {}
