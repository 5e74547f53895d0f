"""Alignment: the changes that turn one text into another, each with the kind that says what it does."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from hivemind_pipelines.core.kinship import ChangeKind, lone_kind, relation, stem
from hivemind_pipelines.core.reordering import Order, order
from hivemind_pipelines.core.tokens import Token

#: Beyond this product of token counts only the multisets of tokens are compared.
ALIGNED_CELLS_MAX = 250_000
#: Beyond this many tokens on a side of a replaced run they are not paired one by one.
PAIRED_TOKENS_MAX = 12

Run = Sequence[Token]


@dataclass(frozen=True, slots=True)
class Change:
    """Tokens of one side that stand for tokens of the other; either side may be empty.

    `company` counts the words of weight that one side has there beside a token without a counterpart.
    """

    kind: ChangeKind
    removed: tuple[Token, ...]
    added: tuple[Token, ...]
    company: int = 0


@dataclass(frozen=True, slots=True)
class Alignment:
    """All changes between two texts; `sentences_moved` whole sentences stand elsewhere unchanged."""

    changes: tuple[Change, ...]
    order: Order = Order.KEPT
    sentences_moved: int = 0
    is_exact: bool = True


def align(a: Sequence[Run], b: Sequence[Run]) -> Alignment:
    """Align two texts given as sentences of tokens."""
    flat = replace(_align_runs(_flat(a), _flat(b)), order=order(_flat(a), _flat(b)))
    if min(len(a), len(b)) < 2 or flat.order is Order.KEPT:
        return flat
    a_rest, b_rest, shared = _without_shared(a, b)
    rest_order = order(_flat(a_rest), _flat(b_rest)) if shared else flat.order
    if rest_order in (Order.KEPT, Order.MOVED):
        rest_order = Order.SENTENCES_MOVED
    if min(len(a), len(b)) < 3 or _moves(flat) < 3:
        return replace(flat, order=rest_order if shared else flat.order)
    rest = _align_runs(_flat(a_rest), _flat(b_rest))
    return replace(rest, order=rest_order, sentences_moved=shared)


def _moves(alignment: Alignment) -> int:
    return sum(change.kind is ChangeKind.MOVED for change in alignment.changes)


def _flat(sentences: Sequence[Run]) -> list[Token]:
    return [token for sentence in sentences for token in sentence]


def _without_shared(a: Sequence[Run], b: Sequence[Run]) -> tuple[list[Run], list[Run], int]:
    """The sentences that have no equal on the other side, and how many have one."""
    a_keys, b_keys = ([tuple(token.key for token in run) for run in side] for side in (a, b))
    shared = Counter(a_keys) & Counter(b_keys)
    return _drop(a, a_keys, shared), _drop(b, b_keys, shared), shared.total()


def _drop(
    runs: Sequence[Run], keys: Sequence[tuple[str, ...]], shared: Counter[tuple[str, ...]]
) -> list[Run]:
    left = shared.copy()
    kept = []
    for run, key in zip(runs, keys, strict=True):
        if left[key] > 0:
            left[key] -= 1
        else:
            kept.append(run)
    return kept


def _align_runs(a: Run, b: Run) -> Alignment:
    start, end = _common_ends(a, b)
    a, b = a[start : len(a) - end], b[start : len(b) - end]
    is_exact = len(a) * len(b) <= ALIGNED_CELLS_MAX
    hunks = _hunks(a, b) if is_exact else [_multiset_hunk(a, b)]
    changes = [change for removed, added in hunks for change in _pair(removed, added)]
    return Alignment(tuple(_with_moves(changes)), is_exact=is_exact)


def _common_ends(a: Run, b: Run) -> tuple[int, int]:
    shorter = min(len(a), len(b))
    start = 0
    while start < shorter and a[start].key == b[start].key:
        start += 1
    end = 0
    while end < shorter - start and a[-1 - end].key == b[-1 - end].key:
        end += 1
    return start, end


def _hunks(a: Run, b: Run) -> Iterator[tuple[Run, Run]]:
    if not a or not b:
        if a or b:
            yield a, b
        return
    matcher = SequenceMatcher(None, [token.key for token in a], [token.key for token in b], autojunk=False)
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        if tag != "equal":
            yield a[a_start:a_end], b[b_start:b_end]


def _multiset_hunk(a: Run, b: Run) -> tuple[Run, Run]:
    a_keys, b_keys = Counter(token.key for token in a), Counter(token.key for token in b)
    return _surplus(a, a_keys - b_keys), _surplus(b, b_keys - a_keys)


def _surplus(run: Run, surplus: Counter[str]) -> Run:
    left = surplus.copy()
    kept = []
    for token in run:
        if left[token.key] > 0:
            left[token.key] -= 1
            kept.append(token)
    return kept


def _pair(removed: Run, added: Run) -> Iterator[Change]:
    """Pair the tokens of a replaced run, the closest kin first, and leave the rest alone."""
    if removed and added and _is_respaced(removed, added):
        yield Change(ChangeKind.SPELLING, tuple(removed), tuple(added))
        return
    kin = list(_kin(removed, added)) if max(len(removed), len(added)) <= PAIRED_TOKENS_MAX else []
    yield from (Change(kind, (removed[x],), (added[y],)) for kind, x, y in kin)
    paired_x, paired_y = {x for _, x, _ in kin}, {y for _, _, y in kin}
    removed_alone = [token for index, token in enumerate(removed) if index not in paired_x]
    added_alone = [token for index, token in enumerate(added) if index not in paired_y]
    yield from (Change(kind, (token,), (), company) for token, kind, company in _alone(removed_alone))
    yield from (Change(kind, (), (token,), company) for token, kind, company in _alone(added_alone))


def _alone(tokens: Run) -> Iterator[tuple[Token, ChangeKind, int]]:
    """Each token without a counterpart with its kind, and how many of them are words of weight."""
    kinds = [lone_kind(token) for token in tokens]
    company = sum(kind in _WEIGHTY for kind in kinds)
    return ((token, kind, company) for token, kind in zip(tokens, kinds, strict=True))


_WEIGHTY = frozenset(
    {ChangeKind.WORD_ADDED, ChangeKind.NAME_ADDED, ChangeKind.CODE_ADDED, ChangeKind.NUMBER_ADDED}
)


def _is_respaced(removed: Run, added: Run) -> bool:
    """Whether two runs, not both in code, are the same letters cut into words in another way."""
    if all(any(token.in_code for token in run) for run in (removed, added)):
        return False
    is_code = any(token.in_code for token in (*removed, *added))
    return _joined(removed, is_code) == _joined(added, is_code) != ""


def _joined(run: Run, is_code: bool) -> str:
    letters = "".join(token.form if is_code else token.key for token in run)
    return letters.replace("-", "").replace("_", "")


def _kin(removed: Run, added: Run) -> Iterator[tuple[ChangeKind, int, int]]:
    """Related tokens of two runs: benign kinds before harmful ones, nearer positions first."""
    related = []
    for x, old in enumerate(removed):
        for y, new in enumerate(added):
            kind = relation(old, new)
            if kind is not None:
                related.append((_RANK[kind], abs(x - y), x, y, kind))
    used_x: set[int] = set()
    used_y: set[int] = set()
    for _, _, x, y, kind in sorted(related):
        if x not in used_x and y not in used_y:
            used_x.add(x)
            used_y.add(y)
            yield kind, x, y


_RANK = {kind: rank for rank, kind in enumerate(
    (
        ChangeKind.CASE, ChangeKind.SPELLING, ChangeKind.INFLECTION, ChangeKind.FLAG_LENGTH, ChangeKind.POLARITY,
        ChangeKind.UNIT, ChangeKind.NAME, ChangeKind.SYNONYM, ChangeKind.PLACEHOLDER, ChangeKind.VERSION,
        ChangeKind.NUMBER, ChangeKind.FLAG, ChangeKind.QUANTIFIER, ChangeKind.FUNCTION, ChangeKind.CODE,
        ChangeKind.OPERATOR, ChangeKind.WORD,
    )
)}  # fmt: skip


def _with_moves(changes: Sequence[Change]) -> Iterator[Change]:
    """Turn a token that was dropped here and added there, both in code or neither, into one that moved."""
    yield from _with_elsewhere(
        _with_elsewhere(changes, _place, ChangeKind.MOVED), _root, ChangeKind.INFLECTION
    )


def _with_elsewhere(
    changes: Iterable[Change], key: Callable[[Token], Hashable], kind: ChangeKind
) -> list[Change]:
    """Tie the lone tokens of either side that have the same key."""
    found = list(changes)
    raised: dict[Hashable, list[Token]] = defaultdict(list)
    for change in found:
        if not change.removed:
            raised[key(change.added[0])].append(change.added[0])
    tied: list[Change] = []
    gone: Counter[Hashable] = Counter()
    for change in found:
        partners = raised.get(key(change.removed[0]), []) if change.removed and not change.added else []
        if partners:
            gone[key(partners[0])] += 1
            tied.append(Change(kind, change.removed, (partners.pop(0),)))
        elif change.removed:
            tied.append(change)
    for change in found:
        if not change.removed:
            place = key(change.added[0])
            if gone[place] > 0:
                gone[place] -= 1
            else:
                tied.append(change)
    return tied


def _place(token: Token) -> Hashable:
    return token.key, token.in_code


def _root(token: Token) -> Hashable:
    """The stem of a plain word; anything else is like nothing but itself."""
    is_plain = lone_kind(token) is ChangeKind.WORD_ADDED and not token.in_code and len(token.key) > 3
    return stem(token.key) if is_plain else (token.key, token.in_code)
