"""A gate that learns: summaries are scanned again and repaired, originals are reported and left alone."""

from datetime import timedelta
from uuid import uuid4

import pytest

from hivemind_pipelines.core.model import OrgId, RunId, Stage
from hivemind_pipelines.core.receipts import RetroScanReceipt, SummariesReceipt
from hivemind_pipelines.services import pii
from hivemind_pipelines.services.pii import GatedScanner
from hivemind_pipelines.stages import pii_retro_scan
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import ACME, insert_item, public_dump, rows, scalar, set_item
from hivemind_pipelines_tests.services.fake_secrets import fake
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services

ADDRESS = "ops.team@acme-storage.io"
RETRY = [
    f"Retry the upload with exponential backoff when the gateway answers slowly and mail {ADDRESS}",
    f"When the gateway answers slowly the upload should retry with backoff and jitter and mail {ADDRESS}",
    f"Uploads retry with exponential backoff while the gateway answers slowly under load and mail {ADDRESS}",
]
LOOSE = policy(topics={"distance_max": 0.9}, matching={"duplicate_min": 1.0})
LIVE_SUMMARIES = (
    "SELECT content FROM knowledge_items WHERE source_agent_id = 'distillation' AND expired_at IS NULL"
)


class Blind(GatedScanner):
    """The gate before it knew anything."""

    def __init__(self) -> None:
        super().__init__(policy().pii)
        self.stamp = "blind"

    def _scan_together(self, texts, *_):
        return [() for _ in texts]


def retro_scan(store: Store, scanner: GatedScanner | None = None, org: str = ACME) -> RetroScanReceipt:
    chosen = scanner or GatedScanner(policy().pii)
    return pii_retro_scan.run(store, chosen, OrgId(org), NOW, RunId(uuid4()))


def test_a_summary_that_an_older_gate_let_through_is_replaced_in_the_same_run(store: Store) -> None:
    for text in RETRY:
        insert_item(store, text)
    distil(store, under=LOOSE, using=services(scanner=Blind()))
    [leaking] = rows(store, LIVE_SUMMARIES)
    assert ADDRESS in leaking.content
    receipt = distil(store, under=LOOSE, now=NOW + timedelta(hours=1))[Stage.CLUSTER_SUMMARIES]
    assert isinstance(receipt, SummariesReceipt)
    assert (receipt.retired, receipt.published) == (1, 1)
    [repaired] = rows(store, LIVE_SUMMARIES)
    assert ADDRESS not in repaired.content
    assert "[EMAIL]" in repaired.content
    assert (
        scalar(store, "SELECT count(*) FROM distillation.summaries WHERE retired_reason = 'pii_found'") == 1
    )
    with store.read() as conn:
        assert invariants.violations(conn) == ()


def test_a_summary_in_which_nothing_is_found_keeps_its_text_under_the_new_stamp(store: Store) -> None:
    for text in RETRY:
        insert_item(store, text.replace(ADDRESS, "the owner"))
    distil(store, under=LOOSE, using=services(scanner=Blind()))
    before = rows(store, LIVE_SUMMARIES)
    receipt = distil(store, under=LOOSE, now=NOW + timedelta(hours=1))[Stage.CLUSTER_SUMMARIES]
    assert (receipt.due, receipt.applied) == (1, 1)
    assert rows(store, LIVE_SUMMARIES) == before
    stamps = rows(store, "SELECT DISTINCT pii_stamp FROM distillation.summaries")
    assert [row.pii_stamp for row in stamps] == [services().scanner.stamp]
    again = distil(store, under=LOOSE, now=NOW + timedelta(hours=2))[Stage.CLUSTER_SUMMARIES]
    assert (again.due, again.outcome) == (0, "nothing_due")


def test_a_retro_scan_reports_counts_and_ids_and_touches_no_row(store: Store) -> None:
    secret = fake("ghp_{A:36}")
    leaking = insert_item(store, f"Push with {secret}, or ask {ADDRESS} and jo@acme-storage.io")
    insert_item(store, "Nothing of anybody in here")
    insert_item(store, f"Another org mails {ADDRESS}", org="other")
    for org in (ACME, "other"):
        distil(store, org)
    before = public_dump(store)
    receipt = retro_scan(store)
    assert public_dump(store) == before
    assert (receipt.due, receipt.scanned, receipt.with_findings) == (2, 2, 1)
    assert receipt.by_type == {"API_KEY": 1, "EMAIL": 2}
    assert receipt.found_in == {str(leaking): {"API_KEY": 1, "EMAIL": 2}}
    kept = scalar(store, "SELECT string_agg(s::text, ' ') FROM distillation.pii_scans s")
    assert secret not in kept + receipt.model_dump_json()
    assert ADDRESS not in kept


def test_a_retro_scan_looks_only_at_what_no_scan_of_its_stamp_has_seen(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pii_retro_scan, "BATCH", 2)
    for number in range(5):
        insert_item(store, f"Note {number} is about {number * 7} other things, mail {ADDRESS}")
    distil(store)
    assert retro_scan(store).scanned == 5
    assert (retro_scan(store).due, retro_scan(store).with_findings) == (0, 5)
    new = insert_item(store, "One more note without anything")
    distil(store, now=NOW + timedelta(hours=1))
    assert retro_scan(store).scanned == 1
    set_item(store, new, expired_at=NOW)
    monkeypatch.setattr(pii, "rules_fingerprint", lambda: "one rule more")
    assert retro_scan(store).scanned == 5


def test_a_text_that_cannot_be_scanned_stays_due(store: Store) -> None:
    insert_item(store, "A note that takes too long")
    insert_item(store, "Short")
    distil(store)
    receipt = retro_scan(store, GatedScanner(policy().pii, characters_max=10))
    assert (receipt.due, receipt.scanned, receipt.unscannable) == (2, 1, 1)
    assert retro_scan(store).scanned == 1
