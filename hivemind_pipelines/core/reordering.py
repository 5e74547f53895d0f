"""Reordering: whether what two texts share stands in another order, and whether that may matter."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from hivemind_pipelines.core.lexicon import CONNECTIVES, NEGATIONS, QUANTIFIERS, UNORDERED_WORDS
from hivemind_pipelines.core.tokens import Kind, Token

Run = Sequence[Token]

#: One block that changes places with its neighbour leaves exactly so many joints behind.
TRANSPOSED_JOINTS = 3

#: Two blocks that change places around a third leave so many; with more the text is told in another order.
EXCHANGED_JOINTS = 4


class Order(StrEnum):
    """How the shared tokens of two texts stand: as before, as a clause moved, unclear, or swapped."""

    KEPT = "kept"
    MOVED = "moved"
    SENTENCES_MOVED = "sentences_moved"
    OPEN = "open"
    SWAPPED = "swapped"


def order(a: Run, b: Run) -> Order:
    """The order of the tokens that stand once in each text, small words left out.

    A clause that moved as a whole says the same; two arguments that changed places around what ties
    them do not. They are told apart by the joints between neighbours that are neighbours no more.
    """
    a, b = _ordered(a), _ordered(b)
    shared = _single(a) & _single(b)
    kept = [token for token in a if _place(token) in shared]
    rank = {_place(token): place for place, token in enumerate(t for t in b if _place(t) in shared)}
    path = [-1, *(rank[_place(token)] for token in kept), len(kept)]
    joints = [place for place in range(len(kept) + 1) if path[place + 1] != path[place] + 1]
    if not joints:
        return Order.KEPT
    if len(joints) > TRANSPOSED_JOINTS:
        return Order.SWAPPED if len(joints) <= EXCHANGED_JOINTS else Order.OPEN
    start, middle, end = joints
    return _transposed(kept[start:middle], kept[middle:end])


def _ordered(run: Run) -> Run:
    return [token for token in run if token.is_name or token.key not in UNORDERED_WORDS]


def _single(run: Run) -> set[tuple[str, bool]]:
    return {place for place, count in Counter(map(_place, run)).items() if count == 1}


def _place(token: Token) -> tuple[str, bool]:
    return token.key, token.in_code


def _transposed(left: Run, right: Run) -> Order:
    """What it means that two neighbouring blocks changed places."""
    is_code = [all(token.in_code for token in block) for block in (left, right)]
    if all(is_code):
        are_options = all(block[0].kind is Kind.FLAG for block in (left, right))
        return Order.MOVED if are_options else Order.SWAPPED
    if any(is_code):
        return Order.MOVED
    short, long = sorted((left, right), key=len)
    if len(long) == 1 and _is_turning(long[0]):
        short, long = long, short
    if len(short) == 1:
        return _stepped(short[0], long)
    is_clause = any(block[0].form.lower() in CONNECTIVES for block in (left, right))
    return Order.MOVED if is_clause else Order.OPEN


def _stepped(token: Token, over: Run) -> Order:
    """What it means that one token of prose moved over others."""
    if _is_turning(token):
        return Order.SWAPPED
    if any(other.key in NEGATIONS for other in over):
        return Order.OPEN
    if not is_binding(token):
        return Order.MOVED
    return Order.SWAPPED if any(map(is_binding, over)) else Order.OPEN


def _is_turning(token: Token) -> bool:
    """Whether a word says something of what follows it, and of that alone."""
    return token.key in NEGATIONS or token.key in QUANTIFIERS or token.key in CONNECTIVES


def is_binding(token: Token) -> bool:
    """Whether the place of a token among others of its sort is part of the statement."""
    return token.is_name or token.kind in (Kind.NUMBER, Kind.VERSION, Kind.OPERATOR, Kind.CODE)
