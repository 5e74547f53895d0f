"""Twins: what is denied, what is repeated, what is left alone, and that the order of the pairs does not matter."""

import pytest

from hivemind_pipelines.evaluation.labelled import ContrastedPair
from hivemind_pipelines.evaluation.twins import deny, repeat, twins


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("The gateway enables HTTP/2.", {"The gateway disables HTTP/2."}),
        ("The image is signed by the pipeline.", {
            "The image is unsigned by the pipeline.", "The image is not signed by the pipeline.",
        }),
        ("Passwords of guests are not kept.", {
            "Passwords of guests are kept.", "Passwords of guests are not dropped.",
        }),
    ],
)  # fmt: skip
def test_a_text_is_denied_in_one_place(text: str, others: set[str]) -> None:
    assert deny(text) in others


def test_a_number_is_denied_but_no_release_and_no_part_of_a_name() -> None:
    denied = deny("Each worker retries a job 3 times.")
    assert denied is not None
    assert denied != "Each worker retries a job 3 times."
    assert denied.startswith("Each worker retries a job ")
    assert deny("Python 3 ships asyncio.") is None
    assert deny("Look at v1.2.3 of eu-west-1 at 02:30.") is None


def test_a_condition_is_not_turned() -> None:
    assert deny("Nothing happens unless the flag is enabled.") is None


def test_a_word_is_repeated_by_its_synonym() -> None:
    other = repeat("Nobody but the owner can delete a workspace.")
    assert other is not None
    assert other != "Nobody but the owner can delete a workspace."
    assert repeat("zzz") is None


def test_twins_know_their_labels_and_no_order() -> None:
    pairs = [
        ContrastedPair("", f"The job of team {name} runs {count} times a day.",
                       f"Team {name} has its job run {count} times daily.", "duplicate")
        for count, name in enumerate(("Ada", "Bob", "Cem", "Dan", "Eve", "Fay"), start=2)
    ]  # fmt: skip
    made = twins(pairs)
    assert {pair.label for pair in made} <= {"contradiction", "duplicate"}
    assert sum(pair.label == "contradiction" for pair in made) >= len(pairs)
    assert twins(pairs[::-1]) == made
    assert twins([]) == ()
