"""Bad files through the command line: one row's trouble harms one row, a bad file none."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hivemind_pipelines.cli import main
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import execute, insert_item, public_dump, read_item, rows, scalar

MIB = 2**20

Load = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def load(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Load:
    """Loads bytes through the command line; answers with exit code, --json object and standard error."""
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", database_url)
    monkeypatch.setenv("HIVEMIND_HOME", str(tmp_path / "home"))

    def run(content: bytes, *options: str, name: str = "rows.jsonl") -> tuple[int, dict[str, Any], str]:
        file = tmp_path / name
        file.write_bytes(content)
        exit_code = main(["load", str(file), "--json", *options])
        out, err = capsys.readouterr()
        return exit_code, json.loads(out), err

    return run


def test_each_bad_line_is_named_with_its_reason_and_the_rest_load(load: Load, store: Store) -> None:
    good = [b'{"text": "good %d"}' % number for number in range(4)]
    content = b"\n".join(
        [
            good[0],
            b'{"text": "cut o',
            b"[1, 2]",
            b'{"text": "caf\xe9"}',
            good[1],
            b'{"text": "a\\u0000b"}',
            b'{"text": "a\\ud800b"}',
            b'{"text": "x", "category": "wisdom"}',
            b'{"text": "x", "confidence": NaN}',
            b'{"text": "x", "tags": {"k": "\\u0000"}}',
            b'{"text": "x", "org": "' + b"o" * 256 + b'"}',
            good[2],
            b'{"text": "x", "contributed_at": "infinity"}',
            b'{"id": "k1"}',
            b'{"text": "x", "text": "y"}',
            b'{"text": "x", "confidence": 1e400}',
            b'{"text": "x", "tags": ' + b"[" * 100_000,
            b'{"text": "x", "retrieval_count": true}',
            b"",
            good[3],
        ]
    )
    exit_code, answer, err = load(content)
    assert exit_code == 2
    assert (answer["rows"], answer["loaded"], answer["refused"]) == (19, 4, 15)
    refusals = {refusal["line"]: refusal["reason"] for refusal in answer["refusals"]}
    assert sorted(refusals) == [2, 3, 4, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18]
    assert refusals[4] == "not UTF-8 (byte 14 of the line)"
    assert "rows.jsonl:8: unknown category 'wisdom'" in err
    assert [row.content for row in rows(store, "SELECT content FROM public.knowledge_items ORDER BY 1")] == [
        f"good {number}" for number in range(4)
    ]


def test_many_bad_lines_are_named_up_to_a_point_and_counted(load: Load) -> None:
    exit_code, answer, err = load(b"nonsense\n" * 200)
    assert exit_code == 2
    assert len(answer["refusals"]) == 200
    assert err.count("malformed JSON") == 20
    assert "180 more refused rows" in err


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_a_file_without_rows_is_bad_input(load: Load, content: bytes) -> None:
    exit_code, answer, err = load(content)
    assert exit_code == 2
    assert "holds no rows" in answer["error"]
    assert err.count("\n") == 1


def test_a_line_beyond_the_cap_is_skipped_and_its_neighbours_load(load: Load, store: Store) -> None:
    huge = b'{"text": "' + b"x" * (25 * MIB) + b'"}'
    exit_code, answer, _ = load(b'{"text": "before"}\n' + huge + b'\n{"text": "after"}\n' + huge)
    assert exit_code == 2
    assert [refusal["line"] for refusal in answer["refusals"]] == [2, 4]
    assert answer["refusals"][0]["reason"] == "longer than 10 MB"
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items") == 2


def test_a_text_just_below_the_cap_loads(load: Load, store: Store) -> None:
    exit_code, answer, _ = load(json.dumps({"text": "y" * (9 * MIB)}).encode())
    assert (exit_code, answer["loaded"]) == (0, 1)
    assert scalar(store, "SELECT length(content) FROM public.knowledge_items") == 9 * MIB


def test_a_gzip_file_that_was_cut_off_loads_up_to_the_cut(load: Load, store: Store) -> None:
    lines = b"".join(
        b'{"text": "note %d %s"}\n' % (n, bytes(str(hash(n) ** 3), "ascii")) for n in range(5_000)
    )
    packed = gzip.compress(lines, mtime=0)
    exit_code, answer, err = load(packed[: len(packed) // 2], name="rows.jsonl.gz")
    assert exit_code == 2
    assert 0 < answer["loaded"] < 5_000
    assert answer["refused"] == 1
    assert "damaged or cut off" in err
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items") == answer["loaded"]


def test_a_damaged_gzip_file_is_reported_not_raised(load: Load) -> None:
    packed = bytearray(gzip.compress(b'{"text": "a"}\n' * 1_000, mtime=0))
    packed[len(packed) // 2] ^= 0xFF
    exit_code, _, err = load(bytes(packed), name="rows.jsonl.gz")
    assert exit_code == 2
    assert "damaged or cut off" in err


@pytest.mark.parametrize("content", [bytes(range(256)) * 40, b"\x1f\x8b" + b"junk" * 50, b"PK\x03\x04" * 100])
def test_files_of_other_kinds_store_nothing(load: Load, store: Store, content: bytes) -> None:
    exit_code, _, _ = load(content)
    assert exit_code == 2
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items") == 0


def test_utf16_is_refused_line_by_line(load: Load) -> None:
    exit_code, answer, _ = load('{"text": "a"}\n{"text": "b"}\n'.encode("utf-16"))
    assert exit_code == 2
    assert answer["loaded"] == 0


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(load: Load) -> None:
    exit_code, answer, _ = load(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert (exit_code, answer["loaded"]) == (0, 2)


@pytest.mark.parametrize(("name", "said"), [("missing.jsonl", "No such file"), ("", "Is a directory")])
def test_what_is_no_file_is_one_clear_line(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert main(["load", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_org_ids_of_any_printable_shape_keep_their_rows_apart(load: Load, store: Store) -> None:
    orgs = [
        "o'brien",
        'say "hi"',
        "two words",
        "'; DROP TABLE knowledge_items; --",
        "%s %(x)s :x",
        "x" * 255,
        "組織",
    ]
    content = "\n".join(json.dumps({"text": "same", "org": org}) for org in orgs).encode()
    exit_code, answer, _ = load(content)
    assert exit_code == 0
    assert answer["loaded_by_org"] == dict.fromkeys(sorted(orgs), 1)
    stored = rows(store, "SELECT org_id FROM public.knowledge_items")
    assert {row.org_id for row in stored} == set(orgs)


@pytest.mark.parametrize("org", ["", " ", "x" * 256, "a\nb", "a\udcffb", "..."])
def test_an_org_on_the_command_line_that_cannot_be_one_is_bad_usage(load: Load, org: str) -> None:
    exit_code, answer, _ = load(b'{"text": "a"}', "--org", org)
    assert exit_code == 2
    assert answer["error"].startswith("--org ")


def test_tags_of_every_json_shape_are_stored_as_they_are(load: Load, store: Store) -> None:
    shapes = [{"a": {"b": [1, None, "x"]}}, [1, "two"], "text", 7, 1.5, True, [], {}, {"k": 10**300}]
    content = "\n".join(json.dumps({"text": f"t{n}", "tags": tags}) for n, tags in enumerate(shapes)).encode()
    assert load(content)[0] == 0
    stored = rows(store, "SELECT tags FROM public.knowledge_items ORDER BY content")
    assert [row.tags for row in stored] == shapes


def test_an_id_of_a_stored_item_cannot_be_taken_over(load: Load, store: Store) -> None:
    item_id = insert_item(store, "theirs", "other org")
    before = public_dump(store)
    exit_code, answer, _ = load(json.dumps({"text": "mine", "id": str(item_id)}).encode())
    assert exit_code == 2
    assert answer["refusals"] == [{"line": 1, "reason": "its id names another text already"}]
    assert public_dump(store) == before


def test_ten_thousand_rows_that_differ_only_in_case_and_space_load(load: Load) -> None:
    content = b"\n".join(b'{"text": "Use%s-r"}' % (b" " * (n + 1)) for n in range(10_000))
    exit_code, answer, _ = load(content)
    assert (exit_code, answer["loaded"]) == (0, 10_000)


def test_no_message_quotes_the_text_of_a_row(load: Load, store: Store) -> None:
    secret = "hunter2-is-the-password"
    item_id = insert_item(store, "theirs")
    execute(
        store,
        "ALTER TABLE public.knowledge_items ADD CONSTRAINT house_rule CHECK (content NOT LIKE '%taboo%')",
    )
    records = [
        {"text": f"{secret} taboo"},
        {"text": secret, "id": str(item_id)},
        {"text": f"{secret}\x00"},
        {"text": secret, "confidence": secret},
        {"text": secret, "tags": {secret: float("inf")}},
        {"text": secret, "contributed_at": secret},
    ]
    content = "\n".join(json.dumps(record) for record in records).encode() + f'\n{{"text": "{secret}'.encode()
    exit_code, answer, err = load(content)
    assert exit_code == 2
    assert answer["refused"] == 7
    assert secret not in err
    assert secret not in json.dumps(answer)


def test_a_row_that_is_there_already_keeps_its_values(load: Load, store: Store) -> None:
    item_id = insert_item(store, "kept", confidence=0.9)
    assert load(b'{"text": "kept", "confidence": 0.1}', "--org", "acme")[0] == 0
    assert read_item(store, item_id)["confidence"] == 0.9
