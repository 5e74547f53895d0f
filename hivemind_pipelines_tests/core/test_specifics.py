import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.specifics import Specific, ground, specifics


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Run `git push --force` twice.", {("code", "git push --force")}),
        ("See https://example.org/a?b=1.", {("url", "https://example.org/a?b=1")}),
        ("Edit /etc/hosts and ~/.bashrc, then src/app.py.", {
            ("path", "/etc/hosts"), ("path", "~/.bashrc"), ("path", "src/app.py"),
        }),
        ("Pass --no-cache, or -r.", {("flag", "--no-cache"), ("flag", "-r")}),
        ("Use --jobs=4 here", {("flag", "--jobs"), ("number", "4")}),
        ("It needs v3.11.2 or 2.0.", {("version", "3.11.2"), ("number", "2.0")}),
        ("Wait 30 seconds, at most 1,000 ms.", {("number", "30 s"), ("number", "1000 ms")}),
        ("Wait 30s or 5-10 min", {("number", "30 s"), ("number", "5"), ("number", "10")}),
        ("Retry three times", {("number", "3")}),
        ("Set MAX_SIZE and maxSize in pkg.mod via foo() for E501", {
            ("identifier", "MAX_SIZE"), ("identifier", "maxSize"), ("identifier", "pkg.mod"),
            ("identifier", "foo"), ("identifier", "E501"),
        }),
        ("The APIs of Redis and or/and", {("identifier", "API"), ("name", "Redis")}),
        ("Redis is fast. Caching helps, e.g. here.", set()),
        ("A plain sentence, without any detail.", set()),
    ],
)  # fmt: skip
def test_what_counts_as_specific(text: str, expected: set[tuple[str, str]]) -> None:
    assert {(found.kind, found.text) for found in specifics(text)} == expected


@pytest.mark.parametrize(
    ("draft", "source"),
    [
        ("wait 30 s", "a timeout of 30 seconds"),
        ("wait 1000 ms", "1,000ms"),
        ("two retries", "it retries 2 times"),
        ("2 retries", "it retries twice, two times"),
        ("needs 3.11", "python>=3.11"),
        ("set `foo_bar`", "the foo_bar option"),
        ("the HTTP header", "an http header"),
        ("with Redis", "uses redis-server"),
        ("run `a  b`", "```\na\n  b\n```"),
        ("pass -r", "grep -r foo"),
    ],
)
def test_a_specific_is_found_in_other_words(draft: str, source: str) -> None:
    place = ground((source,))
    assert all(place.holds(found) for found in specifics(draft))


@pytest.mark.parametrize(
    ("draft", "source"),
    [
        ("wait 30 s", "wait 30 ms"),
        ("wait 3 s", "wait 30 s"),
        ("needs 3.1", "needs 3.11"),
        ("pass -R", "pass -r"),
        ("pass -r", "pass --recursive"),
        ("pass --force", "pass --force-with-lease"),
        ("open /etc/host", "open /etc/hosts"),
        ("set `foo_bar`", "set foo_bars"),
        ("code E501", "code E502"),
        ("value -1", "value 1"),
        ("see https://a.example/x", "see https://a.example/y"),
        ("with Redis", "with Memcached"),
    ],
)
def test_a_changed_specific_is_not_found(draft: str, source: str) -> None:
    place = ground((source,))
    assert not all(place.holds(found) for found in specifics(draft))


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    place = ground((text,))
    assert all(isinstance(place.holds(found), bool) for found in specifics(text))
    assert not place.holds(Specific("flag", "--surely-not-there"))
