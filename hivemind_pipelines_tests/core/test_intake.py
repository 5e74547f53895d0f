import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_pipelines.core.intake import (
    DEFAULT_ORG,
    IntakeDefaults,
    IntakeRow,
    RowRefusal,
    org_fault,
    parse_row,
)
from hivemind_pipelines.core.model import Category, OrgId
from hivemind_pipelines.core.text import content_hash

DEFAULTS = IntakeDefaults()
SOME_ID = "0b8f6c1e-5d0a-4a53-9e4c-0a3f1f6a2b11"


def row(**keys: object) -> IntakeRow:
    parsed = parse(**keys)
    assert isinstance(parsed, IntakeRow), parsed
    return parsed


def reason(**keys: object) -> str:
    parsed = parse(**keys)
    assert isinstance(parsed, RowRefusal), parsed
    return parsed.reason


def parse(**keys: object) -> IntakeRow | RowRefusal:
    return parse_row(json.dumps({"text": "use -r to recurse"} | keys).encode(), DEFAULTS)


def line_reason(line: bytes) -> str:
    parsed = parse_row(line, DEFAULTS)
    assert isinstance(parsed, RowRefusal), parsed
    return parsed.reason


def test_a_row_needs_nothing_but_its_text() -> None:
    parsed = row()
    assert parsed.content == "use -r to recurse"
    assert parsed.content_hash == content_hash("use -r to recurse")
    assert (parsed.org_id, parsed.category, parsed.confidence) == (DEFAULT_ORG, Category.GENERAL, 0.8)
    assert (parsed.quality_score, parsed.retrieval_count, parsed.is_public) == (0.5, 0, False)
    assert (parsed.tags, parsed.contributed_at, parsed.framework) == (None, None, None)


def test_every_key_of_the_contract_is_taken() -> None:
    parsed = row(
        id=SOME_ID, org="acme", category="config", confidence=1, source_agent_id="ruff", framework="django",
        language="python", version="5.1", tags={"a": [1]}, contributed_at="2026-01-02T03:04:05+02:00",
        quality_score=0.25, retrieval_count=7, helpful_count=2, not_helpful_count=1, is_public=True,
    )  # fmt: skip
    assert parsed == IntakeRow(
        id=UUID(SOME_ID), org_id=OrgId("acme"), content="use -r to recurse",
        content_hash=content_hash("use -r to recurse"), category=Category.CONFIG, confidence=1.0,
        source_agent_id="ruff", framework="django", language="python", version="5.1", tags={"a": [1]},
        contributed_at=datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC), quality_score=0.25, retrieval_count=7,
        helpful_count=2, not_helpful_count=1, is_public=True,
    )  # fmt: skip


def test_keys_of_labelled_rows_are_ignored() -> None:
    assert row(cluster="c0", op="base", page="common/tar", spans=[[0, 1, "X"]], label=1) == row()


def test_content_is_another_name_for_text_but_not_another_text() -> None:
    line = json.dumps({"content": "use -r to recurse"}).encode()
    assert parse_row(line, DEFAULTS) == row()
    assert row(content="use -r to recurse") == row()
    assert reason(content="something else") == "text and content say different things"


@pytest.mark.parametrize(
    "key", ["org", "category", "confidence", "tags", "contributed_at", "id", "is_public"]
)
def test_null_counts_as_absent(key: str) -> None:
    assert row(**{key: None}) == row()


def test_an_id_that_is_no_uuid_becomes_the_same_uuid_each_time_within_its_org() -> None:
    assert row(id="k00000000").id == row(id="k00000000", text="another").id
    assert row(id="k00000000").id != row(id="k00000000", org="acme").id
    assert row(id=17).id == row(id="17").id


def test_without_an_id_the_id_follows_from_org_and_text() -> None:
    assert row().id == row().id
    assert row().id != row(org="acme").id
    assert row().id != row(text="another").id


def test_the_rows_own_org_comes_before_the_default() -> None:
    defaults = IntakeDefaults(OrgId("acme"))
    named = parse_row(b'{"text": "x", "org": "other"}', defaults)
    unnamed = parse_row(b'{"text": "x"}', defaults)
    assert isinstance(named, IntakeRow)
    assert isinstance(unnamed, IntakeRow)
    assert (named.org_id, unnamed.org_id) == ("other", "acme")


def test_org_id_is_another_name_for_org_so_that_an_export_keeps_its_orgs() -> None:
    assert row(org_id="acme").org_id == "acme"
    assert reason(org="a", org_id="b") == "org and org_id say different things"


@pytest.mark.parametrize(
    "org", ["o'brien; DROP TABLE x", 'say "hi"', "two words", "ünï-çødé 組織", "x" * 255]
)
def test_org_ids_of_any_printable_shape_are_taken(org: str) -> None:
    assert row(org=org).org_id == org


@pytest.mark.parametrize(
    ("org", "fault"),
    [
        ("x" * 256, "org is 256 characters long, more than 255"),
        ("a\nb", "org contains a control character or a lone surrogate"),
        ("a\x00b", "org contains a NUL character"),
        ("a...b", "org contains '...'"),
        (7, "org must be text"),
    ],
)
def test_org_ids_that_cannot_be_stored_or_partitioned_are_refused(org: object, fault: str) -> None:
    assert reason(org=org) == fault


def test_a_blank_org_on_the_command_line_is_a_fault() -> None:
    assert org_fault(" ") == "is empty"
    assert org_fault("acme") is None


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"text": ""}, "text is empty"),
        ({"text": " \n\t"}, "text is empty"),
        ({"text": None}, "text is missing"),
        ({"text": 5}, "text must be text"),
        ({"text": "a\x00b"}, "text contains a NUL character"),
        ({"text": "a\ud800b"}, "text contains a lone surrogate"),
        ({"id": ""}, "id is empty"),
        ({"id": 1.5}, "id must be text"),
        ({"id": True}, "id must be text"),
        ({"id": ["x"]}, "id must be text"),
        ({"category": "wisdom"}, "unknown category 'wisdom'"),
        ({"category": 3}, "unknown category"),
        ({"confidence": float("nan")}, "confidence must be a number from 0 to 1"),
        ({"confidence": float("inf")}, "confidence must be a number from 0 to 1"),
        ({"confidence": 1.01}, "confidence must be a number from 0 to 1"),
        ({"confidence": -0.1}, "confidence must be a number from 0 to 1"),
        ({"confidence": True}, "confidence must be a number from 0 to 1"),
        ({"confidence": "0.8"}, "confidence must be a number from 0 to 1"),
        ({"quality_score": 2}, "quality_score must be a number from 0 to 1"),
        ({"retrieval_count": -1}, "retrieval_count must be a whole number from 0 to 2147483647"),
        ({"retrieval_count": 1.5}, "retrieval_count must be a whole number from 0 to 2147483647"),
        ({"helpful_count": 2**31}, "helpful_count must be a whole number from 0 to 2147483647"),
        ({"helpful_count": True}, "helpful_count must be a whole number from 0 to 2147483647"),
        ({"not_helpful_count": "3"}, "not_helpful_count must be a whole number from 0 to 2147483647"),
        ({"is_public": 1}, "is_public must be true or false"),
        ({"is_public": "yes"}, "is_public must be true or false"),
        ({"framework": "x" * 101}, "framework is 101 characters long, more than 100"),
        ({"language": "x" * 51}, "language is 51 characters long, more than 50"),
        ({"version": 3.11}, "version must be text"),
        ({"source_agent_id": "x" * 256}, "source_agent_id is 256 characters long, more than 255"),
        ({"tags": "\x00"}, "tags contain a NUL character"),
        ({"tags": {"a\x00": 1}}, "tags contain a NUL character"),
        ({"tags": [{"deep": ["\ud800"]}]}, "tags contain a lone surrogate"),
        ({"tags": {"a": float("inf")}}, "tags contain a number that is not finite"),
    ],
)
def test_a_bad_value_is_refused_with_the_field_and_why(keys: dict[str, object], fault: str) -> None:
    assert reason(**keys) == fault


@pytest.mark.parametrize("tags", [{"a": {"b": [1, "x", None]}}, [1, 2], "plain", 7, 0.5, True, [], {}])
def test_tags_of_any_json_shape_are_taken(tags: object) -> None:
    assert row(tags=tags).tags == tags


def test_tags_may_be_deep_but_not_bottomless() -> None:
    shallow = json.loads("[" * 90 + "]" * 90)
    deep = json.loads("[" * 150 + "]" * 150)
    assert row(tags=shallow).tags == shallow
    assert reason(tags=deep) == "tags nest deeper than 100 levels"


def test_bidirectional_text_is_knowledge_like_any_other() -> None:
    assert row(text="\u202eabc\u202c שלום").content == "\u202eabc\u202c שלום"


def test_whole_numbers_that_an_export_wrote_as_floats_are_taken() -> None:
    assert row(retrieval_count=3.0).retrieval_count == 3


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2021-04-14", datetime(2021, 4, 14, tzinfo=UTC)),
        ("2021-04-14T10:00:00", datetime(2021, 4, 14, 10, tzinfo=UTC)),
        ("2021-04-14 10:00:00+00", datetime(2021, 4, 14, 10, tzinfo=UTC)),
        ("2021-04-14T10:00:00Z", datetime(2021, 4, 14, 10, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_utc(written: str, meant: datetime) -> None:
    assert row(contributed_at=written).contributed_at == meant


@pytest.mark.parametrize(
    "written",
    [
        "infinity",
        "-infinity",
        "10000-01-01",
        "9999-12-31T23:59:59-12:00",
        "0001-01-01T00:00:00+14:00",
        "soon",
    ],
)
def test_times_that_no_calendar_of_ours_holds_are_refused(written: str) -> None:
    assert reason(contributed_at=written) == "contributed_at must be an ISO 8601 time in the years 1 to 9999"


def test_unknown_categories_can_be_given_a_known_one() -> None:
    defaults = IntakeDefaults(unknown_category=Category.TOOLING)
    parsed = parse_row(b'{"text": "x", "category": "command"}', defaults)
    assert isinstance(parsed, IntakeRow)
    assert parsed.category is Category.TOOLING


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"text": "x"', "malformed JSON: Expecting ',' delimiter (column 13)"),
        (b'{"text": "x"} {"text": "y"}', "malformed JSON: Extra data (column 15)"),
        (b"[1, 2]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"text": "caf\xe9"}', "not UTF-8 (byte 14 of the line)"),
        (b'{"text": "a", "text": "b"}', "malformed JSON: a key occurs twice in one object"),
        (b'{"text": "a", "tags": {"x": 1, "x": 2}}', "malformed JSON: a key occurs twice in one object"),
        (b'{"text": "a", "confidence": 1e400}', "confidence must be a number from 0 to 1"),
        (b'{"text": "a", "tags": {"n": 1e400}}', "tags contain a number that is not finite"),
        (b'{"text": "a", "confidence": NaN}', "confidence must be a number from 0 to 1"),
        (b'{"text": "a", "tags": ' + b"1" * 5000 + b"}", "malformed JSON: a number is too long"),
        (b'{"text": "a", "x": ' + b"[" * 200_000 + b"}", "malformed JSON: nested too deeply"),
    ],
)
def test_a_line_that_is_no_row_says_what_is_wrong_with_it(line: bytes, fault: str) -> None:
    assert line_reason(line) == fault


def test_a_reason_never_quotes_the_text() -> None:
    secret = "hunter2-is-the-password"
    for keys in (
        {"tags": {secret: "\x00"}},
        {"confidence": secret},
        {"text": secret + "\x00"},
        {"id": [secret]},
    ):
        assert secret not in reason(**keys)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["text", "id", "org", "category", "confidence", "tags", "contributed_at", "retrieval_count", "is_public"]
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, JSON_VALUES))
def test_whatever_json_says_the_answer_is_a_storable_row_or_a_reason(record: dict[str, object]) -> None:
    parsed = parse_row(json.dumps(record).encode(), DEFAULTS)
    if isinstance(parsed, IntakeRow):
        assert parsed.content.strip()
        assert org_fault(parsed.org_id) is None
        assert 0 <= parsed.confidence <= 1
        json.dumps(parsed.tags, allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_bytes_arrive_nothing_is_raised(line: bytes) -> None:
    assert isinstance(parse_row(line, DEFAULTS), IntakeRow | RowRefusal)
