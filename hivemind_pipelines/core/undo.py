"""Undo: what turns the effects of ledger rows back, given how things stand now, and what cannot be."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from uuid import UUID

from hivemind_pipelines.core.changes import Rescore, Retire, Unmerge
from hivemind_pipelines.core.model import CaseId, ItemId, PendingId
from hivemind_pipelines.core.review import Verdict
from hivemind_pipelines.core.upkeep import PII_FOUND, UNDONE

#: In a cluster of up to so many items an undone merge parts every pair it had brought together; in a
#: larger one only each duplicate from its canonical, and of these so many.
PARTED_CLUSTER_MAX = 40
PARTED_PAIRS_MAX = 1_000

PairKey = tuple[ItemId, ItemId]
Values = Mapping[str, object]

PLACEMENTS = frozenset({"merge", "repoint", "unmerge"})
WRITINGS = frozenset({"publish", "revive", "retire"})
CASE_CHANGES = frozenset({"open_case", "decide_case"})
LABELS = frozenset({"flag", "unflag"})
JUDGEMENTS = frozenset({"judge"})
RESOLUTIONS = frozenset({"supersede", "date"})
SCORES = frozenset({"rescore"})

#: Effects left alone without a word: a cache of the text, which says the same after undo, and the note
#: that the breaker was lifted.
LEFT = frozenset({"embed", "allow_mass_change"})

#: Why nothing of an erased item comes back.
ERASED = "it was erased, and nothing brings it back"

_NOT_OURS = {
    "lose": "its owner or the server took it away; that was no effect of ours",
    "restore": "its owner or the server brought it back; that was no effect of ours",
    "erase": ERASED,
    "import_merge": "a HiveMind server merged it before us; it was only entered in our tables",
    "import_derivation": "a HiveMind server wrote it before us; it was only entered in our tables",
}


@dataclass(frozen=True, slots=True)
class RunTarget:
    """A run of ours, or a Dagster run with one of ours for each of its orgs."""

    run: str


@dataclass(frozen=True, slots=True)
class MergeTarget:
    """The newest merge of one duplicate, with the followers that it brought along."""

    duplicate_id: ItemId


@dataclass(frozen=True, slots=True)
class CaseTarget:
    """What a person last decided about a case, with what that did; of an open case its opening."""

    case_id: CaseId


Target = RunTarget | MergeTarget | CaseTarget


@dataclass(frozen=True, slots=True)
class Effect:
    """A ledger row as undo reads it."""

    change: str
    subject_id: UUID
    before: Values = field(hash=False)
    after: Values = field(hash=False)


@dataclass(frozen=True, slots=True)
class ItemState:
    """An item as it stands; `canonical_id` and `merged_at` are set while a merge of ours expires it."""

    is_deleted: bool = False
    is_live: bool = True
    is_public: bool = False
    quality_score: float = 0.5
    canonical_id: ItemId | None = None
    merged_at: datetime | None = None
    is_erased: bool = False


@dataclass(frozen=True, slots=True)
class SummaryState:
    """A summary as it stands; `expired_at` None while it is live, `is_whole` while its sources are."""

    is_deleted: bool = False
    is_live: bool = True
    expired_at: datetime | None = None
    retired_reason: str | None = None
    is_whole: bool = True
    is_erased: bool = False


@dataclass(frozen=True, slots=True)
class CaseState:
    """A case as it stands; `is_whole` while all its items are live."""

    status: str
    outcome: str | None = None
    decided_by: str | None = None
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class ResolvedState:
    """An item that an outcome expired or dated, as it stands; times are as JSON has them."""

    is_deleted: bool = False
    expired_at: str | None = None
    valid_at: str | None = None
    invalid_at: str | None = None


@dataclass(frozen=True, slots=True)
class VerdictState:
    """A stored verdict; `holds` while both texts are those it was given for."""

    pair_id: UUID
    verdict: Verdict
    source: str
    decided_by: str
    decided_at: datetime
    reason: str | None
    holds: bool


@dataclass(frozen=True, slots=True)
class LabelState:
    """What we say of a pending row: low quality or not, the document under our own key, and our sensitive flag."""

    is_low_quality: bool = False
    document: Values | None = field(default=None, hash=False)
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How everything that some ledger rows touched stands now; what is absent is gone.

    `items` holds every subject of a merge, its canonicals, and all members of the clusters they are in.
    `labels` says of a pending row what it carries of ours.
    """

    items: Mapping[ItemId, ItemState] = field(default_factory=dict)
    summaries: Mapping[ItemId, SummaryState] = field(default_factory=dict)
    cases: Mapping[CaseId, CaseState] = field(default_factory=dict)
    labels: Mapping[PendingId, LabelState] = field(default_factory=dict)
    verdicts: Mapping[PairKey, VerdictState] = field(default_factory=dict)
    resolved: Mapping[ItemId, ResolvedState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestoreSuperseded:
    """Bring back an item that an outcome had expired, and the duplicates that it had, by when they expired."""

    item_id: ItemId
    expired_at: str
    followers: tuple[tuple[ItemId, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RestoreValidity:
    """Give an item the world time that it had before an outcome dated it."""

    item_id: ItemId
    valid_at: str | None
    invalid_at: str | None


@dataclass(frozen=True, slots=True)
class MergeAgain:
    """Expire a duplicate as it had been, or point one that is merged back at its earlier canonical."""

    duplicate_id: ItemId
    canonical_id: ItemId
    expired_at: datetime
    previous_canonical_id: ItemId | None = None


@dataclass(frozen=True, slots=True)
class ReviveSummary:
    """Bring a summary back that we had retired at `expired_at`."""

    summary_id: ItemId
    expired_at: datetime


@dataclass(frozen=True, slots=True)
class DecideCase:
    """Give a case another status; `outcome` and `decided_by` are None for an open one."""

    case_id: CaseId
    before: Values = field(hash=False)
    status: str
    outcome: str | None
    decided_by: str | None


@dataclass(frozen=True, slots=True)
class Relabel:
    """Put the labels of a pending row back as they were, or off; `tags_kind` is what tags were.

    `is_marked` when we are to have set `is_sensitive_flagged`.
    """

    pending_id: PendingId
    is_low_quality: bool
    score: float
    tags_kind: str
    document: Values | None = field(default=None, hash=False)
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Remember that an undone merge must not come again; `is_direct` for the merged pair itself."""

    a_id: ItemId
    b_id: ItemId
    is_direct: bool


@dataclass(frozen=True, slots=True)
class RestoreVerdict:
    """Put back what was said of a pair before; `earlier` None when nothing was."""

    a_id: ItemId
    b_id: ItemId
    earlier: Values | None = field(hash=False)


Undoing = (
    Unmerge
    | MergeAgain
    | Retire
    | ReviveSummary
    | DecideCase
    | Relabel
    | Rescore
    | Part
    | RestoreVerdict
    | RestoreSuperseded
    | RestoreValidity
)


@dataclass(frozen=True, slots=True)
class CannotUndo:
    """An effect that stays, and the one reason why."""

    change: str
    subject_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """What to do, what is refused, and how many effects need nothing.

    `as_before` were undone already, `left` are embeddings, scores that moved since and rows that left the
    review queue; `unremembered` merges are undone, but their clusters are too large to keep apart.
    """

    changes: tuple[Undoing, ...]
    refusals: tuple[CannotUndo, ...]
    as_before: int = 0
    left: int = 0
    unremembered: int = 0


@dataclass(frozen=True, slots=True)
class _Net:
    """The first state and the last that some effects gave one subject."""

    subject_id: UUID
    change: str
    before: Values
    after: Values

    def refuse(self, reason: str) -> CannotUndo:
        return CannotUndo(self.change, self.subject_id, reason)


#: What one effect comes to: a change, a refusal, or True (as before) or False (left alone).
_Answer = Undoing | CannotUndo | bool


def plan_undo(effects: Sequence[Effect], standing: Standing, *, by: str) -> UndoPlan:
    """The exact inverse of the effects, oldest first, as far as what happened since allows."""
    verdicts = {_pair(net): _judgement(net, standing) for net in _nets(effects, JUDGEMENTS)}
    lifted = {pair for pair, answer in verdicts.items() if isinstance(answer, RestoreVerdict)}
    placements = _Placements(standing, lifted)
    placed = list(placements.answers(_nets(effects, PLACEMENTS)))
    parts, unremembered = placements.parts()
    parted = {(part.a_id, part.b_id) for part in parts}
    resolved = [_resolved(net, standing) for net in _nets(effects, RESOLUTIONS)]
    is_restored = bool(resolved) and not any(isinstance(answer, CannotUndo) for answer in resolved)
    answers: list[_Answer] = [
        *placed,
        *(_writing(net, standing) for net in _nets(effects, WRITINGS)),
        *resolved,
        *(_case(net, standing, by, is_restored=is_restored) for net in _nets(effects, CASE_CHANGES)),
        *(_label(net, standing) for net in _nets(effects, LABELS)),
        *(_score(net, standing) for net in _nets(effects, SCORES)),
        *(answer for pair, answer in verdicts.items() if pair not in parted),
        *(_other(effect) for effect in effects if _is_other(effect.change)),
    ]
    return UndoPlan(
        (*(one for one in answers if not isinstance(one, CannotUndo | bool)), *parts),
        tuple(one for one in answers if isinstance(one, CannotUndo)),
        as_before=sum(one is True for one in answers),
        left=sum(one is False for one in answers),
        unremembered=unremembered,
    )


def _nets(effects: Iterable[Effect], changes: frozenset[str]) -> tuple[_Net, ...]:
    by_subject: defaultdict[UUID, list[Effect]] = defaultdict(list)
    for effect in effects:
        if effect.change in changes:
            by_subject[effect.subject_id].append(effect)
    return tuple(
        _Net(subject, found[-1].change, _before(found[0]), found[-1].after)
        for subject, found in sorted(by_subject.items())
    )


def _before(effect: Effect) -> Values:
    """What was before an effect; re-pointing leaves the moment of expiry as it is."""
    if effect.change != "repoint":
        return effect.before
    return {**effect.before, "expired_at": effect.after.get("expired_at")}


def _is_other(change: str) -> bool:
    return change not in PLACEMENTS | WRITINGS | CASE_CHANGES | LABELS | SCORES | JUDGEMENTS | RESOLUTIONS


def _other(effect: Effect) -> _Answer:
    if effect.change in LEFT:
        return False
    reason = _NOT_OURS.get(effect.change, f"an effect of kind {effect.change} cannot be undone")
    return CannotUndo(effect.change, effect.subject_id, reason)


class _Placements:
    """Merges, re-pointings and unmerges together: each may stand in another's way."""

    def __init__(self, standing: Standing, lifted: set[PairKey]) -> None:
        self._items = standing.items
        self._verdicts = standing.verdicts
        self._lifted = lifted
        self._canonical_after: dict[ItemId, ItemId | None] = {
            item_id: state.canonical_id for item_id, state in standing.items.items()
        }
        self._undone: list[PairKey] = []
        self._followers: Counter[ItemId] = Counter(
            canonical for canonical in self._canonical_after.values() if canonical is not None
        )

    def answers(self, nets: Sequence[_Net]) -> Iterator[_Answer]:
        """First what comes back, then what is pointed back at it, then what expires again."""
        back = [net for net in nets if _canonical(net.after) and not _canonical(net.before)]
        moved = [net for net in nets if _canonical(net.after) and _canonical(net.before)]
        again = [net for net in nets if not _canonical(net.after)]
        yield from map(self._back, back)
        yield from map(self._moved, moved)
        yield from map(self._again, again)

    def _back(self, net: _Net) -> _Answer:
        item_id = ItemId(net.subject_id)
        state = self._items.get(item_id)
        trouble = _lost(state)
        if state is None or trouble:
            return net.refuse(trouble)
        if state.is_live:
            return True
        if state.canonical_id is None:
            return net.refuse("somebody else changed its expiry since")
        if state.merged_at != _moment(net.after, "expired_at"):
            return net.refuse("it came back and was merged again by a later run; undo that run")
        self._undone.append((item_id, state.canonical_id))
        self._place(item_id, None)
        return Unmerge(item_id, state.canonical_id, UNDONE)

    def _moved(self, net: _Net) -> _Answer:
        item_id, previous = ItemId(net.subject_id), _canonical(net.before)
        state = self._items.get(item_id)
        if previous is None or previous == _canonical(net.after):
            return True
        trouble = _lost(state)
        if state is None or trouble:
            return net.refuse(trouble)
        if state.canonical_id == previous:
            return True
        if state.is_live:
            return net.refuse("it was brought back since")
        if state.canonical_id is None or state.merged_at is None:
            return net.refuse("somebody else changed its expiry since")
        if state.canonical_id != _canonical(net.after):
            return net.refuse("a later run merged it into another item; undo that run first")
        trouble = self._unfit(item_id, previous)
        if trouble:
            return net.refuse(trouble)
        self._undone.append((item_id, state.canonical_id))
        self._place(item_id, previous)
        return MergeAgain(item_id, previous, state.merged_at, state.canonical_id)

    def _again(self, net: _Net) -> _Answer:
        item_id, previous = ItemId(net.subject_id), _canonical(net.before)
        state, expired_at = self._items.get(item_id), _moment(net.before, "expired_at")
        trouble = _lost(state)
        if state is None or trouble:
            return net.refuse(trouble)
        if previous is None or expired_at is None or state.canonical_id == previous:
            return True
        if net.after.get("reason") == "superseded":
            # It comes back with the item that it follows.
            return True
        if net.after.get("reason") == "changed_by_others":
            return net.refuse("somebody else had changed its expiry; we only took note")
        if not state.is_live:
            return net.refuse("it was expired or merged again since")
        trouble = self._unfit(item_id, previous)
        if not trouble and self._followers[item_id]:
            trouble = "other items were merged into it since"
        if trouble:
            return net.refuse(trouble)
        self._place(item_id, previous)
        return MergeAgain(item_id, previous, expired_at)

    def _unfit(self, item_id: ItemId, canonical_id: ItemId) -> str:
        """Why an item cannot follow a canonical, empty when it can."""
        canonical = self._items.get(canonical_id)
        if canonical is None:
            return f"its canonical {canonical_id} is gone"
        if canonical.is_erased:
            return f"its canonical {canonical_id} was erased"
        if canonical.is_deleted:
            return f"its canonical {canonical_id} was deleted by its owner"
        is_back = canonical.canonical_id is not None and self._canonical_after[canonical_id] is None
        is_away = self._canonical_after[canonical_id] is not None
        if is_away or not (canonical.is_live or is_back):
            return f"its canonical {canonical_id} is expired itself"
        if self._items[item_id].is_public and not canonical.is_public:
            return f"it is public and its canonical {canonical_id} is not"
        pair = _ordered(item_id, canonical_id)
        verdict = self._verdicts.get(pair)
        if verdict and verdict.holds and verdict.verdict == "distinct" and pair not in self._lifted:
            return f"a verdict says that it is distinct from {canonical_id}"
        return ""

    def _place(self, item_id: ItemId, canonical_id: ItemId | None) -> None:
        previous = self._canonical_after[item_id]
        if previous is not None:
            self._followers[previous] -= 1
        if canonical_id is not None:
            self._followers[canonical_id] += 1
        self._canonical_after[item_id] = canonical_id

    def parts(self) -> tuple[tuple[Part, ...], int]:
        """What must not be merged again, and how many undone merges could not be remembered."""
        clusters: defaultdict[ItemId, list[ItemId]] = defaultdict(list)
        for item_id, state in self._items.items():
            clusters[state.canonical_id or item_id].append(item_id)
        undone: defaultdict[ItemId, list[ItemId]] = defaultdict(list)
        for item_id, canonical_id in self._undone:
            undone[canonical_id].append(item_id)
        parts: list[Part] = []
        unremembered = 0
        for canonical_id, item_ids in sorted(undone.items()):
            remembered = sorted(item_ids)[:PARTED_PAIRS_MAX]
            unremembered += len(item_ids) - len(remembered)
            direct = {_ordered(item_id, canonical_id) for item_id in remembered}
            implied = self._implied(clusters[canonical_id]) - direct
            parts += (Part(*pair, is_direct=True) for pair in sorted(direct) if self._are_there(pair))
            parts += (Part(*pair, is_direct=False) for pair in sorted(implied) if self._are_there(pair))
        return tuple(parts), unremembered

    def _implied(self, members: Sequence[ItemId]) -> set[PairKey]:
        """Pairs of one cluster that end in different ones; a verdict that stands is not touched."""
        if len(members) > PARTED_CLUSTER_MAX:
            return set()
        ends = {item_id: self._canonical_after[item_id] or item_id for item_id in members}
        pairs = (_ordered(a_id, b_id) for a_id, b_id in combinations(members, 2) if ends[a_id] != ends[b_id])
        return {pair for pair in pairs if not (self._verdicts.get(pair) and self._verdicts[pair].holds)}

    def _are_there(self, pair: PairKey) -> bool:
        return all(item_id in self._items and not self._items[item_id].is_deleted for item_id in pair)


def _lost(state: ItemState | SummaryState | None) -> str:
    if state is None:
        return "the server removed it"
    if state.is_erased:
        return ERASED
    return "its owner deleted it" if state.is_deleted else ""


def _writing(net: _Net, standing: Standing) -> _Answer:
    """A summary that came is expired, one that went is brought back."""
    state = standing.summaries.get(ItemId(net.subject_id))
    was_live = net.before.get("expired_at", "") is None
    is_live = net.after.get("expired_at") is None
    if was_live == is_live:
        return True
    trouble = _lost(state)
    if state is None or trouble:
        return net.refuse(trouble)
    if not was_live:
        return Retire(ItemId(net.subject_id), UNDONE) if state.is_live else True
    if state.is_live:
        return True
    expired_at = _moment(net.after, "expired_at")
    if expired_at is None or state.expired_at != expired_at:
        return net.refuse("it came back and was expired again since")
    if state.retired_reason == PII_FOUND:
        return net.refuse("personal data was found in it")
    if not state.is_whole:
        return net.refuse("its sources were changed, expired or lost since")
    return ReviveSummary(ItemId(net.subject_id), expired_at)


def _resolved(net: _Net, standing: Standing) -> _Answer:
    """An outdated item comes back, a dated one gets the world time that it had."""
    item_id = ItemId(net.subject_id)
    state = standing.resolved.get(item_id)
    if state is None:
        return net.refuse("the server removed it")
    if state.is_deleted:
        return net.refuse("its owner deleted it")
    if net.change == "date":
        return _dated(item_id, net, state)
    if state.expired_at is None:
        return True
    if _instant(state.expired_at) != _moment(net.after, "expired_at"):
        return net.refuse("somebody else changed its expiry since")
    followers = net.before.get("followers")
    found = followers if isinstance(followers, Mapping) else {}
    return RestoreSuperseded(
        item_id,
        state.expired_at,
        tuple((ItemId(UUID(str(one))), str(expired_at)) for one, expired_at in sorted(found.items())),
    )


def _dated(item_id: ItemId, net: _Net, state: ResolvedState) -> _Answer:
    now, was, made = (
        tuple(_instant(_text(values.get(name))) for name in ("valid_at", "invalid_at"))
        for values in ({"valid_at": state.valid_at, "invalid_at": state.invalid_at}, net.before, net.after)
    )
    if now == was:
        return True
    if now != made:
        return net.refuse("somebody else changed its validity since")
    return RestoreValidity(item_id, _text(net.before.get("valid_at")), _text(net.before.get("invalid_at")))


def _instant(spelled: str | None) -> datetime | str | None:
    """A time as an instant, whatever its spelling; as it is where no calendar has it."""
    if spelled is None:
        return None
    try:
        return datetime.fromisoformat(spelled)
    except ValueError:
        return spelled


def _case(net: _Net, standing: Standing, by: str, *, is_restored: bool) -> _Answer:
    """An opened case is withdrawn, a decided one gets its earlier status back."""
    case_id = CaseId(net.subject_id)
    state = standing.cases.get(case_id)
    if state is None:
        return net.refuse("there is no such case any more")
    is_opening = net.before.get("status") is None
    status, outcome, decided_by = (net.before.get(name) for name in ("status", "outcome", "by"))
    if is_opening:
        status, outcome, decided_by = "dismissed", UNDONE, by
    if (state.status, state.outcome) == (status, outcome):
        return True
    if (state.status, state.outcome) != (net.after.get("status"), net.after.get("outcome")):
        return net.refuse(f"it was {state.status} by {state.decided_by} since; undo that first")
    if status == "open" and not (state.is_whole or is_restored):
        return net.refuse("not all of its items are live any more")
    before = {"status": state.status, "outcome": state.outcome, "by": state.decided_by}
    return DecideCase(case_id, before, str(status), _text(outcome), _text(decided_by))


def _label(net: _Net, standing: Standing) -> _Answer:
    """The labels as they were; what a later run changed again is its own to undo."""
    pending_id = PendingId(net.subject_id)
    was, became = _said(net.before), _said(net.after)
    now = standing.labels.get(pending_id)
    if now is None:
        return False
    # Each is put back apart: a later run may have changed one of them.
    back = LabelState(
        was.is_low_quality if now.is_low_quality == became.is_low_quality else now.is_low_quality,
        was.document if now.document == became.document else now.document,
        was.is_marked if now.is_marked == became.is_marked else now.is_marked,
    )
    if back == now:
        return was in (now, became)
    score = net.before.get("score") if was.is_low_quality else net.after.get("score")
    tags_kind = str(net.before.get("tags", "object"))
    return Relabel(
        pending_id, back.is_low_quality, _number(score) or 0.0, tags_kind, back.document, back.is_marked
    )


def _said(values: Values) -> LabelState:
    document = values.get("prescreen")
    return LabelState(
        bool(values.get("low_quality")),
        document if isinstance(document, Mapping) else None,
        bool(values.get("sensitive")),
    )


def _score(net: _Net, standing: Standing) -> _Answer:
    """Ours alone is put back: a score that moved since, or that was no number before, stays."""
    item_id = ItemId(net.subject_id)
    state = standing.items.get(item_id)
    before, after = _number(net.before.get("quality_score")), _number(net.after.get("quality_score"))
    if state is None or before is None or after is None:
        return False
    if state.quality_score == before:
        return True
    return Rescore(item_id, after, before) if state.quality_score == after else False


def _judgement(net: _Net, standing: Standing) -> _Answer:
    pair = _pair(net)
    state = standing.verdicts.get(pair)
    earlier, later = net.before.get("verdict"), net.after.get("verdict")
    if state is None or not state.holds:
        said = "it no longer stands for the texts as they are; decide it again"
        return True if earlier is None else net.refuse(said)
    if state.verdict == later and state.decided_at == _moment(net.after, "at"):
        return RestoreVerdict(*pair, earlier=None if earlier is None else net.before)
    if state.verdict == earlier:
        return True
    return net.refuse("it was decided again since")


def _pair(net: _Net) -> PairKey:
    return _ordered(ItemId(UUID(str(net.after["a"]))), ItemId(UUID(str(net.after["b"]))))


def _canonical(values: Values) -> ItemId | None:
    found = values.get("canonical")
    return None if found is None else ItemId(UUID(str(found)))


def _moment(values: Values, name: str) -> datetime | None:
    """The instant under a name; None when there is none, or none that a calendar has."""
    try:
        return datetime.fromisoformat(str(values.get(name)))
    except ValueError:
        return None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _ordered(a_id: ItemId, b_id: ItemId) -> PairKey:
    return (a_id, b_id) if a_id < b_id else (b_id, a_id)
