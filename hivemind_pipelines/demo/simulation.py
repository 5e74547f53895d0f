"""The part of the demo that is made up, seeded and marked: use, disagreement, a queue, leaked secrets."""

import math
import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from uuid import NAMESPACE_URL, UUID, uuid5

from hivemind_pipelines.core.intake import IntakeRow
from hivemind_pipelines.core.model import Category, ItemId, OrgId, SignalId
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.demo.evaluation import declared_pairs
from hivemind_pipelines.demo.knowledge import ORGS, PLATFORM, RuleItem, Tool
from hivemind_pipelines.store.simulated import SignalType, SimulatedSignal

SEED = 20240229

#: Rules of ruff that cannot both be followed, as its own documentation says.
_OPPOSED_CODES = (("D203", "D211"), ("D212", "D213"))
_RELATED_TOOLS: tuple[Tool, ...] = ("pylint", "bugbear", "bandit")
_RELATED_PAIRS_PER_TOOL = 3
_USED_SHARE = 0.45
_SIGNALS_PER_ITEM_MAX = 6
_AGE_DAYS_MEAN = 45.0
_PENDING_SHARES = {PLATFORM: 40}
_PENDING_DEFAULT = 22


@dataclass(frozen=True, slots=True)
class Simulation:
    """What is loaded on top of the linters' knowledge."""

    notes: tuple[IntakeRow, ...]
    pending: tuple[IntakeRow, ...]
    signals: tuple[SimulatedSignal, ...]
    planted_count: int


def knowledge_rows(items: Sequence[RuleItem], *, seed: int = SEED) -> tuple[IntakeRow, ...]:
    """The texts as rows of the commons, each once, with simulated counts of their use."""
    return tuple(_knowledge_row(item, seed) for item in _each_once(items))


def simulate(items: Sequence[RuleItem], *, now: datetime, seed: int = SEED) -> Simulation:
    """Everything made up about `items`; equal arguments give equal rows, and ids do not depend on `now`."""
    pending = tuple(row for org_id in ORGS for row in _pending(items, org_id, seed))
    notes = _leaky_notes(seed)
    planted = sum(row.tags == _LEAKY for row in (*notes, *pending))
    signals = (*_use(_each_once(items), now, seed), *_contradictions(items, now, seed))
    return Simulation(notes, pending, signals, planted)


def opposed_pairs(items: Sequence[RuleItem]) -> tuple[tuple[RuleItem, RuleItem], ...]:
    """Pairs that simulated agents report as contradicting: opposed ruff rules, then close declared pairs."""
    telling = _telling_texts(items)
    opposed = [
        (telling[PLATFORM, "ruff", a], telling[PLATFORM, "ruff", b])
        for a, b in _OPPOSED_CODES
        if (PLATFORM, "ruff", a) in telling and (PLATFORM, "ruff", b) in telling
    ]
    return (*opposed, *(pair for tool in _RELATED_TOOLS for pair in _closest_pairs(items, tool)))


def _each_once(items: Sequence[RuleItem]) -> tuple[RuleItem, ...]:
    firsts: dict[ItemId, RuleItem] = {}
    for item in items:
        firsts.setdefault(item.id, item)
    return tuple(firsts.values())


def _telling_texts(items: Sequence[RuleItem]) -> dict[tuple[OrgId, Tool, str], RuleItem]:
    """Each rule's longest text: its explanation, which is not merged as easily as its message."""
    longest: dict[tuple[OrgId, Tool, str], RuleItem] = {}
    for item in sorted(items, key=lambda item: len(item.text)):
        longest[item.org_id, item.rule.tool, item.rule.code] = item
    return longest


def _closest_pairs(items: Sequence[RuleItem], tool: Tool) -> Iterator[tuple[RuleItem, RuleItem]]:
    telling = _telling_texts(items)
    pairs = [
        (telling[pair.org_id, "ruff", pair.ruff.code], telling[pair.org_id, tool, pair.other.code])
        for pair in declared_pairs(items)
        if pair.other.tool == tool and pair.ruff.category == pair.other.category
    ]
    pairs.sort(key=lambda pair: (-_overlap(pair[0].text, pair[1].text), pair[0].rule.code))
    return islice(pairs, _RELATED_PAIRS_PER_TOOL)


def _knowledge_row(item: RuleItem, seed: int) -> IntakeRow:
    use = _use_of(item, seed)
    return _row(
        item.id,
        item.org_id,
        item.text,
        category=item.rule.category,
        agent=item.rule.tool,
        tags={"tool": item.rule.tool, "code": item.rule.code, "rule": item.rule.name},
        language="python",
        retrieval_count=use.retrievals,
        helpful_count=use.solved,
        not_helpful_count=use.unhelpful,
    )


def _row(
    row_id: UUID,
    org_id: OrgId,
    content: str,
    *,
    category: Category,
    agent: str,
    tags: object,
    confidence: float = 0.8,
    language: str | None = None,
    retrieval_count: int = 0,
    helpful_count: int = 0,
    not_helpful_count: int = 0,
) -> IntakeRow:
    return IntakeRow(
        id=row_id,
        org_id=org_id,
        content=content,
        content_hash=content_hash(content),
        category=category,
        confidence=confidence,
        source_agent_id=agent,
        framework=None,
        language=language,
        version=None,
        tags=tags,
        contributed_at=None,
        quality_score=0.5,
        retrieval_count=retrieval_count,
        helpful_count=helpful_count,
        not_helpful_count=not_helpful_count,
        is_public=False,
    )


@dataclass(frozen=True, slots=True)
class _Use:
    """Counts of the server's columns; most retrievals are older than the signals that are kept."""

    retrievals: int = 0
    solved: int = 0
    unhelpful: int = 0


def _use_of(item: RuleItem, seed: int) -> _Use:
    dice = _dice(seed, "use", item.id)
    if dice.random() > _USED_SHARE:
        return _Use()
    retrievals = 1 + int(math.exp(dice.gauss(2.0, 1.2)))
    votes = min(dice.randint(0, 5), retrievals)
    liking = dice.betavariate(4, 2)
    solved = sum(dice.random() < liking for _ in range(votes))
    return _Use(retrievals, solved, votes - solved)


def _use(items: Sequence[RuleItem], now: datetime, seed: int) -> Iterator[SimulatedSignal]:
    for item in items:
        dice = _dice(seed, "age", item.id)
        for kind, count in _kept_signals(_use_of(item, seed)).items():
            for number in range(count):
                age = timedelta(days=dice.expovariate(1 / _AGE_DAYS_MEAN))
                yield _signal(item, kind, number, now - age)


def _kept_signals(use: _Use) -> dict[SignalType, int]:
    votes = use.solved + use.unhelpful
    retrievals = min(use.retrievals, max(1, _SIGNALS_PER_ITEM_MAX - votes))
    return {"retrieval": retrievals, "outcome_solved": use.solved, "outcome_not_helpful": use.unhelpful}


def _contradictions(items: Sequence[RuleItem], now: datetime, seed: int) -> Iterator[SimulatedSignal]:
    for number, pair in enumerate(opposed_pairs(items)):
        for item in pair:
            yield _signal(item, "contradiction", number, now - timedelta(days=1, minutes=number))
    lone = _dice(seed, "lone").choice(items)
    yield _signal(lone, "contradiction", 0, now - timedelta(days=2))


def _signal(item: RuleItem, kind: SignalType, number: int, at: datetime) -> SimulatedSignal:
    signal_id = SignalId(uuid5(NAMESPACE_URL, f"hivemind-demo:signal:{item.id}:{kind}:{number}"))
    return SimulatedSignal(signal_id, item.org_id, item.id, kind, "simulated-agent", at)


def _overlap(a: str, b: str) -> float:
    words_a, words_b = (set(re.findall(r"[a-z]{3,}", text.lower())) for text in (a, b))
    return len(words_a & words_b) / max(len(words_a | words_b), 1)


_MARK = {"simulated": True}
_LEAKY = {"simulated": True, "planted_secret": True}

#: Notes about one chore, so that they form a topic; each leaks a credential, so a summary must quote one.
_LEAKY_NOTES = (
    "To upload a wheel to the internal package index, the release job must log in as the deploy bot with the "
    "upload token {github}.",
    "Since spring the release job uploads a wheel to the internal package index as the deploy bot with the new "
    "upload token {github}.",
    "The release job uploads wheels to the internal package index as the deploy bot with access key {aws}; "
    "never use this upload key in another job.",
    "When the release job uploads a wheel to the internal package index, the deploy bot announces the upload in "
    "the channel (token {slack}); questions go to {email}.",
)

_ECHOES = (
    "Seen again in review: {text}",
    "{text} Our linter run flags this too.",
    "As the linter puts it: {text}",
)
_RUMOURS = (
    "Not sure, but {name} may have something to do with the flaky build.",
    "Somebody said {name} can be ignored everywhere, did not check.",
    "{name}?? maybe turn it off and see",
    "I think {name} was slow once, or it was the network.",
)
_REPORTS = (
    "We switched {name} on for the whole repository and fixed what it found in one afternoon.",
    "{name} found a real defect in our importer; keep it on in the release branch.",
    "Reviewers asked to keep {name} on for new modules only, old ones follow with the next refactoring.",
)
_LEAKS = (
    "Reproduced with {name} switched off after exporting AWS_ACCESS_KEY_ID={aws} in the job.",
    "The bot that comments on {name} uses the token {github}, see the workflow file.",
    "Alerts about {name} go to the channel through {slack} since Monday.",
)


def _leaky_notes(seed: int) -> tuple[IntakeRow, ...]:
    return tuple(
        _row(
            _named("note", number),
            PLATFORM,
            template.format(**_fake_credentials(_dice(seed, "note", number))),
            category=Category.CONFIG,
            agent="simulated-ci",
            tags=_LEAKY,
        )
        for number, template in enumerate(_LEAKY_NOTES)
    )


def _pending(items: Sequence[RuleItem], org_id: OrgId, seed: int) -> Iterator[IntakeRow]:
    rules = sorted((item for item in _each_once(items) if item.org_id == org_id), key=lambda item: item.id)
    dice = _dice(seed, "pending", org_id)
    for number, item in enumerate(
        dice.sample(rules, min(len(rules), _PENDING_SHARES.get(org_id, _PENDING_DEFAULT)))
    ):
        templates, low, high, tags = _PENDING_KINDS[number % len(_PENDING_KINDS)]
        content = dice.choice(templates).format(
            text=item.text, name=item.rule.name, **_fake_credentials(dice)
        )
        yield _row(
            _named(f"pending:{org_id}", number),
            org_id,
            content,
            category=Category.GENERAL,
            agent="simulated-agent",
            tags=tags,
            confidence=round(dice.uniform(low, high), 2),
        )


#: Kinds of pending rows in turn: their texts, the range of their confidence, their tags.
_PENDING_KINDS: tuple[tuple[tuple[str, ...], float, float, dict[str, bool]], ...] = (
    (_ECHOES, 0.60, 0.90, _MARK),
    (_RUMOURS, 0.05, 0.30, _MARK),
    (_REPORTS, 0.70, 0.95, _MARK),
    (_RUMOURS, 0.10, 0.45, _MARK),
    (_ECHOES, 0.55, 0.80, _MARK),
    (_LEAKS, 0.50, 0.80, _LEAKY),
)


def _fake_credentials(dice: random.Random) -> dict[str, str]:
    """Credentials of known formats that open nothing, put together here so that no source holds one."""
    capitals = string.ascii_uppercase + string.digits
    letters = string.ascii_letters + string.digits
    return {
        "aws": "AK" + "IA" + _drawn(dice, capitals, 16),
        "github": "gh" + "p_" + _drawn(dice, letters, 36),
        "email": "@".join(("release." + _drawn(dice, string.ascii_lowercase, 6), "wheelhouse-mail.dev")),
        "slack": "xo" + "xb-" + "-".join((_drawn(dice, string.digits, 12), _drawn(dice, letters, 24))),
    }


def _drawn(dice: random.Random, alphabet: str, length: int) -> str:
    return "".join(dice.choices(alphabet, k=length))


def _named(kind: str, number: int) -> ItemId:
    return ItemId(uuid5(NAMESPACE_URL, f"hivemind-demo:{kind}:{number}"))


def _dice(seed: int, *names: object) -> random.Random:
    # a seeded generator is the point here, not a secret one
    return random.Random(":".join(map(str, (seed, *names))))  # noqa: S311
