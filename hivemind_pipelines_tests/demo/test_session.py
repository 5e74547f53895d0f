"""The whole demo on a handful of rules: what it does, shows, writes, and does not do again."""

import json
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console

from hivemind_pipelines.core.model import Vectors
from hivemind_pipelines.core.policy import DistillationPolicy, PolicyError
from hivemind_pipelines.demo import knowledge, session, telling, terminal
from hivemind_pipelines.demo.knowledge import ORGS, PLATFORM, SECURITY, RuleItem
from hivemind_pipelines.demo.telling import Outcome
from hivemind_pipelines.services.pii import GatedScanner
from hivemind_pipelines.settings import Settings, load_policy
from hivemind_pipelines.stages.context import Services
from hivemind_pipelines.store.connection import open_store
from hivemind_pipelines_tests.builders import rows, scalar
from hivemind_pipelines_tests.fakes import HashEmbedder

CODES = {
    *("S301", "S302", "S303", "S306", "S307", "S308", "S321", "S506", "S507", "S508", "S509", "S606", "S607"),
    *("B301", "B302", "B303", "B306", "B307", "B308", "B321", "B506", "B507", "B508", "B509", "B606", "B607"),
    *("PLR0911", "PLR0912", "PLR0913", "PLR0915", "R0911", "R0912", "R0913", "R0915", "D203", "D211"),
    *("D212", "D213", "B009", "B010", "B016", "PLE0307", "PLE0308", "E0307", "E0308", "PLE0303", "E0303"),
}


class CountingEmbedder(HashEmbedder):
    """Remembers how many texts it was given."""

    embedded = 0

    def embed(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> Vectors:
        self.embedded += len(texts)
        return super().embed(texts, on_progress)


def few_rules() -> tuple[RuleItem, ...]:
    return tuple(item for item in knowledge.read_items() if item.rule.code in CODES)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url=database_url)


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


def run(settings: Settings, embedder: CountingEmbedder) -> Outcome:
    policy, _ = session.demo_policy(settings)
    services = Services(embedder, GatedScanner(policy.pii), None, "none", settings.home / "reports")
    return session.run(settings, read_items=few_rules, services=services)


def shown(outcome: Outcome) -> str:
    console = Console(file=StringIO(), width=120)
    terminal.show(console, outcome)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_demo_merges_summarises_and_reports_and_a_second_run_does_nothing_more(
    settings: Settings, embedder: CountingEmbedder
) -> None:
    first = run(settings, embedder)
    report = first.report_path.stat().st_mtime_ns
    embedded = embedder.embedded
    second = run(settings, embedder)

    assert not first.is_noop
    assert first.loaded.notes_new == first.loaded.notes > 100
    assert [part.org_id for part in first.reports] == list(ORGS)
    assert sum(part.standing.merged for part in first.reports) >= 5
    assert first.merges
    assert sum(part.standing.open_cases for part in first.reports) >= 1
    assert sum(part.standing.low_quality for part in first.reports) >= 5
    assert first.agreement.merge_counts()["agrees"] >= 5

    assert second.is_noop
    assert embedder.embedded == embedded
    assert second.report_path.stat().st_mtime_ns == report
    assert second.agreement == first.agreement
    assert "nothing was loaded, embedded, merged or written again" in shown(second)
    assert "nothing was loaded" not in shown(first)


def test_a_planted_secret_is_in_its_sources_and_in_no_summary(
    settings: Settings, embedder: CountingEmbedder, tmp_path: Path
) -> None:
    wide = tmp_path / "wide.yaml"
    wide.write_text("topics: {distance_max: 0.4}", encoding="utf-8")
    outcome = run(settings.model_copy(update={"policy_file": wide}), embedder)

    assert settings.database_url is not None
    with open_store(settings.database_url) as store:
        leaks = "content ~ 'AKIA[A-Z0-9]{16}|ghp_[A-Za-z0-9]{36}|xoxb-[0-9]{12}'"
        assert scalar(store, f"SELECT count(*) FROM public.knowledge_items WHERE {leaks}") >= 4
        summaries = "source_agent_id = 'distillation'"
        leaked = f"SELECT count(*) FROM public.knowledge_items WHERE {summaries} AND {leaks}"
        assert scalar(store, leaked) == 0
    assert outcome.redactions["API_KEY"] >= 3
    assert {source.agent for source in outcome.summaries[0].summary.sources} == {"simulated-ci"}
    assert "[API_KEY]" in shown(outcome)


def test_the_same_text_in_two_orgs_stays_in_both(settings: Settings, embedder: CountingEmbedder) -> None:
    run(settings, embedder)

    assert settings.database_url is not None
    with open_store(settings.database_url) as store:
        both = rows(
            store,
            """SELECT a.id, b.id FROM public.knowledge_items a
               JOIN public.knowledge_items b ON b.content_hash = a.content_hash AND b.org_id = :security
               WHERE a.org_id = :platform AND a.source_agent_id = 'ruff'""",
            platform=PLATFORM,
            security=SECURITY,
        )
        crossing = "SELECT count(*) FROM distillation.merges m JOIN public.knowledge_items k ON k.id = m.{}"
        assert len(both) >= 10
        for side in ("duplicate_id", "canonical_id"):
            assert scalar(store, f"{crossing.format(side)} WHERE k.org_id <> m.org_id") == 0


def test_the_terminal_the_report_and_json_tell_the_same(
    settings: Settings, embedder: CountingEmbedder
) -> None:
    outcome = run(settings, embedder)
    told = shown(outcome)
    page = outcome.report_path.read_text(encoding="utf-8")
    data = json.loads(json.dumps(telling.data(outcome)))

    for heading in ("Knowledge", "merges", "summaries", "Against the mapping", "Seconds"):
        assert heading in told
        assert heading in page
    assert "Simulated:" in told
    assert str(outcome.report_path) in told.replace("\n", "")
    assert "related, not equal" in page
    assert set(data["orgs"]) == set(ORGS)
    assert set(data["orgs"][PLATFORM]["stages"]) >= {
        "item_features",
        "duplicate_merges",
        "distillation_report",
    }
    assert data["agreement"]["merged_pairs"] == outcome.agreement.merge_counts()


def test_without_a_key_summaries_are_extracted_and_later_commands_get_that_policy(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)

    policy, path = session.demo_policy(settings)

    assert policy.summary.method == "extractive"
    assert load_policy(settings.model_copy(update={"policy_file": path})) == policy


def test_with_a_key_the_policy_stays_as_it_is(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, anthropic_api_key=SecretStr("not-a-real-key"))

    assert session.demo_policy(settings) == (DistillationPolicy(), None)
    assert not list(tmp_path.iterdir())


def test_a_broken_policy_file_stops_the_demo_before_anything_starts(tmp_path: Path) -> None:
    broken = tmp_path / "policy.yaml"
    broken.write_text("matching: {no_such_key: 1}", encoding="utf-8")
    home = tmp_path / "home"

    with pytest.raises(PolicyError, match="no_such_key"):
        session.run(Settings(home=home, policy_file=broken), read_items=few_rules)
    assert not home.exists()


def test_progress_is_shown_on_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")
