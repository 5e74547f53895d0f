import gzip
import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from hivemind_pipelines.core.intake import IntakeDefaults, IntakeRow, parse_row
from hivemind_pipelines.core.model import Category, OrgId
from hivemind_pipelines.stages import loading
from hivemind_pipelines.stages.loading import IntakeError, LoadReport, load_file, load_rows
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    ACME,
    execute,
    insert_item,
    insert_pending,
    public_dump,
    read_item,
    rows,
    scalar,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DEFAULTS = IntakeDefaults(ACME)


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def load(
    store: Store, path: Path, *, pending: bool = False, defaults: IntakeDefaults = DEFAULTS
) -> LoadReport:
    return load_file(store, path, defaults=defaults, target="pending" if pending else "items", now=NOW)


def reasons(report: LoadReport) -> list[tuple[int, str]]:
    return [(refusal.line, refusal.reason) for refusal in report.refusals]


def test_every_key_of_a_row_reaches_its_column(store: Store, tmp_path: Path) -> None:
    item_id = uuid4()
    file = write(
        tmp_path / "one.jsonl",
        {
            "text": "it's \"quoted\": \\ % {x} :y \u202e 日本 😀", "id": str(item_id), "org": "o'brien \"x\"",
            "category": "config", "confidence": 0.3, "source_agent_id": "ruff", "framework": "django",
            "language": "python", "version": "5.1", "tags": {"n": 12345678901234567890, "list": [1, None]},
            "contributed_at": "2021-04-14T10:00:00Z", "quality_score": 0.25, "retrieval_count": 7,
            "helpful_count": 2, "not_helpful_count": 1, "is_public": True,
        },
    )  # fmt: skip
    report = load(store, file)
    assert (report.rows, report.loaded, report.known, report.refused) == (1, 1, 0, 0)
    assert report.loaded_by_org == {'o\'brien "x"': 1}
    item = read_item(store, item_id)
    assert item["content"] == 'it\'s "quoted": \\ % {x} :y \u202e 日本 😀'
    assert item["tags"] == {"n": 12345678901234567890, "list": [1, None]}
    assert (item["contributed_at"], item["approved_at"]) == (
        "2021-04-14T10:00:00+00:00",
        "2026-06-01T12:00:00+00:00",
    )
    expected = {
        "org_id": "o'brien \"x\"", "category": "config", "confidence": 0.3, "source_agent_id": "ruff",
        "framework": "django", "language": "python", "version": "5.1", "quality_score": 0.25,
        "retrieval_count": 7, "helpful_count": 2, "not_helpful_count": 1, "is_public": True,
        "embedding": None, "expired_at": None, "deleted_at": None,
    }  # fmt: skip
    assert {name: item[name] for name in expected} == expected


def test_tags_left_out_are_null_in_sql(store: Store, tmp_path: Path) -> None:
    load(store, write(tmp_path / "a.jsonl", {"text": "a"}, {"text": "b", "tags": None}))
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE tags IS NULL") == 2


@pytest.mark.parametrize("pending", [False, True])
def test_loading_a_file_again_changes_nothing(store: Store, tmp_path: Path, pending: bool) -> None:
    file = write(tmp_path / "a.jsonl", *({"text": f"note {n}", "id": f"k{n}"} for n in range(20)))
    assert load(store, file, pending=pending).loaded == 20
    before = public_dump(store)
    again = load(store, file, pending=pending)
    assert (again.loaded, again.known, again.refused) == (0, 20, 0)
    assert public_dump(store) == before


@pytest.mark.parametrize("pending", [False, True])
def test_a_text_that_occurs_twice_in_a_file_is_stored_once(
    store: Store, tmp_path: Path, pending: bool
) -> None:
    file = write(
        tmp_path / "a.jsonl", {"text": "same", "id": 1}, {"text": "same", "id": 2}, {"text": "other"}
    )
    report = load(store, file, pending=pending)
    assert (report.loaded, report.known, report.refused) == (2, 1, 0)


def test_the_same_text_may_live_in_two_orgs(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"text": "same", "org": "a"}, {"text": "same", "org": "b"})
    assert load(store, file).loaded_by_org == {"a": 1, "b": 1}


def test_a_text_its_org_expired_or_deleted_does_not_come_back(store: Store, tmp_path: Path) -> None:
    insert_item(store, "old", expired_at=NOW)
    insert_item(store, "gone", deleted_at=NOW)
    before = public_dump(store)
    report = load(store, write(tmp_path / "a.jsonl", {"text": "old"}, {"text": "gone"}))
    assert (report.loaded, report.known) == (0, 2)
    assert public_dump(store) == before


def test_an_id_that_names_another_text_is_refused_and_the_stored_text_stays(
    store: Store, tmp_path: Path
) -> None:
    item_id = insert_item(store, "first")
    file = write(
        tmp_path / "a.jsonl", {"text": "fine"}, {"text": "second", "id": str(item_id)}, {"text": "fine too"}
    )
    report = load(store, file)
    assert (report.loaded, report.refused) == (2, 1)
    assert reasons(report) == [(2, "its id names another text already")]
    assert read_item(store, item_id)["content"] == "first"


def test_an_id_used_twice_in_a_file_keeps_its_first_text(store: Store, tmp_path: Path) -> None:
    report = load(store, write(tmp_path / "a.jsonl", {"text": "a", "id": "k1"}, {"text": "b", "id": "k1"}))
    assert reasons(report) == [(2, "its id names another text already")]


def test_pending_rows_go_to_the_queue_and_not_back_to_it_once_approved(store: Store, tmp_path: Path) -> None:
    insert_item(store, "approved meanwhile")
    insert_pending(store, "waiting")
    file = write(
        tmp_path / "a.jsonl",
        {"text": "approved meanwhile"},
        {"text": "waiting"},
        {"text": "new", "tags": [1]},
    )
    report = load(store, file, pending=True)
    assert (report.loaded, report.known, report.refused) == (1, 2, 0)
    queue = rows(
        store, "SELECT content, tags, is_sensitive_flagged FROM public.pending_contributions ORDER BY content"
    )
    assert [tuple(row) for row in queue] == [("new", [1], False), ("waiting", None, False)]


def test_two_loads_of_one_queue_at_once_store_each_text_once(store: Store, tmp_path: Path) -> None:
    # Different ids: nothing but the turn that loads take keeps the second copy out.
    files = [
        write(tmp_path / f"{name}.jsonl", *({"text": f"t{n}", "id": f"{name}{n}"} for n in range(200)))
        for name in ("a", "b", "c")
    ]
    reports: list[LoadReport] = []
    threads = [
        threading.Thread(target=lambda file=file: reports.append(load(store, file, pending=True)))
        for file in files
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scalar(store, "SELECT count(*) FROM public.pending_contributions") == 200
    assert sum(report.loaded for report in reports) == 200


def test_two_loads_of_the_same_items_in_opposite_order_do_not_block_each_other(
    store: Store, tmp_path: Path
) -> None:
    records = [{"text": f"t{n}", "id": f"k{n}"} for n in range(3_000)]
    files = [write(tmp_path / "a.jsonl", *records), write(tmp_path / "b.jsonl", *reversed(records))]
    reports: list[LoadReport] = []
    threads = [threading.Thread(target=lambda file=file: reports.append(load(store, file))) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.loaded + report.known for report in reports) == [3_000, 3_000]
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items") == 3_000


def test_a_file_is_stored_batch_by_batch_with_its_line_numbers_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BATCH_ROWS", 7)
    seen: list[int] = []
    records = [{"text": f"t{n}"} if n % 10 else {"text": ""} for n in range(100)]
    report = load_file(
        store,
        write(tmp_path / "a.jsonl", *records),
        defaults=DEFAULTS,
        target="items",
        now=NOW,
        on_progress=lambda _read, count: seen.append(count),
    )
    assert (report.rows, report.loaded, report.refused) == (100, 90, 10)
    assert [line for line, _ in reasons(report)] == list(range(1, 100, 10))
    assert seen == sorted(seen)
    assert seen[-1] == 100


def test_a_batch_is_bounded_by_bytes_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BATCH_BYTES", 1)
    assert load(store, write(tmp_path / "a.jsonl", {"text": "a"}, {"text": "b"})).loaded == 2


def test_a_row_that_only_the_database_refuses_harms_no_other_row(store: Store, tmp_path: Path) -> None:
    execute(
        store,
        "ALTER TABLE public.knowledge_items ADD CONSTRAINT house_rule CHECK (content NOT LIKE '%taboo%')",
    )
    records = [{"text": f"t{n}"} for n in range(50)]
    records[17] = {"text": "taboo words"}
    report = load(store, write(tmp_path / "a.jsonl", *records))
    assert (report.loaded, report.refused) == (49, 1)
    assert reasons(report) == [(18, "the database refused the row (SQLSTATE 23514)")]


def test_gzip_is_recognised_by_its_content_whatever_the_name(store: Store, tmp_path: Path) -> None:
    packed = tmp_path / "packed.jsonl"
    packed.write_bytes(gzip.compress(b'{"text": "a"}\n') + gzip.compress(b'{"text": "b"}\n'))
    plain = write(tmp_path / "plain.jsonl.gz", {"text": "c"})
    assert load(store, packed).loaded == 2
    assert load(store, plain).loaded == 1


def test_rows_made_in_memory_load_the_same_way(store: Store) -> None:
    made = [parse_row(json.dumps({"text": f"t{n % 3}"}).encode(), DEFAULTS) for n in range(5)]
    intake = [row for row in made if isinstance(row, IntakeRow)]
    report = load_rows(store, intake, target="items", now=NOW)
    assert (report.rows, report.loaded, report.known, report.refused) == (5, 3, 2, 0)


def test_a_database_of_a_hivemind_server_takes_loads_as_well(hivemind_store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"text": "a"}, {"text": "b", "org": "x" * 255})
    assert load(hivemind_store, file).loaded == 2
    assert load(hivemind_store, file, pending=True).known == 2


def test_unknown_categories_are_refused_or_given_the_named_one(store: Store, tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.jsonl", {"text": "a", "category": "command"}, {"text": "b", "id": str(UUID(int=5))}
    )
    assert reasons(load(store, file)) == [(1, "unknown category 'command'")]
    named = load(store, file, defaults=IntakeDefaults(OrgId("acme"), Category.TOOLING))
    assert (named.loaded, named.known) == (1, 1)


def test_a_file_without_rows_is_no_input(store: Store, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"\n  \n")
    with pytest.raises(IntakeError, match="holds no rows"):
        load(store, empty)
