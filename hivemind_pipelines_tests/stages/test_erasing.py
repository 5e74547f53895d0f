"""erase: a text leaves its row and everything made of it, and the receipt proves it."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hivemind_pipelines.core.erasure import tombstone_text
from hivemind_pipelines.core.intake import IntakeDefaults
from hivemind_pipelines.core.model import ItemId
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.core.undo import RunTarget
from hivemind_pipelines.stages import erasing, review, undo
from hivemind_pipelines.stages.erasing import ErasureError, Issued, Office, Outcome
from hivemind_pipelines.stages.loading import LoadReport, load_file
from hivemind_pipelines.stages.residual_scan import Places
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.loading import LoadTarget
from hivemind_pipelines.store.migrations.migrate import migrate
from hivemind_pipelines_tests.builders import (
    ACME,
    delete_item,
    execute,
    insert_item,
    insert_items,
    insert_pending,
    insert_signal,
    public_dump,
    read_item,
    rows,
    scalar,
    set_item,
    unit_vector,
)
from hivemind_pipelines_tests.observed import own_digest
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services

KEY = b"a key of the tests alone, 32 bytes"
LATER = NOW + timedelta(minutes=5)
LOOSE = policy(topics={"distance_max": 0.9}, matching={"duplicate_min": 1.0})
SECRET = "Marguerite Oyelaran-Vance keeps the quorum password of the vault under the blue stapler"
FIX = "Set the pool timeout to avoid stale connections after a database failover"
RELATED = [
    "Retry the upload with exponential backoff when the storage gateway answers slowly",
    "Rotate the storage gateway certificates before the upload window opens each quarter",
    "Compress the upload stream so that the storage gateway answers within its budget",
    "Measure how slowly the storage gateway answers before the upload retries begin",
]
SUMMARIES = (
    "SELECT * FROM public.knowledge_items WHERE source_agent_id = 'distillation' ORDER BY contributed_at"
)


@pytest.fixture
def office(store: Store, tmp_path: Path) -> Office:
    """An office that searches the test's database and a home of its own."""
    return Office(Places(store, directories=(tmp_path,)), tmp_path, KEY)


def erase(office: Office, ids: Sequence[ItemId], *, now: datetime = LATER, **options: Any) -> Outcome:
    """Erase under the loose policy."""
    chosen: dict[str, Any] = {"reason": "asked by its author", "with_copies": False} | options
    return erasing.erase(office, LOOSE, ids, now=now, **chosen)


def erase_one(office: Office, *ids: ItemId, **options: Any) -> Issued:
    """The one receipt of an erasure that leaves nothing behind."""
    [issued] = erase(office, ids, **options).issued
    assert issued.residue == {}
    return issued


def holds(store: Store) -> None:
    """No invariant is violated."""
    with store.read() as conn:
        assert invariants.violations(conn) == ()


def is_tombstone(store: Store, item_id: ItemId) -> bool:
    """Whether the row says nothing any more."""
    row, said = read_item(store, item_id), tombstone_text(item_id)
    assert (row["content"], row["content_hash"]) == (said, content_hash(said))
    return row["embedding"] is None and row["deleted_at"] is not None


def whole_database(store: Store) -> str:
    """Every row of every table as one text."""
    tables = rows(
        store,
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND n.nspname IN ('public', 'distillation')",
    )
    dumps = (
        scalar(store, f"SELECT COALESCE(string_agg(t::text, chr(10)), '') FROM {table.name} t")
        for table in tables
    )
    return "\n".join(dumps)


def full_commons(store: Store) -> ItemId:
    """A secret with everything that could be made of it: pairs, a case, signals, a summary, labels."""
    secret = insert_item(store, SECRET, tags={"note": SECRET, "mine": 1}, category="tooling")
    kin = [f"{SECRET} and {more}" for more in ("a lamp", "nowhere else", "on Fridays the red one")]
    insert_items(store, kin, category="tooling", source_agent_id="agent-2")
    rival = insert_item(store, RELATED[0], category="tooling")
    for item in (secret, rival):
        insert_signal(store, item, metadata={"said": SECRET})
    insert_signal(store, rival, "contradiction_cluster", metadata={"conflicting_item_ids": [str(secret)]})
    return secret


def test_the_row_stays_as_a_tombstone_and_says_nothing(store: Store, office: Office) -> None:
    secret = insert_item(store, SECRET, tags={"note": SECRET}, embedding=unit_vector(1))
    insert_signal(store, secret, metadata={"query": SECRET})
    distil(store, under=LOOSE)
    erase_one(office, secret)
    assert is_tombstone(store, secret)
    assert read_item(store, secret)["tags"] is None
    assert scalar(store, "SELECT metadata FROM public.quality_signals") is None
    assert SECRET not in whole_database(store)
    assert content_hash(SECRET) not in whole_database(store)
    holds(store)


def test_nothing_derived_is_left_in_any_table(store: Store, office: Office) -> None:
    secret = full_commons(store)
    distil(store, under=policy(topics={"distance_max": 0.9}, contradiction={"cosine_min": 0.0}))
    before = whole_database(store)
    assert content_hash(SECRET) in before
    assert scalar(store, "SELECT count(*) FROM distillation.case_items WHERE item_id = :id", id=secret) == 1
    [issued] = erase(office, [secret]).issued
    left = whole_database(store)
    assert content_hash(SECRET) not in left
    features = "SELECT count(*) FROM distillation.item_features WHERE item_id = :id"
    assert scalar(store, features, id=secret) == 0
    assert issued.residue == {}
    holds(store)


def test_a_summary_loses_its_text_with_its_source_and_is_written_again_from_the_rest(
    store: Store, office: Office
) -> None:
    source, *rest = insert_items(store, RELATED)
    distil(store, under=LOOSE)
    [summary] = rows(store, SUMMARIES)
    issued = erase_one(office, source)
    assert [row["id"] for row in issued.receipt["derived"]] == [str(summary.id)]  # type: ignore[attr-defined]
    assert is_tombstone(store, summary.id)
    assert read_item(store, summary.id)["tags"] == {"distilled": True}
    distil(store, under=LOOSE, now=NOW + timedelta(hours=1))
    live = [row for row in rows(store, SUMMARIES) if row.deleted_at is None and row.expired_at is None]
    assert [row.tags["source_item_ids"] for row in live] == [sorted(map(str, rest))]
    assert RELATED[0] not in whole_database(store)
    holds(store)


def test_a_retired_summary_loses_its_text_too(store: Store, office: Office) -> None:
    source, other, *_ = insert_items(store, RELATED)
    distil(store, under=LOOSE)
    set_item(store, other, deleted_at=NOW)
    distil(store, under=LOOSE, now=NOW + timedelta(minutes=1))
    erase_one(office, source)
    assert [is_tombstone(store, row.id) for row in rows(store, SUMMARIES)] == [True, True]
    holds(store)


def test_a_servers_own_summary_loses_its_text_too(store: Store, office: Office) -> None:
    sources = insert_items(store, RELATED)
    tags = {"distilled": True, "source_item_ids": list(map(str, sources))}
    summary = insert_item(store, f"In short: {RELATED[0]}", source_agent_id="distillation", tags=tags)
    migrate(store)
    erase_one(office, sources[0])
    assert is_tombstone(store, summary)
    migrate(store)
    assert scalar(store, "SELECT count(*) FROM distillation.derivations") == 0
    holds(store)


def test_followers_of_an_erased_canonical_come_back_at_once_and_find_a_new_one(
    store: Store, office: Office
) -> None:
    kept = insert_item(store, FIX, quality_score=0.9)
    followers = [insert_item(store, f"{FIX}{end}", source_agent_id="agent-2") for end in (".", "!")]
    distil(store)
    issued = erase_one(office, kept)
    assert {read_item(store, one)["expired_at"] for one in followers} == {None}
    listed = {copy["id"]: copy for copy in issued.receipt["copies"]}  # type: ignore[attr-defined]
    assert listed.keys() == set(map(str, followers))
    assert {copy["same_contributor"] for copy in listed.values()} == {False}
    distil(store, now=NOW + timedelta(hours=1))
    assert sum(read_item(store, one)["expired_at"] is None for one in followers) == 1
    holds(store)


def test_an_erased_duplicate_leaves_its_canonical_without_a_link(store: Store, office: Office) -> None:
    kept = insert_item(store, FIX, quality_score=0.9, tags={"mine": 1})
    merged = insert_item(store, f"{FIX}.")
    distil(store)
    assert read_item(store, kept)["tags"]["provenance_links"] == [str(merged)]
    erase_one(office, merged)
    assert read_item(store, kept)["tags"] == {"mine": 1}
    assert scalar(store, "SELECT count(*) FROM distillation.merges") == 0
    holds(store)


def test_a_link_that_a_server_wrote_goes_too(store: Store, office: Office) -> None:
    merged, other = insert_items(store, [SECRET, RELATED[0]])
    kept = insert_item(store, FIX, tags={"provenance_links": [str(merged), str(other)]})
    erase_one(office, merged)
    assert read_item(store, kept)["tags"] == {"provenance_links": [str(other)]}


def test_copies_of_others_are_listed_and_keep_what_they_say(store: Store, office: Office) -> None:
    mine = insert_item(store, SECRET)
    theirs = insert_item(store, f"{SECRET}.", source_agent_id="agent-2")
    elsewhere = insert_item(store, SECRET, "globex")
    queued = insert_pending(store, SECRET)
    issued = erase_one(office, mine, with_copies=True)
    listed = [(copy["table"], copy["org_id"], copy["id"]) for copy in issued.receipt["copies"]]  # type: ignore[attr-defined]
    assert sorted(listed) == sorted(
        [
            ("knowledge_items", ACME, str(theirs)),
            ("knowledge_items", "globex", str(elsewhere)),
            ("pending_contributions", ACME, str(queued)),
        ]
    )
    assert read_item(store, theirs)["content"] == f"{SECRET}."
    assert read_item(store, elsewhere)["content"] == SECRET


def test_copies_of_the_same_contributor_go_when_asked(store: Store, office: Office) -> None:
    mine, again, unlike = insert_items(store, [SECRET, f"{SECRET}!", SECRET.replace("blue", "green")])
    issued = erase_one(office, mine)
    own = {copy["id"] for copy in issued.receipt["copies"] if copy["same_contributor"]}  # type: ignore[attr-defined]
    assert own == {str(again), str(unlike)}
    issued = erase_one(office, unlike, with_copies=True)
    assert read_item(store, again)["content"] == f"{SECRET}!"
    third = insert_item(store, f"  {SECRET}?".replace("?", "."))
    erase_one(office, again, with_copies=True)
    assert is_tombstone(store, third)
    holds(store)


def test_open_cases_that_lose_a_party_are_emptied_and_closed(store: Store, office: Office) -> None:
    pair = [
        insert_item(store, text, category="config", embedding=unit_vector(3))
        for text in ("The cache must be warm before a release", "The cache must be cold before a release")
    ]
    for item in pair:
        insert_signal(store, item)
    distil(store, under=LOOSE)
    [case] = rows(store, "SELECT * FROM distillation.contradiction_cases")
    assert case.status == "open"
    erase_one(office, pair[0])
    [case] = rows(store, "SELECT * FROM distillation.contradiction_cases")
    assert (case.status, case.outcome, case.evidence) == ("dismissed", "erased", {})
    mentions = "SELECT count(*) FROM public.quality_signals WHERE metadata::text LIKE '%' || :id || '%'"
    assert scalar(store, mentions, id=str(pair[0])) == 0
    holds(store)
    distil(store, under=LOOSE, now=NOW + timedelta(hours=1))
    holds(store)
    assert review.queue(store, ACME, model="m", limit=9, offset=0).case_precision == (), "nobody judged it"


def test_erasing_twice_is_erasing_once(store: Store, office: Office) -> None:
    source, *_ = insert_items(store, RELATED)
    distil(store, under=LOOSE)
    issued = erase_one(office, source)
    public, own = public_dump(store), own_digest(store)
    again = erase(office, [source], now=LATER + timedelta(hours=1))
    assert again.issued == ()
    assert str(again.already_erased[source]) == issued.receipt["erasure_id"]
    assert (public_dump(store), own_digest(store)) == (public, own)


def test_five_more_runs_bring_nothing_back(store: Store, office: Office) -> None:
    source, *_ = insert_items(store, RELATED)
    distil(store, under=LOOSE)
    erase_one(office, source)
    for hour in range(1, 6):
        distil(store, under=LOOSE, now=NOW + timedelta(hours=hour), full=hour == 5)
    assert is_tombstone(store, source)
    assert RELATED[0] not in whole_database(store)
    assert content_hash(RELATED[0]) not in whole_database(store)
    holds(store)


def test_a_row_that_its_server_brings_back_is_nobodys_source_again(store: Store, office: Office) -> None:
    source, *_ = insert_items(store, RELATED)
    distil(store, under=LOOSE)
    issued = erase_one(office, source)
    said = RELATED[0]
    set_item(store, source, content=said, content_hash=content_hash(said), deleted_at=None)
    distil(store, under=LOOSE, now=NOW + timedelta(hours=1))
    features = "SELECT count(*) FROM distillation.item_features WHERE item_id = :id"
    assert scalar(store, features, id=source) == 0
    faults = erasing.verify(store, issued.file, KEY).faults
    assert len(faults) == 2
    with store.read() as conn:
        assert {violation.name for violation in invariants.violations(conn)} == {"I11"}


def test_an_item_that_the_server_removed_is_erased_from_what_was_made_of_it(
    store: Store, office: Office
) -> None:
    source, *_ = insert_items(store, RELATED)
    distil(store, under=LOOSE)
    delete_item(store, source)
    distil(store, under=LOOSE, now=NOW + timedelta(minutes=1))
    [before] = [row for row in rows(store, SUMMARIES) if row.expired_at is not None]
    assert RELATED[0] in before.content
    issued = erase_one(office, source)
    assert issued.receipt["erased"][0]["state_before"] == "gone"  # type: ignore[index]
    assert is_tombstone(store, before.id)
    holds(store)


def test_an_unknown_id_or_a_summary_changes_nothing(store: Store, office: Office) -> None:
    source, *_ = insert_items(store, RELATED)
    distil(store, under=LOOSE)
    [summary] = rows(store, SUMMARIES)
    public, own = public_dump(store), own_digest(store)
    with pytest.raises(ErasureError, match="is a summary"):
        erase(office, [source, summary.id])
    with pytest.raises(ErasureError, match="is known"):
        erase(office, [source, ItemId(uuid4())])
    assert (public_dump(store), own_digest(store)) == (public, own)


def test_the_ledger_and_the_runs_know_neither_text_nor_reason(store: Store, office: Office) -> None:
    secret = insert_item(store, SECRET)
    distil(store)
    issued = erase_one(office, secret, reason="Marguerite asked in letter 4711")
    assert "4711" not in whole_database(store)
    assert issued.receipt["reason"] == "Marguerite asked in letter 4711"
    [entry] = rows(store, "SELECT * FROM distillation.ledger WHERE change = 'erase'")
    assert (entry.subject_id, entry.after) == (secret, {"state": "erased"})


def test_the_receipt_holds_until_it_or_the_commons_is_changed(store: Store, office: Office) -> None:
    secret = insert_item(store, SECRET)
    distil(store)
    issued = erase_one(office, secret)
    assert erasing.verify(store, issued.file, KEY).faults == ()
    assert json.loads(issued.file.read_text()) == issued.receipt
    [wrong] = erasing.verify(store, issued.file, b"another key").faults
    assert "another key" in wrong
    changed = issued.receipt | {"reason": "none"}
    issued.file.write_text(json.dumps(changed))
    [tampered] = erasing.verify(store, issued.file, KEY).faults
    assert "changed after" in tampered
    for text in ("", "[]", "{}", '{"format": "hivemind-erasure/1"}', "\x00"):
        issued.file.write_text(text)
        with pytest.raises(erasing.ReceiptError):
            erasing.verify(store, issued.file, KEY)
    issued.file.write_text(json.dumps(issued.receipt))
    insert_item(store, SECRET)
    [returned] = erasing.verify(store, issued.file, KEY).faults
    assert "again" in returned


def test_what_is_left_anywhere_is_found_and_named(store: Store, office: Office) -> None:
    secret = insert_item(store, SECRET, embedding=unit_vector(5))
    execute(
        store, "CREATE TABLE public.server_cache (id int, said text, found jsonb, raw bytea, v vector(384))"
    )
    execute(
        store,
        "INSERT INTO public.server_cache"
        " SELECT 1, upper(content), jsonb_build_object('deep', jsonb_build_array(content)),"
        " convert_to('so: ' || content, 'UTF8'), embedding FROM public.knowledge_items",
    )
    execute(store, "INSERT INTO public.server_cache (said) VALUES (:hash)", hash=content_hash(SECRET).upper())
    log = office.home / "cache" / "run.log"
    log.parent.mkdir()
    log.write_text("log line\n" * 1000 + json.dumps({"text": f'"{SECRET}"'}))
    [issued] = erase(office, [secret]).issued
    assert issued.residue == {
        "public.server_cache.said": 2,
        "public.server_cache.found": 1,
        "public.server_cache.raw": 1,
        "public.server_cache.v": 1,
        str(log): 1,
    }


def test_reports_and_signals_that_quote_it_are_cleared(store: Store, office: Office) -> None:
    secret, other = insert_items(store, [SECRET, FIX])
    insert_signal(store, other, metadata={"query": SECRET})
    reports = office.home / "reports"
    reports.mkdir()
    for name, said in (("quotes", SECRET), ("keeps", FIX)):
        (reports / f"{name}.html").write_text(f"<p>{said}</p>")
    erase_one(office, secret)
    assert [file.name for file in reports.iterdir()] == ["keeps.html"]
    assert scalar(store, "SELECT metadata FROM public.quality_signals") is None


def test_two_orgs_get_a_receipt_each(store: Store, office: Office) -> None:
    ids = [insert_item(store, SECRET, org) for org in (ACME, "globex")]
    issued = erase(office, ids).issued
    assert [one.receipt["org_id"] for one in issued] == [ACME, "globex"]
    assert [is_tombstone(store, one) for one in ids] == [True, True]


def load(store: Store, path: Path, *texts: str, pending: bool = False, key: bytes = KEY) -> LoadReport:
    """Load texts as a file of the org."""
    path.write_text("".join(json.dumps({"text": text, "org": ACME}) + "\n" for text in texts))
    target: LoadTarget = "pending" if pending else "items"
    return load_file(store, path, defaults=IntakeDefaults(), target=target, now=LATER, receipt_key=key)


@pytest.mark.parametrize("pending", [False, True])
def test_an_erased_text_is_not_loaded_again(
    store: Store, office: Office, tmp_path: Path, pending: bool
) -> None:
    secret = insert_item(store, SECRET)
    erase_one(office, secret)
    variant = f"  {SECRET.replace('keeps', 'Keeps')}."
    report = load(store, tmp_path / "in.jsonl", FIX, SECRET, variant, pending=pending)
    assert (report.loaded, report.refused) == (1, 2)
    assert [(line.line, line.reason) for line in report.refusals] == [
        (2, "its text was erased in this org"),
        (3, "its text was erased in this org (it differs in case, spacing or final punctuation only)"),
    ]
    assert "Oyelaran" not in whole_database(store)


def test_other_orgs_and_standing_copies_load_as_ever(store: Store, office: Office, tmp_path: Path) -> None:
    secret = insert_item(store, SECRET)
    insert_item(store, f"{SECRET}.", source_agent_id="agent-2")
    erase_one(office, secret)
    report = load(store, tmp_path / "in.jsonl", SECRET, f"{SECRET}.")
    assert (report.known, report.refused) == (1, 1)
    rows_elsewhere = json.dumps({"text": SECRET, "org": "globex"})
    (tmp_path / "other.jsonl").write_text(rows_elsewhere)
    elsewhere = load_file(
        store, tmp_path / "other.jsonl", defaults=IntakeDefaults(), target="items", now=LATER, receipt_key=KEY
    )
    assert elsewhere.loaded == 1


def undo_all(store: Store) -> list[str]:
    """Undo every run, newest first; the reasons of what is refused."""
    runs = rows(store, "SELECT run_id FROM distillation.runs WHERE job <> 'undo' ORDER BY as_of DESC")
    reasons = []
    for run in runs:
        done = undo.run(store, LOOSE, RunTarget(str(run.run_id)), now=LATER + timedelta(hours=9))
        reasons += [refusal.reason for plan in done.plans.values() for refusal in plan.refusals]
    return reasons


def test_undo_brings_nothing_back_and_says_why(store: Store, office: Office) -> None:
    kept = insert_item(store, FIX, quality_score=0.9)
    merged, other = insert_items(store, [f"{FIX}.", f"{FIX}!"], source_agent_id="agent-2")
    insert_items(store, RELATED)
    distil(store, under=policy(topics={"distance_max": 0.9}))
    set_item(store, insert_item(store, "A note that its owner takes back"), deleted_at=NOW)
    erase_one(office, kept)
    erase_one(office, merged)
    before = {item: read_item(store, item) for item in (kept, merged)}
    reasons = undo_all(store)
    assert "it was erased, and nothing brings it back" in reasons
    assert f"its canonical {kept} was erased" in reasons
    assert {item: read_item(store, item) for item in (kept, merged)} == before
    assert read_item(store, other)["expired_at"] is None
    holds(store)


def test_pending_rows_that_say_what_was_erased_are_told_to_the_reviewer(store: Store, office: Office) -> None:
    secret = insert_item(store, SECRET)
    waiting = [insert_pending(store, text) for text in (SECRET, f"{SECRET}.", FIX)]
    keyed = services(receipt_key=KEY)
    distil(store, using=keyed)
    named = "SELECT count(*) FROM public.pending_contributions WHERE tags::text LIKE '%' || :id || '%'"
    assert scalar(store, named, id=str(secret)) == 2
    erase_one(office, secret)
    distil(store, using=keyed, now=NOW + timedelta(hours=1))
    found = {row.id: row.tags for row in rows(store, "SELECT id, tags FROM public.pending_contributions")}
    labels = [found[one] and found[one]["prescreen"]["labels"][0] for one in waiting[:2]]
    assert labels == [
        {"label": "erased_before", "sameness": "exact"},
        {"label": "erased_before", "sameness": "normalised"},
    ]
    assert "erased_before" not in json.dumps(found[waiting[2]])
    assert scalar(store, named, id=str(secret)) == 0
    insert_pending(store, f" {SECRET}!")
    distil(store, using=keyed, now=NOW + timedelta(hours=2))
    told = "SELECT count(*) FROM public.pending_contributions WHERE tags::text LIKE '%erased_before%'"
    assert scalar(store, told) == 3
    holds(store)
