"""Matching: compare two items, decide from the comparison alone, and say to people what differs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hivemind_pipelines.core.alignment import Alignment, Change, align
from hivemind_pipelines.core.calibration import is_aligned, is_in_range, probability
from hivemind_pipelines.core.confirmation import CONFIRM_PROMPT_VERSION, confirmation_request, parse_verdict
from hivemind_pipelines.core.features import normalise_scope
from hivemind_pipelines.core.kinship import ChangeKind, is_placeholder, is_same_sort, stem
from hivemind_pipelines.core.lexicon import (
    FUNCTION_WORDS,
    NEGATIONS,
    PASSIVE_WORDS,
    SEQUENCE_WORDS,
    SOFT_NEGATIONS,
)
from hivemind_pipelines.core.model import Comparison, Decision, LlmVerdict, MatchInput, PairDecision, Scope
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.core.reordering import Order
from hivemind_pipelines.core.text import clean, folded, normalise, sentences, shingles
from hivemind_pipelines.core.tokens import Kind, Token, tokenise

T = TypeVar("T")

__all__ = [
    "CONFIRM_PROMPT_VERSION",
    "Prepared",
    "compare",
    "confirmation_request",
    "cosine",
    "decide",
    "difference",
    "effective_decision",
    "is_confirmable",
    "parse_verdict",
    "prepare",
]

#: A text with more tokens than this is compared by its sets only and never merged automatically.
TOKENS_MAX = 20_000

#: Below this word and shingle similarity two texts are not aligned: what differs is everything.
NEAR_MIN = 0.25

#: How many changes a sentence for people lists, and how many characters of a side it quotes.
LISTED_MAX = 3
QUOTED_MAX = 60

#: The share of vetoed pairs, as near as any, that labelled data calls one statement after all: 0.13 to 0.20 of
#: what the model expects on four sets. Where most of two texts differs anyway, what vetoes is one word among many
#: and says little of how likely they agree.
VETOED_SHARE = 0.2

#: From so many lone words on, a negation among them belongs to a clause that the other text leaves out.
CLAUSE_WORDS_MIN = 3

#: With more words replaced than this another order is no longer taken for swapped arguments.
REWORDED_MIN = 2

_CLOSING = "\"')]*_ "

VETO_KINDS = (
    ChangeKind.VERSION,
    ChangeKind.NUMBER,
    ChangeKind.UNIT,
    ChangeKind.FLAG,
    ChangeKind.CODE,
    ChangeKind.NAME,
    ChangeKind.QUANTIFIER,
    ChangeKind.POLARITY,
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item ready for many comparisons: its sentences of tokens and its shingles."""

    item: MatchInput
    normalised: str
    sentences: tuple[tuple[Token, ...], ...]
    shingles: frozenset[bytes]
    words: frozenset[str]
    content: frozenset[str]
    code: tuple[str, ...]
    questions: int
    size: int


def prepare(item: MatchInput, policy: MatchingPolicy) -> Prepared:
    """Tokenise an item once."""
    runs = _runs(item.content)
    flat = [token for run in runs for token in run]
    return Prepared(
        item=item,
        normalised=normalise(item.content),
        sentences=runs,
        shingles=frozenset(shingles(folded(item.content), policy.shingle_size)),
        words=frozenset(token.key for token in flat),
        content=frozenset(filter(None, map(_root, flat))),
        code=tuple(_value_free(token) for token in flat if token.in_code),
        questions=_questions(item.content),
        size=len(flat),
    )


def _runs(content: str) -> tuple[tuple[Token, ...], ...]:
    return tuple(filter(None, (tokenise(sentence) for sentence in sentences(clean(content)))))


def _questions(content: str) -> int:
    """How many sentences ask."""
    return sum(sentence.rstrip(_CLOSING).endswith("?") for sentence in sentences(clean(content)))


def _root(token: Token) -> str:
    """The stem of a word of prose that carries meaning; nothing for any other token."""
    if token.kind is not Kind.WORD or token.key in FUNCTION_WORDS:
        return ""
    return stem(token.key)


def _value_free(token: Token) -> str:
    return "…" if token.kind is Kind.CODE and is_placeholder(token.form) else token.form


def compare(a: MatchInput | Prepared, b: MatchInput | Prepared, policy: MatchingPolicy) -> Comparison:
    """What differs between two items; symmetric in its arguments."""
    left, right = (side if isinstance(side, Prepared) else prepare(side, policy) for side in (a, b))
    if left.item.content > right.item.content:
        left, right = right, left
    similarities = _similarities(left, right)
    is_near = similarities["word_jaccard"] >= NEAR_MIN or similarities["shingle_jaccard"] >= NEAR_MIN
    alignment = align(left.sentences, right.sentences) if is_near else Alignment(())
    scope = {"scope_open": float(_is_scope_open(left.item.scope, right.item.scope))}
    scores = {**similarities, **scope, "is_near": float(is_near), **_counts(alignment, left, right)}
    vetoes = (*_scope_vetoes(left.item.scope, right.item.scope), *_vetoes(alignment, scores))
    return Comparison(tuple(sorted(scores.items())), tuple(sorted(set(vetoes))))


def _similarities(a: Prepared, b: Prepared) -> dict[str, float]:
    smaller, larger = sorted((a.size, b.size))
    return {
        "cosine": cosine(a.item, b.item),
        "signature_jaccard": float(np.mean(a.item.signature == b.item.signature)),
        "shingle_jaccard": _jaccard(a.shingles, b.shingles),
        "word_jaccard": _jaccard(a.words, b.words),
        "containment": _containment(a.words, b.words),
        "content_overlap": _containment(a.content, b.content),
        "same_normalised": float(a.normalised == b.normalised),
        "has_code": float(bool(a.code) and bool(b.code)),
        "code_tokens": float(min(len(a.code), len(b.code))),
        "tokens_min": float(smaller),
        "tokens_max": float(larger),
    }


def cosine(a: MatchInput, b: MatchInput) -> float:
    """The cosine of two texts' vectors in [0, 1]; 0 where there is none."""
    if a.vector is None or b.vector is None:
        return 0.0
    product = float(np.dot(a.vector, b.vector))
    return min(max(product, 0.0), 1.0) if np.isfinite(product) else 0.0


def _jaccard(a: frozenset[T], b: frozenset[T]) -> float:
    shared = len(a & b)
    union = len(a) + len(b) - shared
    return shared / union if union else 0.0


def _containment(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0


def _counts(alignment: Alignment, a: Prepared, b: Prepared) -> dict[str, float]:
    """How many changes there are of each kind; what only one side has counts on its longer side."""
    counts = dict.fromkeys(ChangeKind, 0.0)
    lone: Counter[tuple[ChangeKind, bool]] = Counter()
    for change in alignment.changes:
        if change.removed and change.added:
            counts[change.kind] += 1.0
        else:
            lone[change.kind, bool(change.added)] += 1
    for kind in ChangeKind:
        counts[kind] += lone[kind, False] + lone[kind, True]
    changed = sum(max(len(change.removed), len(change.added)) for change in alignment.changes)
    return {
        **{f"n_{kind}": count for kind, count in counts.items()},
        "same_code": float(_is_same_code(alignment, a, b)),
        "both_sides_lone": float(min(_lone_words(lone, False), _lone_words(lone, True))),
        "changed": float(changed),
        "sentences_moved": float(alignment.sentences_moved),
        "is_exact": float(alignment.is_exact and max(a.size, b.size) <= TOKENS_MAX),
        "order_broken": float(_is_order_broken(alignment, a, b)),
        "negation_open": float(_lone_negations(alignment.changes) != 0),
        "voice_changed": float(_is_voice_changed(alignment.changes)),
        "mood_changed": float(a.questions != b.questions),
    }


def _is_same_code(alignment: Alignment, a: Prepared, b: Prepared) -> bool:
    """Whether both hold code, and the same but for values to fill in and for what is marked as code."""
    if not (a.code and b.code):
        return False
    if not alignment.changes:
        return a.code == b.code
    return alignment.is_exact and all(map(_leaves_code, alignment.changes))


def _leaves_code(change: Change) -> bool:
    tokens = (*change.removed, *change.added)
    if not any(token.in_code for token in tokens) or change.kind is ChangeKind.PLACEHOLDER:
        return True
    if change.kind is ChangeKind.WORD:
        return all(token.in_code for token in tokens) and is_same_sort(change.removed[0], change.added[0])
    return change.kind in _SPELLED


#: Changes of how a token is written, which for code are changes of markup alone.
_SPELLED = (ChangeKind.CASE, ChangeKind.SPELLING)

_SUBSTANTIAL = (ChangeKind.WORD_ADDED, ChangeKind.NAME_ADDED, ChangeKind.CODE_ADDED, ChangeKind.NUMBER_ADDED)


def _lone_words(lone: Counter[tuple[ChangeKind, bool]], is_added: bool) -> int:
    return sum(lone[kind, is_added] for kind in _SUBSTANTIAL)


def _is_order_broken(alignment: Alignment, a: Prepared, b: Prepared) -> bool:
    """Whether something stands elsewhere that may say something else there."""
    if alignment.order is Order.SENTENCES_MOVED:
        return not SEQUENCE_WORDS.isdisjoint(a.words | b.words)
    return alignment.order in (Order.OPEN, Order.SWAPPED)


def _is_voice_changed(changes: Sequence[Change]) -> bool:
    """Whether one side says by whom it is done and the other who does it."""
    for side in ("removed", "added"):
        lone = {
            token.key
            for change in changes
            if change.kind in (ChangeKind.FUNCTION, ChangeKind.WORD, ChangeKind.WORD_ADDED)
            for token in getattr(change, side)
        }
        if "by" in lone and not lone.isdisjoint(PASSIVE_WORDS):
            return True
    return False


def _is_scope_open(a: Scope, b: Scope) -> bool:
    """Whether one side says what it is about and the other leaves it open."""
    columns = ((a.framework, b.framework), (a.language, b.language), (a.version, b.version))
    return any(bool(normalise_scope(left)) != bool(normalise_scope(right)) for left, right in columns)


def _scope_vetoes(a: Scope, b: Scope) -> list[str]:
    found = []
    for code, left, right in (
        ("veto:scope", a.framework, b.framework),
        ("veto:scope", a.language, b.language),
        ("veto:version", a.version, b.version),
    ):
        names = normalise_scope(left), normalise_scope(right)
        if all(names) and names[0] != names[1]:
            found.append(code)
    return found


def _vetoes(alignment: Alignment, scores: dict[str, float]) -> list[str]:
    found = [f"veto:{change.kind}" for change in alignment.changes if change.kind in VETO_KINDS]
    if _is_negated(alignment.changes):
        found.append("veto:negation")
    if scores["order_broken"] and alignment.order is Order.SWAPPED and not _is_reworded(scores):
        found.append("veto:order")
    return found


def _is_reworded(scores: dict[str, float]) -> bool:
    """Whether so much else changed that another order may be the same statement in other words."""
    return bool(scores["voice_changed"]) or scores["n_word"] + scores["both_sides_lone"] > REWORDED_MIN


def _lone_negations(changes: Sequence[Change]) -> int:
    """How many more negations the added side has than the removed one."""
    return sum(_negations(change.added) - _negations(change.removed) for change in changes)


def _negations(tokens: Sequence[Token]) -> int:
    return sum(token.key in NEGATIONS for token in tokens)


def _is_negated(changes: Sequence[Change]) -> bool:
    """Whether a negation stands on one side only, and neither in a clause of its own nor for another word."""
    balance = _lone_negations(changes)
    if not balance:
        return False
    bare = [change for change in changes if change.company < CLAUSE_WORDS_MIN]
    if not _lone_negations(bare):
        return False
    other = [token for change in changes for token in (change.removed if balance > 0 else change.added)]
    return SOFT_NEGATIONS.isdisjoint(token.key for token in other)


def decide(comparison: Comparison, policy: MatchingPolicy) -> PairDecision:
    """Duplicate, possible or distinct, from the stored comparison and the policy alone.

    A veto forbids `duplicate` whatever the model says; such a pair is `possible` only to people, and only
    when it is very near otherwise. A pair unlike those the model was fitted on is at most `possible`.
    """
    scores = dict(comparison.scores)
    chance = probability(scores)
    if comparison.vetoes:
        decision: Decision = "possible" if chance >= policy.vetoed_possible_min else "distinct"
        return PairDecision(
            decision, VETOED_SHARE * chance if is_aligned(scores) else chance, comparison.vetoes[0]
        )
    if scores["scope_open"] and chance >= policy.possible_min:
        return PairDecision("possible", chance, "near:scope_open")
    if scores["same_normalised"]:
        return PairDecision("duplicate", 1.0, "same:normalised")
    if chance >= policy.duplicate_min and is_in_range(scores):
        return PairDecision("duplicate", chance, "near:same_code" if scores["same_code"] else "near:wording")
    if chance >= policy.duplicate_min:
        return PairDecision("possible", chance, "near:out_of_range")
    if chance >= policy.possible_min:
        return PairDecision("possible", chance, "near:unsure")
    return PairDecision("distinct", chance, "distinct:low_similarity")


def effective_decision(
    decided: PairDecision, comparison: Comparison, llm: LlmVerdict | None, policy: MatchingPolicy
) -> Decision:
    """The decision that counts: a veto beats the model, and the LLM only settles what is possible."""
    if comparison.vetoes:
        return "possible" if decided.decision == "duplicate" else decided.decision
    if decided.decision != "possible" or llm is None or llm.confidence < policy.llm_confidence_min:
        return decided.decision
    return "duplicate" if llm.same else "distinct"


def is_confirmable(decided: PairDecision, comparison: Comparison) -> bool:
    """Whether an LLM's answer could change anything: the pair is possible and has no veto."""
    return decided.decision == "possible" and not comparison.vetoes


def difference(a: str, b: str) -> str:
    """One sentence for people on what differs; it quotes the texts, so it is shown and never stored."""
    if a == b:
        return "the same text"
    if normalise(a) == normalise(b):
        return "differs only in case, spacing or final punctuation"
    alignment = align(_runs(a), _runs(b))
    grave = (*VETO_KINDS, ChangeKind.NEGATION) if _is_negated(alignment.changes) else VETO_KINDS
    graves = [change for change in alignment.changes if change.kind in grave]
    if graves:
        return "vetoed: " + _listed(graves)
    if not alignment.changes:
        return "differs only in markup, punctuation or the order of sentences"
    plain = sorted({_PLAIN_WORDS[change.kind] for change in alignment.changes if change.kind in _PLAIN_WORDS})
    others = [change for change in alignment.changes if change.kind not in _PLAIN_WORDS]
    if not others:
        return f"differs only in {_joined(plain)}"
    return f"differs in {_listed(others)}" + (f", and in {_joined(plain)}" if plain else "")


_PLAIN_WORDS = {
    ChangeKind.CASE: "case",
    ChangeKind.SPELLING: "spelling",
    ChangeKind.INFLECTION: "inflection",
    ChangeKind.FUNCTION: "articles and small words",
    ChangeKind.OPENER: "openers",
    ChangeKind.SYNONYM: "synonyms",
    ChangeKind.PLACEHOLDER: "values to fill in",
    ChangeKind.FLAG_LENGTH: "short and long flags",
    ChangeKind.MOVED: "the order of words",
}


def _listed(changes: Sequence[Change]) -> str:
    shown = "; ".join(_said(change) for change in changes[:LISTED_MAX])
    rest = len(changes) - LISTED_MAX
    return f"{shown} and {rest} more" if rest > 0 else shown


def _said(change: Change) -> str:
    removed, added = (
        " ".join(token.form for token in side)[:QUOTED_MAX] for side in (change.removed, change.added)
    )
    if removed and added:
        return f"{removed} against {added}"
    return f"{removed or added} on one side only"


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
