"""The commands of people who look after the commons: undo and review."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hivemind_pipelines import presentation
from hivemind_pipelines.commands import Answer, UsageError, connect
from hivemind_pipelines.core.model import CaseId, ItemId, OrgId
from hivemind_pipelines.core.review import pair_id, short_id
from hivemind_pipelines.core.undo import CannotUndo, CaseTarget, MergeTarget, RunTarget, Target
from hivemind_pipelines.settings import load as load_settings
from hivemind_pipelines.settings import load_policy
from hivemind_pipelines.stages import review
from hivemind_pipelines.stages import undo as undoing
from hivemind_pipelines.stages.review import CaseRef, PairRef, Queue, Ref, ReviewError, Shown
from hivemind_pipelines.stages.undo import Undone, UnknownTarget
from hivemind_pipelines.store.contributions import QueuePage
from hivemind_pipelines.store.reviews import ShownItem, Waiting
from hivemind_pipelines.store.suspicions import SuspiciousPage

#: Refusals named one by one on standard error; --json lists them all.
REFUSALS_SHOWN = 20


def undo(arguments: argparse.Namespace) -> Answer:
    """Take effects of ours back."""
    settings = load_settings()
    policy = load_policy(settings)
    with connect(settings) as store:
        try:
            done = undoing.run(
                store, policy, _target(arguments), now=datetime.now(UTC), dry_run=arguments.dry_run
            )
        except UnknownTarget as error:
            raise UsageError(str(error)) from None
    data = {
        "dry_run": arguments.dry_run,
        "run_id": done.run_id,
        "orgs": {
            org_id: {
                **undoing.counts(plan),
                "changes": [_change(change) for change in plan.changes],
                "refusals": [asdict(refusal) for refusal in plan.refusals],
            }
            for org_id, plan in done.plans.items()
        },
    }
    return Answer(
        data,
        lambda console: _show_undone(console, done, dry_run=arguments.dry_run),
        tuple(_complaints(done)),
        exit_code=0 if done.is_complete else 1,
    )


def _target(arguments: argparse.Namespace) -> Target:
    if arguments.run is not None:
        return RunTarget(arguments.run)
    if arguments.merge is not None:
        return MergeTarget(ItemId(arguments.merge))
    return CaseTarget(CaseId(arguments.case))


def _change(change: Any) -> dict[str, object]:
    return {"change": undoing.COUNTED[type(change).__name__], **asdict(change)}


def _complaints(done: Undone) -> Iterator[str]:
    refusals = [(org_id, refusal) for org_id, plan in done.plans.items() for refusal in plan.refusals]
    yield from (_refusal(org_id, refusal) for org_id, refusal in refusals[:REFUSALS_SHOWN])
    if len(refusals) > REFUSALS_SHOWN:
        yield f"{len(refusals) - REFUSALS_SHOWN:,} more were refused; --json lists them"
    for org_id, plan in done.plans.items():
        if plan.unremembered:
            yield (
                f"org {org_id!a}: {plan.unremembered:,} undone merges are too many in one cluster to be "
                "remembered; a run under the same policy makes them again"
            )


def _refusal(org_id: OrgId, refusal: CannotUndo) -> str:
    return f"org {org_id!a}: {refusal.change} of {refusal.subject_id} stays: {refusal.reason}"


def _show_undone(console: Console, done: Undone, *, dry_run: bool) -> None:
    table = _table("org", "would be undone" if dry_run else "undone", "refused", "as before", "left alone")
    for org_id, plan in done.plans.items():
        counts = undoing.counts(plan)
        rest = {name: counts.pop(name) for name in ("refused", "as_before", "left", "unremembered")}
        made = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()) or "nothing"
        numbers = (f"{rest[name]:,}" for name in ("refused", "as_before", "left"))
        table.add_row(presentation.printable(org_id), made, *numbers)
    if table.rows:
        console.print(table)
    if done.run_id is not None:
        console.print(
            f"to take this back in turn: hivemind-pipelines undo --run {done.run_id}", soft_wrap=True
        )
    elif dry_run:
        console.print("this was a dry run: nothing was changed")
    else:
        console.print("nothing was changed")


def review_list(arguments: argparse.Namespace) -> Answer:
    """What waits for a person."""
    settings = load_settings()
    with connect(settings) as store:
        org_id = None if arguments.org is None else OrgId(arguments.org)
        queue = review.queue(
            store, org_id, model=settings.llm_model, limit=arguments.limit, offset=arguments.offset
        )
        pending = review.pending(store, org_id, limit=arguments.limit, offset=arguments.offset)
        suspicious = review.suspicious(store, org_id, limit=arguments.limit, offset=arguments.offset)
    data = {
        "total": queue.page.total,
        "limit": arguments.limit,
        "offset": arguments.offset,
        "items": [_waiting(one) for one in queue.page.waiting],
        "precision": {
            record.reason: {"same": record.same, "total": record.total, "precision": record.precision}
            for record in queue.precision
        },
        "case_precision": {
            record.reason: {"confirmed": record.same, "total": record.total, "precision": record.precision}
            for record in queue.case_precision
        },
        "pending": {"total": pending.total, "items": [asdict(row) for row in pending.rows]},
        "suspicious": {"total": suspicious.total, "items": [asdict(item) for item in suspicious.items]},
    }

    def show(console: Console) -> None:
        _show_queue(console, queue, offset=arguments.offset)
        _show_suspicious(console, suspicious)
        _show_pending(console, pending)

    return Answer(data, show)


def _waiting(one: Waiting) -> dict[str, object]:
    return {**asdict(one), "id": _name(one)}


def _name(one: Waiting) -> str:
    return short_id(one.id) if one.kind == "pair" else str(one.id)


def _show_queue(console: Console, queue: Queue, *, offset: int) -> None:
    table = _table("id", "org", "what", "harm", "probability", "reason")
    for one in queue.page.waiting:
        probability = "-" if one.probability is None else f"{one.probability:.3f}"
        what = "possible duplicate" if one.kind == "pair" else f"case of {len(one.item_ids)} items"
        reason = ", ".join(one.vetoes) or one.reason
        org = presentation.printable(one.org_id)
        table.add_row(_name(one), org, what, f"{one.harm:.1f}", probability, reason)
    if table.rows:
        console.print(table)
    shown = len(queue.page.waiting)
    if not queue.page.total:
        console.print("nothing waits for a person")
    elif shown < queue.page.total:
        console.print(f"{shown:,} of {queue.page.total:,} shown, after {offset:,}; see --limit and --offset")
    if queue.precision:
        verdicts = _table("detector", "same", "decided", "precision")
        for record in queue.precision:
            verdicts.add_row(
                record.reason, f"{record.same:,}", f"{record.total:,}", f"{record.precision:.2f}"
            )
        console.print(verdicts)
    if queue.case_precision:
        verdicts = _table("detector of cases", "confirmed", "decided", "precision")
        for record in queue.case_precision:
            verdicts.add_row(
                presentation.printable(record.reason), f"{record.same:,}", f"{record.total:,}",
                f"{record.precision:.2f}",
            )  # fmt: skip
        console.print(verdicts)


def _show_suspicious(console: Console, suspicious: SuspiciousPage) -> None:
    """Live items that are left out of topics, and why."""
    if not suspicious.items:
        return
    table = _table("suspicious item", "org", "harm", "score", "reasons", "contributed by")
    for item in suspicious.items:
        org, agent = presentation.printable(item.org_id), presentation.printable(item.source_agent_id)
        reasons = ", ".join(kind.replace("_", " ") for kind in item.kinds)
        table.add_row(str(item.item_id), org, f"{item.harm:.1f}", f"{item.score:.2f}", reasons, agent)
    console.print(table)
    console.print(
        f"{len(suspicious.items):,} of {suspicious.total:,} live items that seem to give a model instructions;"
        " topics leave them out"
    )


def _show_pending(console: Console, pending: QueuePage) -> None:
    """The review queue of the server, those rows first that a look at pays most for."""
    if not pending.rows:
        return
    table = _table("pending row", "org", "value", "quality", "sense", "novelty", "care", "labels")
    for row in pending.rows:
        parts = [_share(row.parts.get(name)) for name in ("quality", "sense", "novelty", "care")]
        labels = ", ".join(_label(label) for label in row.labels)
        table.add_row(str(row.id), presentation.printable(row.org_id), _share(row.value), *parts, labels)
    console.print(table)
    console.print(f"{len(pending.rows):,} of {pending.total:,} pending rows, by the value of a look at them")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _label(label: Mapping[str, object]) -> str:
    other = label.get("item_id") or label.get("pending_id")
    return f"{label['label']} {other}" if other else str(label["label"])


def review_show(arguments: argparse.Namespace) -> Answer:
    """One pair or case side by side."""
    settings = load_settings()
    with connect(settings) as store:
        try:
            shown = review.show(store, review.find(store, arguments.id), model=settings.llm_model)
        except ReviewError as error:
            raise UsageError(str(error)) from None
    data = {
        "id": _ref_name(shown.ref),
        "kind": "pair" if isinstance(shown.ref, PairRef) else "case",
        "org_id": shown.ref.org_id,
        "items": [asdict(item) | {"difference": shown.differences.get(item.id)} for item in shown.items],
        "pair": None if shown.pair is None else _plain(asdict(shown.pair)),
        "case": None if shown.case is None else asdict(shown.case),
    }
    return Answer(data, lambda console: _show_shown(console, shown))


def _plain(detail: dict[str, Any]) -> dict[str, object]:
    merges = detail["canonical_ids"]
    return {**detail, "canonical_ids": {str(one): str(other) for one, other in merges.items()}}


def _ref_name(ref: Ref) -> str:
    if isinstance(ref, CaseRef):
        return str(ref.case_id)
    return short_id(pair_id(ref.org_id, ref.a_id, ref.b_id))


def _show_shown(console: Console, shown: Shown) -> None:
    table = Table(show_lines=True, header_style="bold")
    for item in shown.items:
        table.add_column(str(item.id), overflow="fold", ratio=1)
    table.add_row(*(_highlighted(item, shown) for item in shown.items))
    table.add_row(*(Text("\n".join(_facts(item))) for item in shown.items))
    console.print(table)
    for item_id, difference in shown.differences.items():
        console.print(_readable(f"{item_id}: {difference}"), soft_wrap=True)
    for name, value in _said(shown):
        console.print(_readable(f"{name}: {value}"), soft_wrap=True)


def _highlighted(item: ShownItem, shown: Shown) -> Text:
    """The text of an item with what it conflicts in reversed, where nothing in it had to be escaped."""
    readable = _readable(item.content)
    spans = shown.case.evidence.get("spans") if shown.case is not None else None
    if not isinstance(spans, Mapping) or readable.plain != item.content:
        return readable
    place = sorted(one.id for one in shown.items).index(item.id)
    for start, end in spans.get("ab"[place], ()) if place < 2 else ():
        readable.stylize("reverse", start, end)
    return readable


def _readable(text: str) -> Text:
    """A text from outside without anything that a terminal would obey."""
    return Text("\n".join(presentation.printable(line) for line in text.splitlines()))


def _facts(item: ShownItem) -> Iterator[str]:
    scope = " ".join(filter(None, (item.framework, item.language, item.version)))
    yield f"{item.category}{', ' + presentation.printable(scope) if scope else ''}"
    yield f"by {presentation.printable(item.source_agent_id)}"
    yield f"{'public' if item.is_public else 'private'}, {'live' if item.is_live else 'expired'}"
    yield f"confidence {item.confidence:.2f}, quality {item.quality_score:.2f}"
    yield f"{item.retrieval_count:,} retrievals"


def _said(shown: Shown) -> Iterator[tuple[str, object]]:
    if shown.pair is not None:
        pair = shown.pair
        if pair.decision is not None:
            yield "detector", f"{pair.decision}, probability {pair.probability:.3f}, {pair.reason}"
            yield "vetoes", ", ".join(pair.vetoes) or "none"
            yield "scores", _scores(pair.scores)
        if pair.llm_same is not None:
            yield "model", f"{'same' if pair.llm_same else 'distinct'}, confidence {pair.llm_confidence}"
        for duplicate_id, canonical_id in pair.canonical_ids.items():
            yield "merged", f"{duplicate_id} into {canonical_id}"
        if pair.verdict is not None:
            yield "verdict", f"{pair.verdict} by {pair.decided_by} ({pair.source}), {pair.decided_at}"
    if shown.case is not None:
        case = shown.case
        yield "case", f"{case.status}, found by {case.detector}, opened {case.opened_at}"
        if case.decided_by is not None:
            yield "decided", f"{case.outcome or case.status} by {case.decided_by}, {case.decided_at}"


def _scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in scores.items() if value)


def review_decide(arguments: argparse.Namespace) -> Answer:
    """Store what a person decided."""
    settings = load_settings()
    policy = load_policy(settings)
    by = arguments.by.strip()
    if not by or not by.isprintable():
        raise UsageError("--by takes a name")
    with connect(settings) as store:
        try:
            ref = review.find(store, arguments.id)
            decided = review.decide(
                store,
                policy,
                ref,
                arguments.outcome,
                by=by,
                now=datetime.now(UTC),
                older=None if arguments.older is None else ItemId(arguments.older),
                at=arguments.at,
            )
        except ReviewError as error:
            raise UsageError(str(error)) from None
    name = _ref_name(ref)
    data = {
        "id": name, "org_id": ref.org_id, "outcome": decided.outcome, "by": by, "run_id": decided.run_id,
        "changed": decided.run_id is not None,
    }  # fmt: skip
    said = f"{name} is {decided.outcome}" + ("" if decided.run_id else " already: nothing was changed")
    after = "; the org's next run acts on it" if decided.run_id and isinstance(ref, PairRef) else ""
    return Answer(data, lambda console: console.print(said + after))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
