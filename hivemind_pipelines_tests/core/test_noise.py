"""noise: what makes no sense scores high and says why; what people wrote down for others scores low."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.noise import WEIGHTS, gibberish, noise

NOTES = [
    "Set the pool timeout to 30 seconds to avoid stale connections after a database failover.",
    "Use `git rebase --onto main feature~3` to move only the last three commits.",
    "The API returns 429 when more than 100 requests per minute are sent; retry with backoff.",
    "Squash commits before merging so that the history stays readable.",
    "Die Datei wird beim nächsten Start automatisch gelöscht, wenn der Schlüssel fehlt.",
    "Cette commande supprime les fichiers temporaires avant le démarrage du serveur.",
    "重启服务之前先清空缓存，否则旧的配置仍然有效。",
    "kubectl get pods -n kube-system -o wide | grep CrashLoopBackOff",
]
ADVERTISEMENTS = [
    "Congratulations! You have won a $1000 voucher. Call 09061701461 to claim your prize now!!",
    "Buy cheap followers today, 100% safe, visit www.example.com and order now",
    "URGENT: earn money from home, guaranteed income, reply YES, T&C apply",
]


@pytest.mark.parametrize("note", NOTES)
def test_notes_are_hardly_noisy(note: str) -> None:
    assert noise(note).score < 0.3


@pytest.mark.parametrize("text", ADVERTISEMENTS)
def test_advertisements_are_noisy_and_named(text: str) -> None:
    found = noise(text)
    assert found.score > 0.8
    assert found.part("spam") > 0.8


def test_letters_struck_at_random_are_gibberish_and_words_are_not() -> None:
    chance = random.Random(3)
    struck = [
        " ".join("".join(chance.choices(string.ascii_lowercase, k=chance.randint(4, 9))) for _ in range(8))
        for _ in range(50)
    ]
    assert sum(gibberish(text) > 0.9 for text in struck) >= 45
    assert [gibberish(note) for note in NOTES] == [0.0] * len(NOTES)


@pytest.mark.parametrize("text", ["", " \n", "?!", "----", "\u200b"])
def test_a_text_without_a_word_is_nothing_but_noise(text: str) -> None:
    assert (noise(text).score, noise(text).part("empty")) == (1.0, 1.0)


def test_a_text_that_repeats_itself_says_so() -> None:
    assert noise("buy this now " * 30).part("repetition") > 0.9


@given(st.text(max_size=400) | st.text(alphabet="ab !?$1\ud800\x00", max_size=200))
def test_every_part_and_the_score_are_shares(text: str) -> None:
    found = noise(text)
    assert {name for name, _ in found.parts} == set(WEIGHTS)
    assert all(0.0 <= part <= 1.0 for _, part in found.parts)
    assert 0.0 <= found.score <= 1.0
    assert found.score >= max(WEIGHTS[name] * part for name, part in found.parts) - 1e-9


def test_a_long_text_is_read_in_no_time() -> None:
    for text in ("a" * 1_000_000, "call " * 200_000, "1 " * 500_000, "!" * 500_000, "www." * 200_000):
        assert 0.0 <= noise(text).score <= 1.0
