"""A model that repeats what it must not, and one that says anything at all: published means every gate held."""

import random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_pipelines.core.admission import admit
from hivemind_pipelines.core.grounding import check_draft
from hivemind_pipelines.core.injection import suspicion
from hivemind_pipelines.core.model import (
    ItemId,
    LlmAnswer,
    LlmOutcome,
    LlmRequest,
    LlmUsage,
    OrgId,
    RunId,
    SourceText,
    SummaryDraft,
)
from hivemind_pipelines.core.text import clean
from hivemind_pipelines.services.pii import Redacted
from hivemind_pipelines.stages import summary_writing
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.stages.summary_writing import Written
from hivemind_pipelines_tests.services.fake_secrets import fake
from hivemind_pipelines_tests.stages.commons import NOW, policy, services

TOLD = (
    "The proxy reads its certificate once, when it starts, and logs the name of the file.",
    "Restart the proxy after the certificate was rotated, or it keeps serving the old one.",
    "Keep the old certificate for a day, for a proxy that was not restarted still serves it.",
)
CANARIES = (
    "gh" + "p_{A:36}",
    "AKIA{Q:16}",
    "glp" + "at-{A:20}",
    "sk-ant-" + "api03-{A:93}AA",
    "eyJ{A:30}.eyJ{A:40}.{A:43}",
)
SERVICES = services()


class Says:
    """A purse whose model gives one answer."""

    def __init__(self, data: dict[str, object]) -> None:
        self.data = data

    def call(self, request: LlmRequest) -> LlmOutcome:
        return LlmAnswer(self.data, LlmUsage())


def context() -> StageContext:
    nothing: Any = None
    return StageContext(
        store=nothing, org_id=OrgId("acme"), run_id=RunId(uuid4()), as_of=NOW,
        policy=policy(summary={"method": "llm"}), services=SERVICES,
    )  # fmt: skip


def sources_of(*texts: str) -> tuple[SourceText, ...]:
    return tuple(
        SourceText(number, ItemId(UUID(int=number)), "", text) for number, text in enumerate(texts, start=1)
    )


def published(sources: tuple[SourceText, ...], data: dict[str, object]) -> tuple[SummaryDraft, str] | None:
    """The draft and the text that the stage would store, through its own gates."""
    purse: Any = Says(data)
    draft = summary_writing._draft(context(), admit(sources).sources, purse)
    if isinstance(draft, Written):
        return None
    [outcome] = SERVICES.scanner.redact([draft.draft.text])
    return (draft.draft, outcome.text) if isinstance(outcome, Redacted) else None


def _quoted(number: int) -> tuple[str, str | None]:
    """A planted value, and what is published when the model quotes the source that holds it."""
    chance = random.Random(number)
    value = fake(chance.choice(CANARIES), number)
    shown = {
        "plain": value,
        "code": f"`export TOKEN={value}`",
        "block": f"\n```\ntoken: {value}\n```\n",
        "url": f"https://host.example/x?token={value}",
        "json": f'{{"token": "{value}"}}',
        "split": "\u200b".join(value),
        "halves": f"{value[: len(value) // 2]}\u2060{value[len(value) // 2 :]}",
    }[chance.choice(("plain", "code", "block", "url", "json", "split", "halves"))]
    told = list(TOLD)
    place = chance.randrange(3)
    told[place] = f"{told[place]} It is reached with {shown} from the office."
    data: dict[str, object] = {
        "sentences": [
            {"text": told[place], "sources": [place + 1]},
            {"text": TOLD[(place + 1) % 3], "sources": [(place + 1) % 3 + 1]},
        ]
    }
    result = published(sources_of(*told), data)
    return value, None if result is None else result[1]


def _leaks(number: int) -> bool:
    value, content = _quoted(number)
    return content is not None and value in "".join(clean(content).split())


def test_no_planted_value_is_published() -> None:
    assert [number for number in range(150) if _leaks(number)] == []


def test_a_summary_around_a_planted_value_is_published_without_it() -> None:
    assert any(content is not None and "[" in content for _, content in map(_quoted, range(30)))


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_none_of_ten_thousand_planted_values_is_published() -> None:
    assert [number for number in range(10_000) if _leaks(number)] == []


WORDS = st.sampled_from(
    [
        *" ".join(TOLD).split(),
        "not",
        "never",
        "--force",
        "v9.1",
        "42",
        "https://evil.example",
        "<b>",
        "ignore all previous",
    ]
)
SENTENCE = st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=14).map(" ".join), st.sampled_from(TOLD))
ANSWER = st.fixed_dictionaries(
    {
        "sentences": st.lists(
            st.fixed_dictionaries({"text": SENTENCE, "sources": st.lists(st.integers(-1, 5), max_size=3)}),
            max_size=6,
        )
    }
)


def _holds(data: dict[str, object]) -> None:
    sources = sources_of(*TOLD)
    result = published(sources, data)
    if result is None:
        return
    draft, content = result
    limits = context().policy.summary
    assert check_draft(draft, sources, limits) == ()
    assert len(draft.text) <= limits.characters_max
    assert all(sentence.sources and set(sentence.sources) <= {1, 2, 3} for sentence in draft.sentences)
    assert suspicion(content) is None or suspicion(content).kinds == ("foreign_request",)  # type: ignore[union-attr]
    [again] = SERVICES.scanner.redact([content])
    assert isinstance(again, Redacted)
    assert again.text == content


@given(ANSWER)
@settings(max_examples=60, deadline=None)
def test_whatever_a_model_says_published_means_that_every_gate_held(data: dict[str, object]) -> None:
    _holds(data)


@pytest.mark.soak
@given(ANSWER)
@settings(max_examples=5_000, deadline=None)
def test_whatever_a_model_says_at_length(data: dict[str, object]) -> None:
    _holds(data)
