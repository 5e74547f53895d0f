"""Settings: environment over file over defaults, absurd values refused, secrets never shown."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hivemind_pipelines.core.policy import DistillationPolicy, PolicyError
from hivemind_pipelines.settings import Settings, SettingsError, load, load_policy

SECRET = "kept-from-all-output"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that says nothing but where the home is."""
    for name in list(os.environ):
        if name.upper().startswith("HIVEMIND_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    monkeypatch.setenv("HIVEMIND_HOME", str(home))
    return home


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_nothing_set_means_the_embedded_server_and_no_model() -> None:
    settings = load()
    assert settings.database_url is None
    assert settings.anthropic_api_key is None
    assert settings.automation is False
    assert load_policy(settings) == DistillationPolicy()


def test_the_home_is_below_the_current_directory_and_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HIVEMIND_HOME")
    assert load().home == tmp_path / ".hivemind"


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "settings.yaml", "llm_model: of-the-file\ndatabase_url: postgresql://file/db\n")
    monkeypatch.setenv("HIVEMIND_LLM_MODEL", "of-the-environment")
    settings = load()
    assert settings.llm_model == "of-the-environment"
    assert settings.database_url == "postgresql://file/db"
    assert settings.anthropic_base_url is None


@pytest.mark.parametrize("blank", ["", "   "])
def test_a_blank_variable_counts_as_unset(home: Path, monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    write(home / "settings.yaml", "llm_model: of-the-file\nanthropic_api_key: ''\n")
    for name in (
        "LLM_MODEL",
        "ANTHROPIC_API_KEY",
        "DATABASE_URL",
        "AUTOMATION",
        "RECEIPT_KEY",
        "SETTINGS_FILE",
    ):
        monkeypatch.setenv(f"HIVEMIND_{name}", blank)
    monkeypatch.setenv("HIVEMIND_DISTILLATION_VOLUME_THRESHOLD", blank)
    settings = load()
    assert settings.llm_model == "of-the-file"
    assert settings.anthropic_api_key is None
    assert settings.database_url is None
    assert settings.distillation_volume_threshold is None


@pytest.mark.parametrize(
    ("said", "meant"), [("on", True), ("off", False), ("1", True), ("no", False), ("ON", True)]
)
def test_automation_is_on_or_off(monkeypatch: pytest.MonkeyPatch, said: str, meant: bool) -> None:
    monkeypatch.setenv("HIVEMIND_AUTOMATION", said)
    assert load().automation is meant


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HIVEMIND_DISTILLATION_VOLUME_THRESHOLD", "0"),
        ("HIVEMIND_DISTILLATION_VOLUME_THRESHOLD", "many"),
        ("HIVEMIND_DISTILLATION_VOLUME_THRESHOLD", "1e400"),
        ("HIVEMIND_DISTILLATION_CONFLICT_THRESHOLD", "-3"),
        ("HIVEMIND_DISTILLATION_CONFLICT_THRESHOLD", "2.5"),
        ("HIVEMIND_AUTOMATION", "perhaps"),
        ("HIVEMIND_RECEIPT_KEY", "short"),
    ],
)
def test_an_absurd_value_is_refused_in_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load()
    assert str(refused.value).startswith(f"{variable}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("named", ["nowhere", "file.txt", "."])
def test_a_model_that_cannot_be_loaded_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    write(tmp_path / "file.txt", "no model")
    monkeypatch.setattr("hivemind_pipelines.settings.find_spec", lambda _: None)
    monkeypatch.setenv("HIVEMIND_GLINER_MODEL", named)
    with pytest.raises(SettingsError) as refused:
        load()
    reason = "the library gliner is not installed" if named == "." else "not a directory"
    assert str(refused.value) == f"HIVEMIND_GLINER_MODEL: {reason}"


def test_an_unknown_key_of_the_file_is_refused(home: Path) -> None:
    file = write(home / "settings.yaml", f"databse_url: {SECRET}\n")
    with pytest.raises(SettingsError) as refused:
        load()
    assert str(refused.value) == f"{file}: databse_url: no such setting"


def test_another_program_s_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEMIND_SERVER_PORT", "8000")
    load()


def test_a_named_settings_file_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEMIND_SETTINGS_FILE", "absent.yaml")
    with pytest.raises(SettingsError, match=r"^cannot read .*/absent\.yaml: No such file or directory$"):
        load()


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIVEMIND_HOME")
    file = write(tmp_path / "etc" / "hivemind.yaml", "home: ../state\npolicy_file: policy.yaml\n")
    monkeypatch.setenv("HIVEMIND_SETTINGS_FILE", str(file))
    settings = load()
    assert settings.home == tmp_path / "state"
    assert settings.policy_file == tmp_path / "etc" / "policy.yaml"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"a: [{SECRET}", "not valid YAML at line 1, column"),
        (f"- {SECRET}", "expected a mapping of settings"),
        (f"1: {SECRET}", "expected a mapping of settings"),
        (f"!!python/name:os.{SECRET} x", "not valid YAML at line 1, column 1"),
        ("[" * 100_000, "not valid YAML"),
        (f"llm_model: {SECRET}\x07", "not valid YAML"),
    ],
)
def test_a_broken_settings_file_is_one_line_without_its_content(home: Path, text: str, reason: str) -> None:
    file = write(home / "settings.yaml", text)
    with pytest.raises(SettingsError) as refused:
        load()
    assert str(refused.value).startswith(f"{file}: {reason}")
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_settings_file_in_another_encoding_is_one_line(home: Path) -> None:
    file = write(home / "settings.yaml", "")
    file.write_bytes(b"llm_model: caf\xe9\n")
    with pytest.raises(SettingsError, match=r"not UTF-8 at byte 14$"):
        load()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().automation = True  # type: ignore[misc]


def test_settings_made_in_a_program_do_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEMIND_LLM_MODEL", "of-the-environment")
    assert Settings().llm_model != "of-the-environment"


def test_no_secret_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "HIVEMIND_DATABASE_URL", f"postgresql+asyncpg://me:{SECRET}@db/hive?sslpassword={SECRET}"
    )
    monkeypatch.setenv("HIVEMIND_DAGSTER_DATABASE_URL", f"postgresql://me:{SECRET}@[db/broken")
    monkeypatch.setenv("HIVEMIND_ANTHROPIC_API_KEY", SECRET)
    monkeypatch.setenv("HIVEMIND_RECEIPT_KEY", SECRET)
    settings = load()
    shown = settings.redacted()
    assert settings.receipt_key == SECRET.encode()
    assert settings.anthropic_api_key is not None
    assert settings.anthropic_api_key.get_secret_value() == SECRET
    assert shown["database_url"] == "postgresql+asyncpg://me:***@db/hive?sslpassword=***"
    assert shown["dagster_database_url"] == "***"
    assert SECRET not in f"{settings!r} {settings} {shown}"


def test_the_receipt_key_lasts_and_is_its_owner_s_alone(home: Path) -> None:
    key = load().receipt_key
    assert len(bytes.fromhex(key.decode())) == 32
    assert load().receipt_key == key
    assert stat.S_IMODE((home / "receipt.key").stat().st_mode) == 0o600
    assert os.listdir(home) == ["receipt.key"]


def test_a_saved_receipt_key_can_be_given_as_the_variable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = load().receipt_key
    monkeypatch.setenv("HIVEMIND_RECEIPT_KEY", (home / "receipt.key").read_text())
    (home / "receipt.key").unlink()
    assert load().receipt_key == key


def test_a_damaged_receipt_key_is_refused_and_kept(home: Path) -> None:
    file = write(home / "receipt.key", "cut")
    with pytest.raises(SettingsError, match=r"receipt\.key is damaged"):
        load()
    assert file.read_text() == "cut"


def test_a_home_that_cannot_be_made_is_one_line(home: Path) -> None:
    home.write_text("a file")
    with pytest.raises(SettingsError, match=r"receipt\.key: .*; set HIVEMIND_RECEIPT_KEY") as refused:
        load()
    assert "\n" not in str(refused.value)


def test_processes_that_make_the_receipt_key_at_once_agree() -> None:
    command = [
        sys.executable,
        "-c",
        "from hivemind_pipelines.settings import load; print(load().receipt_key)",
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    assert len({process.communicate()[0] for process in processes}) == 1


def test_the_policy_file_is_over_the_defaults_and_the_environment_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "gate: {volume_threshold: 7, conflict_threshold: 8}\norgs: {big: {gate: {volume_threshold: 9}}}\n"
    monkeypatch.setenv("HIVEMIND_POLICY_FILE", str(write(tmp_path / "policy.yaml", text)))
    monkeypatch.setenv("HIVEMIND_DISTILLATION_VOLUME_THRESHOLD", "3")
    policy = load_policy(load())
    assert (policy.gate.volume_threshold, policy.gate.conflict_threshold) == (3, 8)
    assert policy.for_org("big").gate.volume_threshold == 3


def test_an_empty_policy_file_is_the_shipped_policy(tmp_path: Path) -> None:
    assert (
        load_policy(Settings(policy_file=write(tmp_path / "policy.yaml", "# nothing\n")))
        == DistillationPolicy()
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"gate: {{{SECRET}: [", "not valid YAML at line 1, column"),
        (f"- {SECRET}", "expected a mapping of sections"),
        ("gate: {volume_treshold: 3}", "gate.volume_treshold: unknown key"),
        ("gate: {volume_threshold: 0}", "gate.volume_threshold: "),
    ],
)
def test_a_broken_policy_file_is_one_line_without_its_content(tmp_path: Path, text: str, reason: str) -> None:
    file = write(tmp_path / "policy.yaml", text)
    with pytest.raises(PolicyError) as refused:
        load_policy(Settings(policy_file=file))
    assert str(refused.value).startswith(f"{file}: {reason}")
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_missing_policy_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"^cannot read .*/absent\.yaml: No such file or directory$"):
        load_policy(Settings(policy_file=tmp_path / "absent.yaml"))
