"""Alignment: the changes that turn one text into another, each with the kind that says what it does."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from hivemind_pipelines.core.kinship import ChangeKind, lone_kind, relation
from hivemind_pipelines.core.tokens import Kind, Token

#: Beyond this product of token counts only the multisets of tokens are compared.
ALIGNED_CELLS_MAX = 250_000
#: Beyond this many tokens on a side of a replaced run they are not paired one by one.
PAIRED_TOKENS_MAX = 12

Run = Sequence[Token]


@dataclass(frozen=True, slots=True)
class Change:
    """Tokens of one side that stand for tokens of the other; either side may be empty."""

    kind: ChangeKind
    removed: tuple[Token, ...]
    added: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Alignment:
    """All changes between two texts; `sentences_moved` whole sentences stand elsewhere unchanged."""

    changes: tuple[Change, ...]
    sentences_moved: int = 0
    is_exact: bool = True


def align(a: Sequence[Run], b: Sequence[Run]) -> Alignment:
    """Align two texts given as sentences of tokens."""
    flat = _align_runs(_flat(a), _flat(b))
    if min(len(a), len(b)) < 3 or _moves(flat) < 3:
        return flat
    a_rest, b_rest, shared = _without_shared(a, b)
    return replace(_align_runs(_flat(a_rest), _flat(b_rest)), sentences_moved=shared)


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
    for index, token in enumerate(removed):
        if index not in paired_x:
            yield Change(lone_kind(token), (token,), ())
    for index, token in enumerate(added):
        if index not in paired_y:
            yield Change(lone_kind(token), (), (token,))


def _is_respaced(removed: Run, added: Run) -> bool:
    """Whether two runs of prose are the same letters cut into words in another way."""
    if any(token.in_code for token in (*removed, *added)):
        return False
    return _joined(removed) == _joined(added) != ""


def _joined(run: Run) -> str:
    return "".join(token.key.replace("-", "").replace("_", "") for token in run)


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
    dropped = Counter(_place(change.removed) for change in changes if not change.added)
    raised = Counter(_place(change.added) for change in changes if not change.removed)
    to_drop = dropped & raised
    to_raise = to_drop.copy()
    for change in changes:
        if change.removed and change.added:
            yield change
        elif change.removed and to_drop[_place(change.removed)] > 0:
            to_drop[_place(change.removed)] -= 1
            yield Change(ChangeKind.MOVED, change.removed, change.removed)
        elif change.added and to_raise[_place(change.added)] > 0:
            to_raise[_place(change.added)] -= 1
        else:
            yield change


def _place(tokens: Run) -> tuple[str, bool]:
    return tokens[0].key, tokens[0].in_code


def is_binding(token: Token) -> bool:
    """Whether the place of a token among others of its sort is part of the statement."""
    if token.kind in (Kind.NUMBER, Kind.VERSION, Kind.OPERATOR) or token.is_name:
        return True
    return token.kind is Kind.CODE or token.key in ("to", "from", "than", "before", "after", "not", "only")
