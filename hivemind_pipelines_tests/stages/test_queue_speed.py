"""How long a review queue takes that nobody has read yet, beside the live items of its org."""

import json
import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from hivemind_pipelines.core.model import EMBEDDING_DIMENSION, RunId, Stage, Vectors
from hivemind_pipelines.services.pii import without_persons
from hivemind_pipelines.stages import prescreened_contributions, queue_matching
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store.connection import Store, refresh_statistics
from hivemind_pipelines_tests.builders import ACME, execute, insert_items, insert_pendings, rows
from hivemind_pipelines_tests.fakes import HashEmbedder
from hivemind_pipelines_tests.services.fake_secrets import fake
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy, services


class Remembered:
    """An Embedder that has seen every text before."""

    model_stamp = HashEmbedder.model_stamp

    def __init__(self, texts: Sequence[str]) -> None:
        self._vector_of = dict(zip(texts, HashEmbedder().embed(texts), strict=True))

    def embed(self, texts: Sequence[str], on_progress: object = None) -> Vectors:
        """The vectors that it remembers."""
        none = np.empty((0, EMBEDDING_DIMENSION), dtype=np.float32)
        return np.array([self._vector_of[text] for text in texts]) if texts else none


def sentences() -> list[str]:
    """Sentences of engineers: all that the labelled pairs of the package say."""
    names = ("golden_pairs.jsonl", "conflict_pairs.jsonl")
    shipped = (files("hivemind_pipelines.evaluation").joinpath(name).read_text("utf-8") for name in names)
    pairs = [json.loads(line) for text in shipped for line in text.splitlines() if line.strip()]
    return sorted({text.rstrip(".") for pair in pairs for text in (pair["text_a"], pair["text_b"])})


_LONG_WORD = re.compile(r"\b[a-z]{5,}\b")


def notes(count: int, seed: int) -> list[str]:
    """Different notes of one to four sentences about things of their own, in the words of all."""
    draw, said = random.Random(seed), sentences()
    words = sorted(set(_LONG_WORD.findall(" ".join(said))))
    found: dict[str, None] = {}
    while len(found) < count:
        note = ". ".join(draw.sample(said, draw.randint(1, 4)))
        renamed = _LONG_WORD.sub(
            lambda word: draw.choice(words) if draw.random() < 0.9 else word.group(), note
        )
        found["".join(str(draw.randint(1, 9)) if char.isdigit() else char for char in renamed) + "."] = None
    return list(found)


def contributed(live: Sequence[str], count: int, seed: int) -> list[str]:
    """Pending notes: most are new, some say what a live one says, some hold what must not be there."""
    draw = random.Random(seed)
    found = dict.fromkeys(notes(count, seed + 1))
    for number, note in enumerate(list(found)[: count // 4]):
        del found[note]
        known = draw.choice(live)
        match number % 4:
            case 0:
                found[f"{known.replace('the ', 'a ', 1)} That is confirmed {number} times"] = None
            case 1:
                found[f"{known.lower()} as of build {number}"] = None
            case 2:
                found[f"{note} The key is {fake('ghp_{A:36}', seed=number)}"] = None
            case _:
                found[f"{note} Ask jo{number}@acme-corp.io about it"] = None
    return list(found)


def lay_out(store: Store, *, live: int, pending: int) -> StageContext:
    """An org whose items have features, with a queue that nobody has read."""
    known = notes(live, seed=1)
    queue = contributed(known, pending, seed=2)
    under = policy()
    using = services(embedder=Remembered([*known, *queue]), queue_scanner=without_persons(under.pii))
    insert_items(store, known)
    insert_pendings(store, queue)
    distil(store, using=using, under=under, stages=[Stage.ITEM_FEATURES])
    refresh_statistics(store)
    execute(store, "ANALYZE public.knowledge_items, public.pending_contributions")
    # Rules are read and compiled once in a process.
    using.queue_scanner.findings(["Ask jo@acme-corp.io"])
    return StageContext(store, ACME, RunId(uuid4()), NOW, under, using)


@contextmanager
def timed(store: Store, seconds: dict[str, float], name: str) -> Iterator[None]:
    """Seconds on the clock, and those that this process and the database computed."""
    wall, own, database = time.perf_counter(), time.process_time(), database_s(store)
    yield
    seconds[name] = time.perf_counter() - wall
    seconds[f"{name}, computed"] = time.process_time() - own + database_s(store) - database


def database_s(store: Store) -> float:
    """What the connections of this store have computed; 0 where the system does not say."""
    pids = rows(store, "SELECT pid FROM pg_stat_activity WHERE application_name = 'hivemind-pipelines'")
    files_ = (Path(f"/proc/{row.pid}/stat") for row in pids)
    fields = (path.read_text().rsplit(")", 1)[1].split() for path in files_ if path.exists())
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def test_matching_a_queue_costs_little_more_than_reading_it(store: Store) -> None:
    ctx = lay_out(store, live=600, pending=300)
    seconds: dict[str, float] = {}
    with timed(store, seconds, "read and matched"):
        prescreened_contributions.run(replace(ctx, dry_run=True))
    with timed(store, seconds, "matched"):
        matched = queue_matching.match(ctx)
    assert matched.compared > 300
    reading = seconds["read and matched, computed"] - seconds["matched, computed"]
    assert seconds["matched, computed"] < 5 * reading


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_five_thousand_rows_beside_ten_thousand_items_take_less_than_20_seconds(store: Store) -> None:
    ctx = lay_out(store, live=10_000, pending=5_000)
    seconds: dict[str, float] = {}
    with timed(store, seconds, "first"):
        first = prescreened_contributions.run(ctx)
    with timed(store, seconds, "nothing due"):
        second = prescreened_contributions.run(ctx)
    print(f"{first.screened:,} rows, {first.compared:,} pairs, {first.labels}")
    for name, took in seconds.items():
        print(f"{name}: {took:.1f} s")
    assert (first.screened, second.outcome) == (5_000, "nothing_due")
    assert {"near_duplicate", "secret", "pii"} <= set(first.labels)
    # On one core, whatever else the machine is doing.
    assert seconds["first, computed"] < 20
