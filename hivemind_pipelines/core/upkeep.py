"""Upkeep of summaries: which to retire, revive, scan again or write, from topics and sources alone."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hivemind_pipelines.core.changes import Retire, Revive
from hivemind_pipelines.core.model import ItemId, TopicCluster

#: A summary rests on at least so many live sources.
SOURCES_MIN = 3

PII_FOUND = "pii_found"

#: Retired by an undo: an operator's word, which no later run takes back.
UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class StandingSummary:
    """A summary its owner has not deleted; `fingerprint` and `pii_stamp` are None for a server's own.

    `retired_reason` is set while our own last word on it is that it is expired. `lost_sources` are
    deleted or gone, `changed_sources` say something else than when it was made.
    """

    id: ItemId
    fingerprint: str | None
    pii_stamp: str | None
    retired_reason: str | None
    is_live: bool
    live_sources: int
    lost_sources: int
    changed_sources: int
    source_ids: tuple[ItemId, ...]


@dataclass(frozen=True, slots=True)
class Writing:
    """A topic that needs a new summary, and the live ones it will replace when it is published."""

    cluster: TopicCluster
    replaces: tuple[ItemId, ...] = ()


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a run has to do about summaries; `rescan` holds live and revivable ones of an older scanner."""

    retire: tuple[Retire, ...]
    revive: tuple[Revive, ...]
    rescan: tuple[ItemId, ...]
    write: tuple[Writing, ...]

    def __bool__(self) -> bool:
        return bool(self.retire or self.revive or self.rescan or self.write)


def plan_upkeep(
    topics: Iterable[TopicCluster],
    summaries: Iterable[StandingSummary],
    *,
    known: Collection[str],
    pii_stamp: str,
) -> Upkeep:
    """Hold the summaries against the standing topics.

    A live summary whose topic moved on stays until its successor is published, unless its sources fell
    away; a server's own stays without a successor too. `known` are fingerprints ever published: one whose
    summary an owner deleted is not written again. A summary of ours that somebody else brought back is
    among the revived.
    """
    current = {cluster.fingerprint: cluster for cluster in topics}
    stored = sorted(summaries, key=lambda summary: summary.id)
    retire = [Retire(summary.id, reason) for summary in stored if (reason := _unsound(summary))]
    unsound = {change.summary_id for change in retire}
    live = [summary for summary in stored if summary.is_live and summary.id not in unsound]
    revive = [
        Revive(summary.id, summary.fingerprint)
        for summary in stored
        if summary.fingerprint is not None and summary.fingerprint in current and _is_revivable(summary)
    ]
    covered = {summary.fingerprint for summary in live} | {change.fingerprint for change in revive}
    replaced: defaultdict[str, list[ItemId]] = defaultdict(list)
    for summary in (summary for summary in live if summary.fingerprint not in current):
        successor = _successor(summary, current)
        if successor is None:
            if summary.fingerprint is not None:
                retire.append(Retire(summary.id, "topic_dissolved"))
        elif successor in covered:
            retire.append(Retire(summary.id, "superseded"))
        else:
            replaced[successor].append(summary.id)
    write = tuple(
        Writing(current[fingerprint], tuple(replaced[fingerprint]))
        for fingerprint in sorted(current.keys() - covered - set(known))
    )
    leaving = {change.summary_id for change in retire}
    revive += [
        Revive(summary.id, summary.fingerprint)
        for summary in live
        if summary.fingerprint is not None and summary.retired_reason and summary.id not in leaving
    ]
    return Upkeep(
        tuple(sorted(retire, key=lambda change: change.summary_id)),
        tuple(revive),
        _unscanned(stored, retire, revive, pii_stamp),
        write,
    )


def _unsound(summary: StandingSummary) -> str | None:
    if not summary.is_live:
        return None
    if summary.retired_reason == PII_FOUND:
        return PII_FOUND
    if summary.lost_sources:
        return "source_deleted"
    if summary.changed_sources:
        return "source_changed"
    return "too_few_sources" if summary.live_sources < SOURCES_MIN else None


def _is_revivable(summary: StandingSummary) -> bool:
    """Whole again and retired by us; what others expired stays expired."""
    is_whole = summary.live_sources == len(summary.source_ids) >= SOURCES_MIN
    return not summary.is_live and is_whole and summary.retired_reason not in (None, PII_FOUND, UNDONE)


def _successor(summary: StandingSummary, current: Mapping[str, TopicCluster]) -> str | None:
    """The topic that shares the most sources with a summary, the higher fingerprint on a tie.

    A server's own summary gives way only to a topic with all of its sources.
    """
    sources = set(summary.source_ids)
    shared_min = 1 if summary.fingerprint is not None else len(sources)
    shared = {fingerprint: len(sources & set(cluster.source_ids)) for fingerprint, cluster in current.items()}
    best = max(shared, key=lambda fingerprint: (shared[fingerprint], fingerprint), default=None)
    return best if best is not None and shared[best] >= shared_min else None


def _unscanned(
    stored: Iterable[StandingSummary], retire: Iterable[Retire], revive: Iterable[Revive], pii_stamp: str
) -> tuple[ItemId, ...]:
    leaving = {change.summary_id for change in retire}
    coming = {change.summary_id for change in revive}
    return tuple(
        summary.id
        for summary in stored
        if summary.pii_stamp is not None and summary.pii_stamp != pii_stamp
        and (summary.id in coming or (summary.is_live and summary.id not in leaving))
    )  # fmt: skip
