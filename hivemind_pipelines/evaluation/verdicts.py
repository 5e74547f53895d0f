"""Reviewers' verdicts as labelled pairs: the texts they were given for, compared as production compares them."""

from collections.abc import Iterator

from hivemind_pipelines.core import matching
from hivemind_pipelines.core.model import Comparison, OrgId
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.store import items, reviews
from hivemind_pipelines.store.connection import Store

NAME = "reviewers' verdicts"


def compared(store: Store, policy: MatchingPolicy) -> Iterator[tuple[Comparison, bool]]:
    """Every judged pair of every org whose features are current, and whether the verdict was `same`."""
    with store.read() as conn:
        orgs = items.read_orgs(conn)
    for org_id in orgs:
        yield from _compared(store, org_id, policy)


def _compared(store: Store, org_id: OrgId, policy: MatchingPolicy) -> Iterator[tuple[Comparison, bool]]:
    with store.read() as conn:
        verdicts = reviews.read_reviewed(conn, org_id)
        ids = sorted({item_id for one in verdicts for item_id in (one.a_id, one.b_id)})
        known, vectors = items.read_vectors(conn, org_id, ids)
        inputs = items.read_match_inputs(conn, org_id, ids, dict(zip(known, vectors, strict=True)))
    for one in verdicts:
        if one.a_id in inputs and one.b_id in inputs:
            yield matching.compare(inputs[one.a_id], inputs[one.b_id], policy), one.verdict == "same"
