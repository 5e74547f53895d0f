"""The command line as other programs call it: exit codes, one JSON object, one clear line."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hivemind_pipelines import cli
from hivemind_pipelines.cli import main
from hivemind_pipelines.core.model import Category, Stage
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    execute,
    insert_item,
    insert_items,
    insert_pending,
    public_dump,
    rows,
    scalar,
)

ARCHIVE = "Use `tar -x` to extract an archive."

Run = Callable[..., tuple[int, str, str]]
RunJson = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HIVEMIND_", "DAGSTER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HIVEMIND_HOME", str(tmp_path / "home"))


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the test's database; answers with exit code, standard output and error."""
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", database_url)

    def call(*words: str) -> tuple[int, str, str]:
        exit_code = main(words)
        out, err = capsys.readouterr()
        return exit_code, out, err

    return call


@pytest.fixture
def run_json(run: Run) -> RunJson:
    """Runs a command with --json; answers with exit code and the one object on standard output."""

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        exit_code, out, _ = run(*words, "--json")
        answer = json.loads(out)
        assert isinstance(answer, dict)
        return exit_code, answer

    return call


def program(*words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "hivemind_pipelines.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_help_names_every_command_and_answers_at_once() -> None:
    started = time.monotonic()
    done = program("--help")
    assert time.monotonic() - started < 5
    assert done.returncode == 0
    for command in ("demo", "dev", "migrate", "load", "distill", "status", "policy"):
        assert re.search(rf"^ +{command} ", done.stdout, re.MULTILINE)


def test_parsing_the_words_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hivemind_pipelines.cli import main\n"
        "try: main(['distill', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pydantic', 'sqlalchemy', 'dagster', 'rich', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_status_and_load_do_without_dagster_and_models() -> None:
    code = (
        "import sys; import hivemind_pipelines.commands\n"
        "names = ('dagster', 'spacy', 'presidio_analyzer', 'onnxruntime', 'anthropic', 'pandas', 'matplotlib')\n"
        "heavy = {name for name in names if name in sys.modules}\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_the_packages() -> None:
    assert re.fullmatch(r"hivemind-pipelines \d+\.\d+\.\d+\n", program("--version").stdout)


def test_help_lists_the_stages_and_categories_there_are() -> None:
    assert tuple(Stage) == cli.STAGES
    assert tuple(Category) == cli.CATEGORIES


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("polish",),
        ("load",),
        ("load", "a.jsonl", "--nonsense"),
        ("load", "a.jsonl", "--unknown-category", "wisdom"),
        ("distill", "--stage"),
        ("distill", "--dry"),
        ("distill", "--stage", "polishing"),
        ("dev", "--port", "0"),
        ("dev", "--port", "port"),
        ("policy",),
        ("policy", "diff"),
        ("status", "extra"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("hivemind-pipelines: ")


def test_bad_usage_with_json_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "--json"]) == 2
    out, err = capsys.readouterr()
    assert "FILE" in json.loads(out)["error"]
    assert err.count("\n") == 1


def test_migrate_creates_once_and_then_says_there_is_nothing_to_do(
    empty_database_url: str, run_json: RunJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", empty_database_url)
    exit_code, first = run_json("migrate")
    assert exit_code == 0
    assert first["changed"]
    assert "knowledge_items" in first["tables"]
    assert run_json("migrate") == (
        0,
        {**first, "changed": False, "tables": [], "indexes": [], "revisions": []},
    )


def test_migrate_tells_a_person_what_it_created(
    empty_database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", empty_database_url)
    assert "tables created: deployment_config, knowledge_items" in run("migrate")[1]
    assert run("migrate") == (0, "the database was up to date: nothing was changed\n", "")


@pytest.mark.parametrize("words", [("status",), ("distill",)])
def test_a_database_without_our_tables_is_a_failure_that_names_the_way_out(
    empty_database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", empty_database_url)
    exit_code, out, err = run(*words)
    assert (exit_code, out, err.count("\n")) == (1, "", 1)
    assert "hivemind-pipelines migrate" in err


def test_an_unreachable_database_is_one_line_without_the_password(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", "postgresql+asyncpg://me:pa55word@127.0.0.1:9/x")
    exit_code, out, err = run("status")
    assert (exit_code, out, err.count("\n")) == (1, "", 1)
    assert "127.0.0.1:9" in err
    assert "pa55word" not in err


def test_refused_settings_are_bad_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEMIND_DISTILLATION_VOLUME_THRESHOLD", "many")
    exit_code, _, err = run("status")
    assert (exit_code, err.count("\n")) == (2, 1)
    assert "HIVEMIND_DISTILLATION_VOLUME_THRESHOLD" in err


def test_load_tells_a_person_what_became_of_the_rows(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n{"text": "a"}\n{"text": "b", "org": "acme"}\nnonsense\n')
    exit_code, out, err = run("load", str(file))
    assert exit_code == 2
    assert "2 of 4 rows loaded into the commons, 1 were there already, 1 refused" in out
    assert err == f"hivemind-pipelines: {file}:4: malformed JSON: Expecting value (column 1)\n"


def test_load_gives_rows_without_an_org_the_named_one(run: Run, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b", "org": "theirs"}\n')
    assert run("load", str(file), "--org", "mine", "--pending")[0] == 0
    queue = rows(store, "SELECT content, org_id FROM public.pending_contributions ORDER BY content")
    assert [tuple(row) for row in queue] == [("a", "mine"), ("b", "theirs")]


def test_rows_of_foreign_categories_are_refused_with_the_way_out_or_given_one(
    run: Run, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a", "category": "command"}\n')
    exit_code, _, err = run("load", str(file))
    assert exit_code == 2
    assert "--unknown-category" in err
    assert run("load", str(file), "--unknown-category", "tooling")[0] == 0
    assert scalar(store, "SELECT category::text FROM public.knowledge_items") == "tooling"


def test_distill_runs_the_assets_and_a_second_time_changes_nothing(run_json: RunJson, store: Store) -> None:
    insert_items(store, [ARCHIVE, ARCHIVE.replace(".", "!"), "Pin the version of the base image."])
    insert_item(store, ARCHIVE, 'it\'s "another" org')
    exit_code, first = run_json("distill")
    assert exit_code == 0
    assert not first["nothing_due"]
    assert (first["failures"], first["failed_checks"]) == ([], [])
    assert set(first["orgs"]) == {"acme", 'it\'s "another" org'}
    assert tuple(first["orgs"]["acme"]) == tuple(Stage)
    assert first["orgs"]["acme"]["duplicate_merges"]["merged"] == 1
    assert scalar(store, "SELECT count(*) FROM distillation.runs WHERE dagster_run_id IS NOT NULL") == 2

    before = public_dump(store)
    exit_code, second = run_json("distill")
    assert exit_code == 0
    assert second["nothing_due"]
    after = public_dump(store)
    assert {name: after[name] for name in after if name != "deployment_config"} == {
        name: before[name] for name in before if name != "deployment_config"
    }


def test_distill_prints_a_table_of_counts_per_org_and_stage(run: Run, store: Store) -> None:
    insert_pending(store, "A note of little worth.", confidence=0.0)
    exit_code, out, _ = run("distill", "--org", "acme")
    assert exit_code == 0
    assert re.search(r"^acme +prescreened_contributions +applied +1 +1 ", out, re.MULTILINE)
    _, again, _ = run("distill", "--org", "acme")
    assert "nothing was due: nothing was changed" in again


def test_a_dry_run_plans_the_merge_and_changes_no_public_row(run_json: RunJson, store: Store) -> None:
    insert_items(store, [ARCHIVE, ARCHIVE.replace(".", "!")])
    before = public_dump(store)
    exit_code, answer = run_json("distill", "--dry-run")
    assert exit_code == 0
    assert answer["orgs"]["acme"]["duplicate_merges"]["merged"] == 1
    assert public_dump(store) == before
    assert scalar(store, "SELECT count(*) FROM distillation.merges") == 0


def test_one_stage_runs_alone_and_its_run_is_closed(run_json: RunJson, store: Store) -> None:
    insert_item(store, ARCHIVE)
    insert_pending(store, "A note of little worth.", confidence=0.0)
    exit_code, answer = run_json("distill", "--stage", "prescreened_contributions")
    assert exit_code == 0
    assert set(answer["orgs"]["acme"]) == {"prescreened_contributions", "distillation_report"}
    assert scalar(store, "SELECT count(*) FROM distillation.item_features") == 0
    assert scalar(store, "SELECT status FROM distillation.runs WHERE job = 'distillation'") == "finished"


def test_an_unknown_org_is_bad_usage_and_the_known_ones_are_named(run: Run, store: Store) -> None:
    insert_item(store, "a", "acme")
    insert_pending(store, "b", "beta")
    exit_code, _, err = run("distill", "--org", "acme", "--org", "gamma")
    assert exit_code == 2
    assert err == "hivemind-pipelines: unknown org 'gamma'; the known orgs are 'acme', 'beta'\n"


def test_an_empty_commons_has_nothing_to_distil(run: Run) -> None:
    exit_code, out, _ = run("distill")
    assert exit_code == 0
    assert "there is no knowledge yet" in out


def test_a_refused_mass_change_is_a_failure_with_its_numbers_and_can_be_allowed_once(
    run: Run, store: Store
) -> None:
    insert_items(store, [f"Use `tar -x` to extract an archive{'!' * n}" for n in range(60)])
    exit_code, _, err = run("distill")
    assert exit_code == 1
    assert "59 of 60 live items" in err
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NULL") == 60
    assert run("distill", "--allow-mass-change")[0] == 0
    assert scalar(store, "SELECT count(*) FROM public.knowledge_items WHERE expired_at IS NULL") == 1
    assert scalar(store, "SELECT count(*) FROM distillation.runs WHERE allowed <> '[]'") == 1


def test_a_stage_that_breaks_fails_its_org_without_quoting_a_row(run: Run, store: Store) -> None:
    insert_item(store, "hunter2-is-the-password", "broken")
    insert_item(store, ARCHIVE, "sound")
    execute(
        store,
        "ALTER TABLE distillation.item_features ADD CONSTRAINT house_rule CHECK (org_id <> 'broken')",
    )
    exit_code, out, err = run("distill")
    assert exit_code == 1
    assert "org 'broken': item_features failed" in err
    assert "hunter2" not in err + out
    assert re.search(r"^sound +distillation_report +applied", out, re.MULTILINE)


def test_an_org_that_dagster_takes_for_no_partition_is_distilled_all_the_same(
    run_json: RunJson, store: Store
) -> None:
    insert_item(store, ARCHIVE, "tab\there")
    exit_code, answer = run_json("distill")
    assert exit_code == 0
    assert answer["orgs"]["tab\there"]["item_features"]["items"] == 1


def test_status_counts_by_org(run: Run, run_json: RunJson, store: Store) -> None:
    insert_items(store, ["a", "b"])
    insert_pending(store, "c", "\x1b[31mred\x1b[0m")
    exit_code, answer = run_json("status")
    assert exit_code == 0
    assert answer["orgs"]["acme"]["live"] == 2
    assert answer["orgs"]["acme"]["due"]["item_features"] == 2
    assert answer["gate"] == {
        "pending_count": 1,
        "conflict_count": 0,
        "volume_threshold": 50,
        "conflict_threshold": 5,
        "open": False,
    }
    _, out, _ = run("status")
    assert "\x1b" not in out
    assert re.search(r"^acme +2 +0 +0 +0 +item_features 2 ", out, re.MULTILINE)


def test_policy_show_prints_what_a_policy_file_takes(run: Run, tmp_path: Path) -> None:
    shown = run("policy", "show")[1]
    file = tmp_path / "policy.yaml"
    file.write_text(shown)
    assert run("policy", "diff", str(file))[1] == "the policies are equal\n"


def test_policy_diff_names_paths_and_what_becomes_stale(run_json: RunJson, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("matching: {duplicate_min: 0.99}\ngate: {volume_threshold: 7}\n")
    exit_code, answer = run_json("policy", "diff", str(file))
    assert exit_code == 0
    assert [change["path"] for change in answer["changes"]] == [
        "gate.volume_threshold",
        "matching.duplicate_min",
    ]
    assert answer["stale_sections"] == ["matching"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("matching: {duplicat_min: 0.9}", "matching.duplicat_min"),
        ("matching: {duplicate_min: 7}", "matching.duplicate_min"),
        ("- a\n- b", "policy"),
        ("a: [", "YAML"),
    ],
)
def test_a_policy_that_is_refused_is_bad_input_with_the_path(
    run: Run, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(content)
    exit_code, out, err = run("policy", "validate", str(file))
    assert (exit_code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_valid_policy_is_said_to_be_one(run_json: RunJson, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("summary: {method: extractive}\n")
    exit_code, answer = run_json("policy", "validate", str(file))
    assert (exit_code, answer["valid"]) == (0, True)
    assert set(answer["fingerprints"]) == {"matching", "contradiction", "summary", "pii", "quality"}


def test_an_unexpected_error_shows_its_kind_but_not_its_message() -> None:
    code = (
        "import sys; from hivemind_pipelines import cli, commands\n"
        "def broken(arguments): raise LookupError('hunter2-is-the-password')\n"
        "commands.status = broken\n"
        "sys.argv = ['hivemind-pipelines', 'status', *sys.argv[1:]]\n"
        "sys.exit(cli.main())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "internal error: LookupError" in done.stderr
    assert json.loads(done.stdout)["error"].startswith("internal error: LookupError")
    assert "hunter2" not in done.stderr + done.stdout
    debugged = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "hivemind_pipelines.cli", "policy", "show"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
    assert "Traceback" not in complaint
    assert "Exception ignored" not in complaint


def test_ctrl_c_ends_a_command_with_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from hivemind_pipelines import commands

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "status", interrupted)
    assert main(["status"]) == 130


def test_json_stays_alone_on_standard_output_when_a_library_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hivemind_pipelines import commands

    def chatty(_: object) -> commands.Answer:
        print("loading a model ...")
        return commands.Answer({"done": True}, lambda _: None)

    monkeypatch.setattr(commands, "status", chatty)
    assert main(["status", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"done": True}
    assert "loading a model" in err
