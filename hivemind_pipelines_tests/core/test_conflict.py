"""Conflict rules: each way in which two claims part, what only looks like it, and what spans point at."""

import json
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core import conflict
from hivemind_pipelines.core.conflict import Conflict
from hivemind_pipelines.core.model import Scope

PACKAGED = files("hivemind_pipelines.evaluation")


def said(text: str, spans: tuple[tuple[int, int], ...]) -> list[str]:
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("Enable HTTP/2 for internal traffic.", "Disable HTTP/2 for internal traffic.", "opposite:switch"),
        (
            "A session expires after 15 minutes of inactivity.",
            "A session expires after 2 hours of inactivity.",
            "number:time",
        ),
        ("The worker retries a job 3 times.", "The worker retries a job 5 times.", "number:count"),
        (
            "Run the migration before the rollout.",
            "Run the migration after the rollout.",
            "order",
        ),
        (
            "Prefer composition over inheritance.",
            "Prefer inheritance over composition.",
            "order",
        ),
        ("Set `pool_size=10` on the primary.", "Set `pool_size=25` on the primary.", "assignment"),
        ("The cache survives a restart.", "The cache does not survive a restart.", "opposite:keep"),
        ("At least two people approve a change.", "At most two people approve a change.", "bound"),
        ("Only admins can create API keys.", "Every user can create API keys.", "opposite:breadth"),
        ("Images are kept for a year in the CDN.", "Images are kept for 24 hours in the CDN.", "number:time"),
        ("SOAP is supported until June 2026.", "SOAP is supported until 2028.", "number:date"),
        ("Passwords are hashed with bcrypt.", "Passwords are hashed with scrypt.", "alternative:digest"),
        ("The `users` table is sharded by region.", "The `users` table is sharded by tenant.", "place:by"),
        (
            "The leak was caused by unclosed sockets in the client.",
            "The leak came from a growing cache of the server.",
            "cause",
        ),
        (
            "Compression lowers CPU usage of the proxy.",
            "Compression raises CPU usage of the proxy.",
            "opposite:",
        ),
        ("The job starts at 02:00 UTC.", "The job starts at 6 am UTC.", "number:clock"),
        ("Exports are kept for 30 days.", "Exports are kept forever.", "number:time"),
        ("We deploy on Tuesdays and Thursdays.", "We deploy every day.", "number:schedule"),
        ("The index holds 1.2 million rows.", "The index holds 300,000 rows.", "number:count"),
        ("State is kept in an S3 bucket.", "State lives in the git repository.", "value"),
        ("TLS is terminated by the ingress.", "Every pod terminates TLS.", "value:agent"),
        ("The mode is on for all of the repo.", "The repo is compiled with the mode off.", "opposite:switch"),
        ("Secrets are encoded, not encrypted.", "Secrets are encrypted.", "negation:disclaimed"),
        ("The bundle is minified automatically.", "The bundle is not minified unless you ask.", "negation"),
        ("The queue guarantees the order of tasks.", "Tasks of the queue run in any order.", "opposite:"),
        ("All services share one database.", "Each service owns its own database.", "opposite:"),
        ("Invalid rows are skipped.", "An invalid row aborts the import.", "opposite:"),
        ("The app stores tokens in the keychain.", "Tokens of the app live in plain files.", "value"),
        ("PgBouncer runs in transaction mode.", "PgBouncer runs in session mode.", "value"),
        ("Invoices are rendered with Chromium.", "We render invoices using wkhtmltopdf.", "place"),
        ("Releases are deployed using scripts.", "Releases are deployed via the operator console.", "place"),
    ],
)
def test_claims_that_cannot_both_hold_are_told_with_their_reason(a: str, b: str, reason: str) -> None:
    found = conflict.find(a, b)
    assert found.outcome == "contradiction"
    assert found.reason.startswith(reason)
    assert found.score >= conflict.SCORE_MIN


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The cache lives for 1 hour.", "The cache lives for 60 minutes."),
        ("Swap must be disabled on the nodes.", "Swap must not be enabled on the nodes."),
        ("The token is optional for public repositories.", "Public repositories do not require a token."),
        ("Uploads over 25 MB are refused.", "The largest upload accepted is 25 MB."),
        ("Run migrations before you deploy.", "Deploy only after the migrations have run."),
        ("Never commit the .env file.", "The .env file must not be committed."),
        ("Postgres is slower without the index.", "With the index Postgres is faster."),
        ("Turn swap off on all nodes.", "Swap should be disabled on every node."),
        ("A bucket can only be deleted when it is empty.", "Deleting a bucket requires that it is empty."),
        ("Refunds take half an hour.", "Refunds take 30 minutes."),
        ("The contract ends in 2026.", "The contract ends in June 2026."),
        ("Snapshots are kept for a week.", "Snapshots are deleted after seven days."),
        ("Both are always deployed together.", "One is never deployed without the other."),
        ("The page is hidden unless the flag is on.", "The page shows up with the flag turned on."),
        ("The API returns at most 100 rows.", "The API never returns more than a hundred rows."),
        ("Use variables rather than flags for secrets.", "Secrets go into variables, not into flags."),
        ("Log in `Box`ing order.", "Log in Boxing order."),
        ("Skip the walk for functions without a box.", "Skip the walk for fnctions without a box."),
    ],
)
def test_the_same_in_other_words_is_no_conflict(a: str, b: str) -> None:
    assert conflict.find(a, b, cosine=0.9) == conflict.NONE


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Start the service: `systemctl start nginx`", "Stop the service: `systemctl stop nginx`"),
        ("To show the last 10 lines: tail <file>", "To show the first 10 lines: head <file>"),
        ("List all files, hidden included: ls -a <dir>", "List all files, hidden excluded: ls <dir>"),
        ("The read timeout is 5 seconds.", "The pool size is 10 connections."),
        ("Redis listens on port 6379.", "Postgres listens on port 5432."),
        ("chore: bump the linter from 11.2.6 to 12.0.2", "chore: bump the linter from 12.1.2 to 12.1.3"),
        ("Multiple spaces before a keyword.", "Multiple spaces after an operator."),
        ("Used when a call is redundant.", "Used when a call is not redundant enough."),
        ("Checks for spaces before a comma.", "Checks for spaces after a comma."),
        ("Backups are kept for 30 days.", "Backups are encrypted with a key."),
        ("The pool of the worker has 8 threads.", "The queue of the worker holds 500 jobs."),
        ("JWT access tokens expire after 15 minutes.", "JWT refresh tokens expire after 30 days."),
        ("The job for invoices starts at 02:00.", "The job for reminders starts at 07:00."),
        ("The API returns amounts in cents.", "The API returns dates in ISO format."),
        ("Retry slow uploads at night.", "Retry slow uploads under load."),
        ("Go through the list.", "Go to the list."),
        ("Metrics are shipped with labels.", "Metrics are shipped through the node agent."),
        ("", "Enable HTTP/2."),
        ("```\n\n```", "…"),
    ],
)
def test_different_subjects_and_tasks_are_no_conflict(a: str, b: str) -> None:
    assert conflict.find(a, b).outcome not in ("contradiction", "update", "version_fork")


def test_statements_for_two_versions_are_a_fork() -> None:
    found = conflict.find(
        "In Python 3.11 `utcnow()` works silently.", "In Python 3.12 `utcnow()` is deprecated and warns."
    )
    assert found.outcome == "version_fork"
    assert conflict.find("3.11: tomllib is built in.", "3.10: tomllib is missing.").outcome == "version_fork"


def test_a_version_in_the_scope_columns_makes_a_fork_and_another_language_a_scope() -> None:
    a, b = "The flag is on by default.", "The flag is off by default."
    assert conflict.find(a, b).outcome == "contradiction"
    forked = conflict.find(a, b, scope_a=Scope(version="1"), scope_b=Scope(version="2"))
    scoped = conflict.find(a, b, scope_a=Scope(language="go"), scope_b=Scope(language="rust"))
    assert (forked.outcome, scoped.outcome) == ("version_fork", "both_true_in_scope")


def test_opposite_scopes_may_both_be_true() -> None:
    found = conflict.find("In production the log level is warning.", "In staging the log level is debug.")
    assert found.outcome in ("both_true_in_scope", "none")
    found = conflict.find(
        "Admins are logged out after 10 minutes.", "Guests are logged out after 60 minutes.", cosine=0.8
    )
    assert found.outcome == "both_true_in_scope"


@pytest.mark.parametrize("cosine", [0.3, 0.6, 0.9])
def test_what_is_stored_above_a_lower_floor_is_what_the_policy_would_find(cosine: float) -> None:
    # A fork of little in common, and a contradiction too.
    a = "On Postgres 14 the nightly job of the reports runs before the backup and takes 10 minutes."
    b = "On Postgres 16 reports are written after the backup has finished, by a job that takes 40 minutes in all."
    found, stored = (
        conflict.find(a, b, cosine=cosine, score_min=least) for least in (conflict.SCORE_MIN, 0.3)
    )
    assert stored.outcome == "version_fork"
    assert found == (stored if stored.score >= conflict.SCORE_MIN else conflict.NONE)


def test_what_ceased_to_hold_is_an_update() -> None:
    found = conflict.find("The importer accepts CSV.", "The importer no longer accepts CSV.")
    assert found.outcome == "update"


def test_spans_point_at_what_differs_and_hold_no_text() -> None:
    a, b = "Idle sessions expire after 15 minutes.", "Idle sessions expire after 2 hours."
    found = conflict.find(a, b)
    assert said(a, found.spans_a) == ["15 minutes"]
    assert said(b, found.spans_b) == ["2 hours"]
    assert "sessions" not in repr(found)


def test_a_rule_of_the_other_text_elsewhere_is_no_conflict() -> None:
    a = "Enable the cache for reads. Disable the cache for writes."
    b = "Disable the cache for writes. Enable the cache for reads."
    assert conflict.find(a, b, cosine=0.98) == conflict.NONE


TEXTS = st.text(
    alphabet=st.sampled_from("ab 0123.,:;`'\"\n-=%$<>#\ud800é’İ"), max_size=60
) | st.sampled_from(
    [
        "Use `a=1` before 3.11, not after.", "never, but always: at most 5 MB", "until", "v1 v2 v3", "2024-01-01",
        "unless", "- [ ] a\n- b", "don't", "no more than", "January 5th",
    ]
)  # fmt: skip


@given(a=TEXTS, b=TEXTS)
def test_any_two_texts_are_judged_alike_from_either_side(a: str, b: str) -> None:
    one, other = conflict.find(a, b), conflict.find(b, a)
    assert one.outcome == other.outcome
    assert one.score == pytest.approx(other.score)
    for found, left, right in ((one, a, b), (other, b, a)):
        assert all(0 <= start < end <= len(left) for start, end in found.spans_a)
        assert all(0 <= start < end <= len(right) for start, end in found.spans_b)


@given(text=TEXTS)
def test_no_text_is_in_conflict_with_itself(text: str) -> None:
    assert conflict.find(text, text) == Conflict("none", "none", 0.0)


@pytest.mark.parametrize(
    ("file", "split", "precision_min", "recall_min", "duplicates_max"),
    # Without embeddings; `evaluate contradictions` gives the figures with them. The held-out pairs were not looked
    # at while rules and weights were made: what they lack is told in the README.
    [
        ("conflict_pairs", "dev", 0.91, 0.64, 0.035),
        ("conflict_pairs", "held_out", 0.79, 0.59, 0.1),
        # Far below what is asked: rules read their own author better than others.
        ("foreign_pairs", "held_out", 0.66, 0.36, 0.08),
    ],
)
def test_the_packaged_pairs_stay_as_they_are_judged(
    file: str, split: str, precision_min: float, recall_min: float, duplicates_max: float
) -> None:
    packaged = PACKAGED.joinpath(f"{file}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in packaged.splitlines()]
    rows = [row for row in rows if row["split"] == split]
    flagged = [
        conflict.find(row["text_a"], row["text_b"]).outcome in ("contradiction", "update") for row in rows
    ]
    true = [row["label"] == "contradiction" for row in rows]
    hits = sum(x and y for x, y in zip(flagged, true, strict=True))
    duplicates = [x for x, row in zip(flagged, rows, strict=True) if row["label"] == "duplicate"]
    assert hits / sum(flagged) >= precision_min
    assert hits / sum(true) >= recall_min
    assert sum(duplicates) / len(duplicates) <= duplicates_max
