"""Cases of conflicting pairs: found by the rules, settled by people, undone exactly, stable over runs."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hivemind_pipelines.core.model import CaseId, ItemId, Stage
from hivemind_pipelines.core.receipts import CasesReceipt
from hivemind_pipelines.core.undo import CaseTarget
from hivemind_pipelines.services.llm import ClaudeLlm
from hivemind_pipelines.stages import backlog, planning, review, undo
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.review import CaseRef, ReviewError
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import ACME, insert_item, read_item, rows, scalar, set_item
from hivemind_pipelines_tests.messages_server import Body, MessagesServer
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services

ON = "Enable HTTP/2 for internal traffic between the gateway and the services."
OFF = "Disable HTTP/2 for internal traffic between the gateway and the services."
SHORT = "A session of the admin console expires after 15 minutes of inactivity."
LONG = "A session of the admin console expires after 2 hours of inactivity."
FORK = (
    "In Rails 6.1 `belongs_to` is optional on old apps.",
    "In Rails 7.0 `belongs_to` is required on all apps.",
)
HOUR = timedelta(hours=1)
EARLY, LATE = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 6, 1, tzinfo=UTC)


def pair(store: Store, a: str = ON, b: str = OFF) -> tuple[ItemId, ItemId]:
    return insert_item(store, a, contributed_at=EARLY), insert_item(store, b, contributed_at=LATE)


def cases(store: Store) -> list[dict[str, Any]]:
    found = rows(store, "SELECT * FROM distillation.contradiction_cases ORDER BY opened_at, case_id")
    return [dict(row._mapping) for row in found]


def decide(store: Store, outcome: str, **options: Any) -> review.Decided:
    ref = CaseRef(ACME, CaseId(cases(store)[0]["case_id"]))
    return review.decide(store, policy(), ref, outcome, by="ada", now=NOW + HOUR, **options)


def holds(store: Store) -> None:
    with store.read() as conn:
        assert invariants.violations(conn) == ()


def test_unrelated_conflicts_are_two_cases_with_their_evidence(store: Store) -> None:
    on, off = pair(store)
    pair(store, SHORT, LONG)
    receipt = distil(store)[Stage.CONTRADICTION_CASES]
    assert isinstance(receipt, CasesReceipt)
    found = cases(store)
    assert (receipt.opened, len(found)) == (2, 2)
    evidence = next(case["evidence"] for case in found if case["evidence"]["reason"] == "opposite:switch")
    assert evidence["outcome"] == "contradiction"
    first = ON if min(on, off) == on else OFF
    start, end = evidence["spans"]["a"][0]
    assert first[start:end] in ("Enable", "Disable")
    signals = rows(store, "SELECT knowledge_item_id FROM quality_signals ORDER BY id")
    assert min(on, off) in {signal.knowledge_item_id for signal in signals}
    assert len(signals) == 2
    assert read_item(store, on)["expired_at"] is None
    holds(store)


def test_a_second_run_examines_and_changes_nothing(store: Store) -> None:
    pair(store)
    distil(store)
    before = cases(store)
    receipt = distil(store, now=NOW + HOUR)[Stage.CONTRADICTION_CASES]
    assert isinstance(receipt, CasesReceipt)
    assert (receipt.outcome, receipt.examined, receipt.opened) == ("nothing_due", 0, 0)
    assert cases(store) == before
    assert scalar(store, "SELECT count(*) FROM quality_signals") == 1


def due(store: Store) -> int:
    found = backlog.read(store, policy(), NOW, ModelStamps.of(services()))
    return found.orgs[0].due[Stage.CONTRADICTION_CASES]


def test_what_is_due_is_what_a_run_would_do(store: Store) -> None:
    on, _ = pair(store)
    distil(store, stages=[Stage.ITEM_FEATURES, Stage.DUPLICATE_PAIRS, Stage.DUPLICATE_MERGES])
    assert due(store) == 1
    distil(store)
    assert due(store) == 0
    set_item(store, on, expired_at=NOW)
    assert due(store) == 1
    distil(store, now=NOW + HOUR)
    assert due(store) == 0
    assert cases(store)[0]["outcome"] == "withdrawn"


def test_another_org_is_never_party(store: Store) -> None:
    insert_item(store, ON)
    insert_item(store, OFF, "other")
    distil(store)
    distil(store, "other")
    assert cases(store) == []


def test_a_case_goes_with_its_text_and_comes_back_only_with_new_evidence(store: Store) -> None:
    on, _ = pair(store)
    distil(store)
    decide(store, "dismissed")
    distil(store, now=NOW + 2 * HOUR)
    assert cases(store)[0]["status"] == "dismissed"
    text = ON.replace("Enable", "Always enable")
    set_item(store, on, content=text, content_hash=hashlib.sha256(text.encode()).hexdigest(), embedding=None)
    distil(store, now=NOW + 3 * HOUR)
    assert cases(store)[0]["status"] == "open"
    holds(store)


def test_another_policy_withdraws_a_case_and_brings_it_back(store: Store) -> None:
    pair(store)
    distil(store)
    strict = policy(contradiction={"score_min": 1.0})
    distil(store, under=strict, now=NOW + HOUR)
    status = scalar(store, "SELECT status FROM distillation.contradiction_cases")
    score = scalar(store, "SELECT score FROM distillation.pair_conflicts WHERE outcome <> 'none'")
    assert status == ("open" if score >= 1.0 else "dismissed")
    distil(store, now=NOW + 2 * HOUR)
    assert cases(store)[0]["status"] == "open"
    assert scalar(store, "SELECT count(*) FROM quality_signals") == 1
    holds(store)


def test_an_update_expires_the_older_with_its_copies_and_undo_restores_both(store: Store) -> None:
    on, off = pair(store)
    copy = insert_item(store, f"{ON[:-1]}", contributed_at=LATE, quality_score=0.1)
    distil(store)
    before = {item: read_item(store, item) for item in (on, off, copy)}
    assert before[copy]["expired_at"] is not None
    decided = decide(store, "update")
    assert read_item(store, on)["expired_at"] is not None
    assert read_item(store, off)["expired_at"] is None
    for hours in (2, 3, 4):
        distil(store, now=NOW + hours * HOUR)
    assert read_item(store, copy)["expired_at"] is not None
    assert [case["outcome"] for case in cases(store)] == ["update"]
    holds(store)
    done = undo.run(store, policy(), CaseTarget(CaseId(cases(store)[0]["case_id"])), now=NOW + 5 * HOUR)
    assert done.is_complete
    assert {item: read_item(store, item) for item in (on, off, copy)} == before
    assert cases(store)[0]["status"] == "open"
    assert decided.run_id is not None
    holds(store)


def test_a_version_fork_dates_both_and_keeps_them_live(store: Store) -> None:
    old, new = pair(store, *FORK)
    before = [read_item(store, item) for item in (old, new)]
    distil(store)
    assert cases(store)[0]["evidence"]["outcome"] == "version_fork"
    decide(store, "version_fork", at=LATE)
    assert read_item(store, old)["invalid_at"] == LATE.isoformat() == read_item(store, new)["valid_at"]
    assert read_item(store, old)["expired_at"] is None
    distil(store, now=NOW + 2 * HOUR)
    holds(store)
    target = CaseTarget(CaseId(cases(store)[0]["case_id"]))
    assert undo.run(store, policy(), target, now=NOW + 3 * HOUR).is_complete
    for item, stood in zip((old, new), before, strict=True):
        now = read_item(store, item)
        assert (now["valid_at"], now["invalid_at"]) == (stood["valid_at"], stood["invalid_at"])


def test_what_the_items_do_not_say_is_asked_for(store: Store) -> None:
    on, _ = pair(store)
    set_item(store, on, contributed_at=LATE)
    distil(store)
    with pytest.raises(ReviewError, match="--older"):
        decide(store, "update")
    assert cases(store)[0]["status"] == "open"
    with pytest.raises(ReviewError, match="which version is older"):
        decide(store, "version_fork")
    with pytest.raises(ReviewError, match="belong to"):
        decide(store, "dismissed", older=on)
    decide(store, "update", older=on)
    with pytest.raises(ReviewError, match="take that back with undo"):
        decide(store, "dismissed")
    assert review.queue(store, ACME, model="m", limit=9, offset=0).case_precision[0].precision == 1.0


def answering(outcome: str) -> Any:
    def answer(_body: Body) -> Mapping[str, object]:
        return {
            "outcome": outcome, "confidence": 0.95, "what_differs_code": "opposite", "span_a": [0, 3], "span_b": [],
        }  # fmt: skip

    return answer


def test_the_model_overrules_the_rules_once_and_its_failure_leaves_them(store: Store) -> None:
    pair(store)
    with MessagesServer() as server:
        using = services(llm=ClaudeLlm("key", "test-model", server.base_url, call_timeout_s=10.0))
        server.respond_with({"outcome": "nonsense"})
        distil(store, using=using)
        assert cases(store)[0]["status"] == "open"
        server.respond_with(answering("both_true_in_scope"))
        receipt = distil(store, using=using, now=NOW + HOUR)[Stage.CONTRADICTION_CASES]
        assert isinstance(receipt, CasesReceipt)
        assert receipt.llm_calls == 0, "a failed job waits"
        later = services(
            llm=ClaudeLlm("key", "other-model", server.base_url, call_timeout_s=10.0), llm_model="other-model"
        )
        distil(store, using=later, now=NOW + 2 * HOUR)
        asked = len(server.requests)
        distil(store, using=later, now=NOW + 3 * HOUR)
        assert len(server.requests) == asked
    assert cases(store)[0]["status"] == "dismissed"
    assert cases(store)[0]["outcome"] == "withdrawn"
    holds(store)


def test_a_plan_foresees_what_the_model_would_be_asked_about_conflicts(store: Store) -> None:
    pair(store)
    distil(store)
    with MessagesServer() as server:
        using = services(llm=ClaudeLlm("key", "test-model", server.base_url, call_timeout_s=10.0))
        asking, silent = (policy(contradiction={"llm_judge": judges}) for judges in (True, False))
        for proposed, calls in ((asking, 1), (silent, 0)):
            [org] = planning.plan(store, using, policy(), proposed, [ACME], now=NOW).orgs
            assert org.llm.calls == org.llm.first_run_calls == calls
        assert org.llm.usd == 0.0
        assert not server.requests
        server.respond_with(answering("contradiction"))
        receipt = distil(store, using=using, under=asking)[Stage.CONTRADICTION_CASES]
        assert isinstance(receipt, CasesReceipt)
        assert receipt.llm_calls == 1
        [org] = planning.plan(store, using, policy(), asking, [ACME], now=NOW).orgs
        assert org.llm.calls == 0, "the verdict is cached"
