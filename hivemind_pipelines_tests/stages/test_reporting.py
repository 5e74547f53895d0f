"""The report shows an org's figures as they stand in the database, in one file that needs nothing else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from hivemind_pipelines.core.model import OrgId, RunId, Stage
from hivemind_pipelines.core.receipts import FeaturesReceipt, MergesReceipt, Receipt
from hivemind_pipelines.stages import plots, quality_scores, reporting
from hivemind_pipelines.stages.reporting import OrgReport, Paragraph, Quote, Section, Table
from hivemind_pipelines.store import reporting as figures
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.reporting import ClusterSize, QualityBin, SimilarityBin, Standing
from hivemind_pipelines_tests.builders import ACME, execute, insert_item, insert_pending
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy

AS_OF = datetime(2026, 5, 1, tzinfo=UTC)
OTHER = OrgId("other")
PNG = b"\x89PNG\r\n\x1a\n"

EMPTY = OrgReport(ACME, {}, Standing(0, 0, 0, 0, 0, 0, 0), (), (), ())


def compared(store: Store, a_id: UUID, b_id: UUID, cosine: float | None, decision: str = "distinct") -> None:
    """A stored pair, with what it hangs on."""
    low, high = sorted((a_id, b_id))
    for item_id in (low, high):
        featured(store, item_id)
    scores = "{}" if cosine is None else f'{{"cosine": {cosine}}}'
    execute(
        store,
        """INSERT INTO distillation.candidate_pairs VALUES
           (:org, :a, :b, '', '', CAST(:comparison AS jsonb), 0.5, :decision, 'reason', 'stamp')""",
        org=ACME, a=low, b=high, comparison=f'{{"scores": {scores}, "vetoes": []}}', decision=decision,
    )  # fmt: skip


def featured(store: Store, item_id: UUID) -> None:
    registered(store, item_id)
    execute(
        store,
        """INSERT INTO distillation.item_features
               (org_id, item_id, content_hash, scope_hash, class_key, signature, discriminators, stamp)
           VALUES (:org, :id, '', '', sha256(CAST(CAST(:id AS text) AS bytea)), '', '{}', 'stamp')
           ON CONFLICT DO NOTHING""",
        org=ACME,
        id=item_id,
    )


def registered(store: Store, item_id: UUID, kind: str = "original") -> None:
    execute(
        store,
        "INSERT INTO distillation.registered_items VALUES (:org, :id, :kind) ON CONFLICT DO NOTHING",
        org=ACME,
        id=item_id,
        kind=kind,
    )


def merged(store: Store, duplicate_id: UUID, canonical_id: UUID) -> None:
    for item_id in (duplicate_id, canonical_id):
        registered(store, item_id)
    execute(
        store,
        """INSERT INTO distillation.merges (org_id, duplicate_id, canonical_id, expired_at, stamp)
           VALUES (:org, :duplicate, :canonical, now(), 'stamp')""",
        org=ACME,
        duplicate=duplicate_id,
        canonical=canonical_id,
    )
    execute(store, "UPDATE public.knowledge_items SET expired_at = now() WHERE id = :id", id=duplicate_id)


def topic(store: Store, fingerprint: str, members: list[UUID]) -> None:
    for item_id in members:
        featured(store, item_id)
    execute(
        store,
        """INSERT INTO distillation.topic_clusters (org_id, fingerprint, category, medoid_id, stamp)
           VALUES (:org, :fingerprint, 'general', :medoid, 'stamp')""",
        org=ACME,
        fingerprint=fingerprint,
        medoid=members[0],
    )
    for item_id in members:
        execute(
            store,
            "INSERT INTO distillation.topic_members VALUES (:org, :fingerprint, :id, '')",
            org=ACME,
            fingerprint=fingerprint,
            id=item_id,
        )


def test_standing_counts_what_the_org_holds(store: Store) -> None:
    a, b, _c = (insert_item(store, f"note {number}") for number in range(3))
    merged(store, b, a)
    insert_item(store, "elsewhere", OTHER)
    insert_pending(store, "waiting")

    with store.read() as conn:
        standing = figures.read_standing(conn, ACME)

    assert standing == Standing(
        live=2, merged=1, summaries=0, topics=0, open_cases=0, pending=1, low_quality=0
    )


def test_cluster_sizes_count_the_canonical_and_keep_kinds_apart(store: Store) -> None:
    ids = [insert_item(store, f"note {number}") for number in range(6)]
    merged(store, ids[1], ids[0])
    merged(store, ids[2], ids[0])
    topic(store, "f1", ids[3:6])

    with store.read() as conn:
        assert figures.read_cluster_sizes(conn, ACME) == (
            ClusterSize("duplicates", 3, 1),
            ClusterSize("topic", 3, 1),
        )
        assert figures.read_cluster_sizes(conn, OTHER) == ()


def test_similarities_tell_merged_pairs_from_the_others(store: Store) -> None:
    a, b, c, d = (insert_item(store, f"note {number}") for number in range(4))
    compared(store, a, b, 0.97, "duplicate")
    compared(store, a, c, 0.62)
    compared(store, b, c, 1.0000002)
    compared(store, c, d, None)
    merged(store, b, a)

    with store.read() as conn:
        bins = figures.read_similarities(conn, ACME, bins=10)

    assert bins == (SimilarityBin(0.6, 0, 1), SimilarityBin(0.9, 1, 1))


def test_followers_of_one_canonical_count_as_merged(store: Store) -> None:
    a, b, c = (insert_item(store, f"note {number}") for number in range(3))
    compared(store, b, c, 0.95, "possible")
    merged(store, b, a)
    merged(store, c, a)

    with store.read() as conn:
        assert figures.read_similarities(conn, ACME, bins=10) == (SimilarityBin(0.9, 1, 0),)
        assert figures.read_followers(conn, ACME) == {b: a, c: a}


def test_near_decisions_leave_out_distinct_pairs(store: Store) -> None:
    a, b, c = sorted(insert_item(store, f"note {number}") for number in range(3))
    compared(store, a, b, 0.9, "possible")
    compared(store, a, c, 0.5, "distinct")

    with store.read() as conn:
        assert figures.read_near_decisions(conn, ACME) == {(a, b): "possible"}


def test_quality_bins_cover_live_items_only_and_hold_both_ends(store: Store) -> None:
    for number, score in enumerate((0.0, 0.5, 1.0)):
        insert_item(store, f"note {number}", quality_score=score)
    insert_item(store, "deleted", quality_score=0.5, deleted_at=AS_OF)

    with store.read() as conn:
        assert figures.read_quality(conn, ACME, bins=4) == (
            QualityBin(0.0, 1),
            QualityBin(0.5, 1),
            QualityBin(0.75, 1),
        )


def test_merges_between_agents_are_shown_first(store: Store) -> None:
    same = [insert_item(store, f"a {number}", source_agent_id="ruff") for number in range(2)]
    ruff = insert_item(store, "a much longer text", source_agent_id="ruff")
    pylint = insert_item(store, "another longer text", source_agent_id="pylint")
    merged(store, same[1], same[0])
    merged(store, pylint, ruff)

    with store.read() as conn:
        shown = figures.read_merged_texts(conn, ACME, limit=5)

    assert [(merge.duplicate_agent, merge.canonical_agent) for merge in shown] == [
        ("pylint", "ruff"),
        ("ruff", "ruff"),
    ]
    assert shown[0].reason is None


def test_a_live_summary_is_read_with_its_sources(store: Store) -> None:
    sources = [insert_item(store, f"source {number}", source_agent_id="ruff") for number in range(3)]
    summary = insert_item(store, "the summary", source_agent_id="distillation")
    retired = insert_item(store, "an older summary", source_agent_id="distillation", expired_at=AS_OF)
    for summary_id in (summary, retired):
        registered(store, summary_id, "summary")
        execute(
            store,
            """INSERT INTO distillation.summaries
                   (org_id, summary_id, fingerprint, content_hash, method, model, prompt_version, stamp,
                    pii_stamp)
               VALUES (:org, :id, CAST(:id AS text), '', 'extractive', '', '', '', '')""",
            org=ACME,
            id=summary_id,
        )
        for source_id in sources:
            registered(store, source_id)
            execute(
                store,
                """INSERT INTO distillation.derivations (org_id, derived_id, source_id, source_hash)
                   VALUES (:org, :derived, :source, '')""",
                org=ACME,
                derived=summary_id,
                source=source_id,
            )

    with store.read() as conn:
        (read,) = figures.read_live_summaries(conn, ACME)

    assert (read.summary_id, read.content, read.method) == (summary, "the summary", "extractive")
    assert [source.item_id for source in read.sources] == sorted(sources)


def test_reading_an_org_that_holds_nothing_gives_an_empty_report(store: Store) -> None:
    assert reporting.read_org_report(store, ACME, {}) == EMPTY


def test_the_stage_table_has_a_row_for_each_org_and_stage_in_run_order() -> None:
    receipts: dict[Stage, Receipt] = {
        Stage.DUPLICATE_MERGES: MergesReceipt(
            outcome="applied", due=3, applied=2, dropped=1, merged=2, seconds=0.123
        ),
        Stage.ITEM_FEATURES: FeaturesReceipt(due=0),
    }
    report = OrgReport(ACME, receipts, EMPTY.standing, (), (), ())

    table = reporting.stage_table([report])

    assert table.columns[:3] == ("org", "stage", "outcome")
    assert table.rows == (
        (ACME, "item_features", "nothing due", 0, 0, "", 0.0),
        (ACME, "duplicate_merges", "applied", 3, 2, "1 dropped, 2 merged", 0.12),
    )


@pytest.mark.parametrize(
    "picture",
    [
        plots.cluster_sizes([ClusterSize("duplicates", 2, 5), ClusterSize("topic", 3, 2)]),
        plots.similarities([SimilarityBin(0.9, 3, 5)], width=0.05),
        plots.quality([QualityBin(0.5, 9)], width=0.05),
        plots.cluster_sizes([]),
        plots.similarities([], width=0.05),
        plots.quality([], width=0.05),
    ],
)
def test_every_picture_is_a_png_even_of_nothing(picture: bytes) -> None:
    assert picture.startswith(PNG)


def test_the_report_is_one_file_with_its_pictures_inside(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "one.html"

    written = reporting.write_report(path, [EMPTY], title="Distillation", as_of=AS_OF)

    page = written.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6
    assert "src='http" not in page
    assert "2026-05-01 00:00:00 UTC" in page
    assert list(path.parent.iterdir()) == [path]


def test_text_that_a_caller_adds_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    section = Section(evil, (Paragraph(evil), Quote(evil, evil), Table((evil,), ((evil,),))))
    report = OrgReport(OrgId(evil), {}, EMPTY.standing, (), (), ())

    page = reporting.render([report], title=evil, as_of=AS_OF, sections=[section])

    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 8


def test_figures_of_a_vanished_canonical_do_not_fail(store: Store) -> None:
    a = insert_item(store, "note")
    merged(store, a, uuid4())

    with store.read() as conn:
        assert figures.read_merged_texts(conn, ACME, limit=5) == ()
        assert figures.read_cluster_sizes(conn, ACME) == (ClusterSize("duplicates", 2, 1),)


def test_open_cases_are_counted_by_age(store: Store) -> None:
    for number, days in enumerate((0, 3, 3, 20, 400)):
        execute(
            store,
            "INSERT INTO distillation.contradiction_cases"
            " (org_id, case_id, category, detector, opened_at, run_id, stamp)"
            " VALUES (:org, :id, 'general', 'signals', CAST(:now AS timestamptz) - :days * interval '1 day',"
            " gen_random_uuid(), '')",
            org=ACME, id=UUID(int=number + 1), now=NOW, days=days,
        )  # fmt: skip
    execute(
        store,
        "UPDATE distillation.contradiction_cases SET status = 'dismissed', decided_at = now() WHERE case_id = :id",
        id=UUID(int=2),
    )
    with store.read() as conn:
        ages = figures.read_case_ages(conn, ACME, NOW)
        assert [(one.name, one.count) for one in ages] == [
            ("up to a day", 1), ("up to a week", 1), ("up to a month", 1), ("longer", 1),
        ]  # fmt: skip
        assert figures.read_case_ages(conn, OTHER, NOW) == ()


def test_the_queue_is_counted_by_label_and_history_is_drawn(store: Store, tmp_path: Path) -> None:
    insert_item(store, "Set the pool timeout to 30 seconds to avoid stale connections")
    insert_pending(store, "Set the pool timeout to 30 seconds to avoid stale connections.", confidence=0.1)
    insert_pending(store, "Restart the ingress controller once its certificate was rotated")
    distil(store)
    insert_pending(store, "Not screened yet, it came later")
    quality_scores.run(store, NOW, policy(), RunId(uuid4()))
    quality_scores.run(store, NOW + timedelta(days=1), policy(), RunId(uuid4()))
    report = reporting.read_org_report(store, ACME, {}, as_of=NOW)
    assert {one.name: one.count for one in report.queue_labels} == {
        "near_duplicate": 1, "low_quality": 1, "no label": 1, "not screened yet": 1,
    }  # fmt: skip
    assert [day.day for day in report.history] == [NOW.date(), NOW.date() + timedelta(days=1)]
    path = reporting.write_report(tmp_path / "report.html", [report], title="A report", as_of=NOW)
    page = path.read_text("utf-8")
    assert "What waits for people" in page
    assert "near duplicate" in page
    for alt in ("quality over time", "open cases by age", "queue by label"):
        assert f"<img alt='{alt}'" in page


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [((0, 4, 0, 0), 0.5, 0.375), ((1, 0, 0, 1), 0.5, 0.25), ((0, 0), 0.5, 0.0), ((2, 2), 1.0, 1.0)],
)
def test_a_quantile_lies_inside_its_part(counts: tuple[int, ...], share: float, expected: float) -> None:
    assert plots.quantile(counts, share) == pytest.approx(expected)
