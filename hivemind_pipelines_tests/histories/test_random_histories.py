"""Random histories: whatever servers, owners and operators do in whatever order, every run converges."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from hivemind_pipelines.core.model import OrgId, RunId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.stages import backlog, erasure_propagation, quality_scores
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    ACME,
    delete_item,
    execute,
    insert_item,
    insert_pending,
    insert_signal,
    public_dump,
    rows,
    set_item,
)
from hivemind_pipelines_tests.observed import forbidden_changes, own_digest, without_last_run
from hivemind_pipelines_tests.stages.commons import distil, policy, services

SUBJECTS = ("upload gateway", "session cache", "invoice export", "search index")
FRAMES = (
    "Retry the {} with exponential backoff when the storage answers slowly",
    "Retry the {} with exponential backoff while the storage answers slowly",
    "The {} should retry with exponential backoff when the storage answers slowly",
    "Restart the {} after the storage was restored from a backup",
    "Never restart the {} after the storage was restored from a backup",
    "Pin the {} to version 2.1 until the storage driver is fixed",
    "Pin the {} to version 2.2 until the storage driver is fixed",
    "{}",
)
ENDINGS = ("", ".", "!", " ", "  .", " again", " today", "\n")

POLICIES: tuple[dict[str, dict[str, object]], ...] = (
    {},
    {"matching": {"duplicate_min": 0.6}},
    {"matching": {"duplicate_min": 1.0}},
    {"matching": {"cluster_max": 2}},
    {"topics": {"distance_max": 0.6}},
    {"topics": {"distance_max": 0.9, "size_max": 3}},
    {"summary": {"method": "extractive", "sentences_max": 2}, "topics": {"distance_max": 0.8}},
    {"contradiction": {"cosine_min": 0.3}},
    {"prescreen": {"low_quality_below": 0.29}},
)


def unbroken(**sections: object) -> DistillationPolicy:
    """A policy whose breaker never trips: a refused plan is due by right, and no promise of a history."""
    return policy(**sections, safety={"mass_change_share_max": 1.0})


@dataclass
class World:
    """A commons, the one who plays its server, owners and operators, and the policy of the day."""

    store: Store
    random: random.Random
    policy: DistillationPolicy = field(default_factory=unbroken)
    removed: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)

    def pick(self, where: str = "true") -> UUID | None:
        """Any item that fulfils a condition; the same one for the same seed."""
        found = rows(
            self.store, f"SELECT id FROM public.knowledge_items WHERE {where} ORDER BY content_hash, id"
        )
        return self.random.choice(found).id if found else None

    def text(self) -> str:
        """A text of a small world, so that duplicates and kin are frequent."""
        frame, subject = self.random.choice(FRAMES), self.random.choice(SUBJECTS)
        return frame.format(subject) + self.random.choice(ENDINGS)

    def is_new(self, text: str) -> bool:
        """Whether the org has no such text yet, expired and deleted rows included."""
        return not rows(
            self.store,
            "SELECT 1 FROM public.knowledge_items WHERE content_hash = :hash",
            hash=content_hash(text),
        )


def contribute(world: World) -> None:
    for _ in range(world.random.randint(1, 6)):
        text = world.text()
        if world.is_new(text):
            insert_item(
                world.store,
                text,
                category=world.random.choice(["general", "general", "config"]),
                quality_score=world.random.choice([0.2, 0.5, 0.9]),
                is_public=world.random.random() < 0.2,
                version=world.random.choice([None, None, "1.0"]),
                tags=world.random.choice([None, {}, {"mine": 1}, ["a"], "x"]),
            )


def edit(world: World) -> None:
    item, text = world.pick(), world.text()
    if item is not None and world.is_new(text):
        set_item(world.store, item, content=text, content_hash=content_hash(text))


def soft_delete(world: World) -> None:
    if (item := world.pick("deleted_at IS NULL")) is not None:
        set_item(world.store, item, deleted_at=datetime.now(UTC))


def undelete(world: World) -> None:
    if (item := world.pick("deleted_at IS NOT NULL")) is not None:
        set_item(world.store, item, deleted_at=None)


def hard_delete(world: World) -> None:
    if (item := world.pick()) is not None:
        world.removed.add(str(item))
        delete_item(world.store, item)


def put_back(world: World) -> None:
    """A removed row comes back under its id, as from the server's backup."""
    if world.removed:
        item = world.random.choice(sorted(world.removed))
        text = world.text()
        if world.is_new(text):
            world.removed.discard(item)
            insert_item(world.store, text, id=UUID(item))


def expire(world: World) -> None:
    if (item := world.pick("expired_at IS NULL")) is not None:
        set_item(world.store, item, expired_at=datetime.now(UTC))


def unexpire(world: World) -> None:
    if (item := world.pick("expired_at IS NOT NULL")) is not None:
        set_item(world.store, item, expired_at=None)


def signal(world: World) -> None:
    kind = world.random.choice(["contradiction", "contradiction", "retrieval", "outcome_solved"])
    if (item := world.pick()) is not None:
        insert_signal(world.store, item, kind)


def count(world: World) -> None:
    if (item := world.pick()) is not None:
        set_item(world.store, item, retrieval_count=world.random.randint(0, 90), helpful_count=3)


def queue(world: World) -> None:
    text = world.text()
    if world.is_new(text):
        insert_pending(world.store, text, confidence=world.random.choice([0.1, 0.9]), tags={"mine": 1})


def approve(world: World) -> None:
    """The server moves a row of the queue, label included, to the items."""
    pending = rows(world.store, "SELECT * FROM public.pending_contributions ORDER BY content_hash, id")
    for row in pending[:2]:
        execute(world.store, "DELETE FROM public.pending_contributions WHERE id = :id", id=row.id)
        if world.is_new(row.content):
            insert_item(world.store, row.content, id=row.id, tags=row.tags)


def change_policy(world: World) -> None:
    world.policy = unbroken(**world.random.choice(POLICIES))


def score(world: World) -> None:
    quality_scores.run(world.store, datetime.now(UTC), world.policy, RunId(uuid4()))


def propagate(world: World) -> None:
    erasure_propagation.run(world.store, datetime.now(UTC), world.policy, RunId(uuid4()), OrgId(ACME))


def run_some_stages(world: World) -> None:
    """A run that ended half way."""
    stages = list(Stage)[: world.random.randint(1, 6)]
    distil(world.store, now=datetime.now(UTC), under=world.policy, stages=stages)


EVENTS: tuple[tuple[int, Callable[[World], None]], ...] = (
    (10, contribute),
    (4, edit),
    (3, soft_delete),
    (3, undelete),
    (2, hard_delete),
    (1, put_back),
    (2, expire),
    (2, unexpire),
    (5, signal),
    (2, count),
    (3, queue),
    (2, approve),
    (4, change_policy),
    (2, score),
    (1, propagate),
    (1, run_some_stages),
)


def live_through(store: Store, seed: int, *, rounds: int) -> None:
    """A history of some rounds; each ends in a run after which all promises are checked."""
    world = World(store, random.Random(seed))
    weights = [weight for weight, _ in EVENTS]
    for _ in range(rounds):
        for _, event in world.random.choices(EVENTS, weights, k=world.random.randint(2, 7)):
            world.log.append(event.__name__)
            event(world)
        world.log.append("distil")
        _distil_and_check(world)


def _distil_and_check(world: World) -> None:
    store, history = world.store, " ".join(world.log[-40:])
    before = public_dump(store)
    distil(store, now=datetime.now(UTC), under=world.policy)
    after = public_dump(store)
    assert forbidden_changes(before, after) == [], history
    with store.read() as conn:
        assert invariants.violations(conn) == (), history
    stamps = ModelStamps.of(services())
    waiting = [
        (org.org_id, stage, number)
        for org in backlog.read(store, world.policy, datetime.now(UTC), stamps).orgs
        for stage, number in org.due.items()
        if number
    ]
    assert waiting == [], history
    own = own_digest(store)
    receipts = distil(store, now=datetime.now(UTC), under=world.policy)
    assert {receipt.applied for receipt in receipts.values()} == {0}, history
    assert without_last_run(public_dump(store)) == without_last_run(after), history
    assert own_digest(store) == own, history


@pytest.mark.parametrize("seed", range(4))
def test_every_run_of_a_random_history_keeps_the_promises_and_converges(store: Store, seed: int) -> None:
    live_through(store, seed, rounds=6)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 160))
def test_every_run_of_a_long_random_history_keeps_the_promises(store: Store, seed: int) -> None:
    live_through(store, seed, rounds=25)
