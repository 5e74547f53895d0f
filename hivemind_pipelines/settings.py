"""The environment and one optional file, read once into a frozen Settings value."""

import os
import secrets
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from hivemind_pipelines.core.policy import DistillationPolicy, GatePolicy, PolicyError

ENVIRONMENT_PREFIX = "HIVEMIND_"
SETTINGS_FILE_VARIABLE = "HIVEMIND_SETTINGS_FILE"
#: Its successors think unless told otherwise, and what they think counts against `output_tokens_max`.
DEFAULT_LLM_MODEL = "claude-sonnet-4-6"

Threshold = Annotated[int, Field(ge=1, le=1_000_000_000)]


class SettingsError(ValueError):
    """Settings that are refused; one line names each variable, or key of the file, and its reason."""


class Settings(BaseSettings):
    """Where things are and what may be used; the field `x` is the variable `HIVEMIND_X`.

    Programs get theirs from `load`, which adds the settings file and the lasting receipt key.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )

    #: As given, with any driver suffix; None is the embedded server below `home`.
    database_url: str | None = Field(default=None, repr=False)
    dagster_database_url: str | None = Field(default=None, repr=False)
    anthropic_api_key: SecretStr | None = None
    anthropic_base_url: str | None = Field(default=None, repr=False)
    llm_model: str = DEFAULT_LLM_MODEL
    policy_file: Path | None = None
    #: A directory that holds a GLiNER model, asked for names of people beside the shipped one.
    gliner_model: Path | None = None
    #: Absolute; holds the embedded server, the receipt key, reports and Dagster's own files.
    home: Path = Path(".hivemind")
    #: Key of the HMAC that names a version of a text; whoever loses it cannot verify old receipts.
    receipt_key: Annotated[bytes, Field(min_length=8)] = Field(
        default_factory=lambda: secrets.token_hex(32).encode(), repr=False
    )
    automation: bool = False
    distillation_volume_threshold: Threshold | None = None
    distillation_conflict_threshold: Threshold | None = None

    @field_validator("home", "policy_file", "gliner_model")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        # Dagster's processes run in other directories than the one a relative path was meant for.
        return None if path is None else Path(os.path.abspath(path.expanduser()))

    @field_validator("gliner_model")
    @classmethod
    def _loadable(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_dir():
            raise PydanticCustomError("gliner_model", "not a directory")
        if path is not None and find_spec("gliner") is None:
            raise PydanticCustomError("gliner_model", "the library gliner is not installed")
        return path

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: `load` alone reads the environment."""
        return (init_settings,)

    def redacted(self) -> dict[str, object]:
        """Plain values for printing: keys are hidden and URLs lose their passwords."""
        plain = self.model_dump(mode="json", exclude={"receipt_key"})
        urls = {name: _without_password(plain[name]) for name in _URL_FIELDS}
        return {**plain, **urls}


def load() -> Settings:
    """The settings of this process: environment over file over defaults; blank values count as unset.

    Makes the receipt key below `home` when none is given. Raises SettingsError.
    """
    environment = _without_blanks(EnvSettingsSource(Settings)())
    file = _settings_file(environment)
    from_file = _read_settings_file(file) if file is not None else {}
    try:
        settings = Settings(**{**from_file, **environment})
    except ValidationError as error:
        raise SettingsError("; ".join(_reasons(error, environment, file))) from None
    if "receipt_key" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"receipt_key": _lasting_receipt_key(settings.home)})


def load_policy(settings: Settings) -> DistillationPolicy:
    """The policy file over the shipped defaults, and the thresholds of the environment over both.

    Raises PolicyError with the name of the file, never with what it holds.
    """
    file = settings.policy_file
    policy = DistillationPolicy() if file is None else _read_policy(file)
    thresholds = {
        "volume_threshold": settings.distillation_volume_threshold,
        "conflict_threshold": settings.distillation_conflict_threshold,
    }
    return _with_thresholds(policy, {name: value for name, value in thresholds.items() if value is not None})


_URL_FIELDS = ("database_url", "dagster_database_url", "anthropic_base_url")
_PATH_FIELDS = ("home", "policy_file", "gliner_model")


def _without_blanks(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.strip() if isinstance(value, str) else value
        for name, value in values.items()
        if value is not None and not (isinstance(value, str) and not value.strip())
    }


def _settings_file(environment: Mapping[str, object]) -> Path | None:
    """The file named in the environment, which must exist, or the one below the home, if there is one."""
    named = os.environ.get(SETTINGS_FILE_VARIABLE, "").strip()
    if named:
        return Path(os.path.abspath(Path(named).expanduser()))
    default = Path(str(environment.get("home", Settings.model_fields["home"].default))).expanduser()
    file = Path(os.path.abspath(default / "settings.yaml"))
    return file if file.exists() else None


def _read_settings_file(file: Path) -> dict[str, Any]:
    document = _read_yaml(file, SettingsError)
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise SettingsError(f"{file}: expected a mapping of settings")
    values = _without_blanks(document)
    for name in _PATH_FIELDS:
        if isinstance(path := values.get(name), str):
            values[name] = file.parent / Path(path).expanduser()
    return values


def _reasons(error: ValidationError, environment: Mapping[str, object], file: Path | None) -> list[str]:
    reasons = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = str(problem["loc"][0])
        variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
        where = variable if name in environment or file is None else f"{file}: {' '.join(name.split())}"
        reason = "no such setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        reasons.append(f"{where}: {reason}")
    return reasons


def _lasting_receipt_key(home: Path) -> bytes:
    """The key in `home/receipt.key`, made once; of processes that make it at the same time one wins."""
    file = home / "receipt.key"
    try:
        if not file.exists():
            home.mkdir(parents=True, exist_ok=True)
            _publish(file, f"{secrets.token_hex(32)}\n")
        key = file.read_bytes().strip()
    except OSError as error:
        reason = f"cannot make or read {file}: {error.strerror}"
        raise SettingsError(
            f"{reason}; set HIVEMIND_RECEIPT_KEY, or HIVEMIND_HOME to a writable directory"
        ) from None
    if len(key) < 32:
        raise SettingsError(
            f"{file} is damaged: restore it from a backup, or remove it to start with a new key"
        )
    return key


def _publish(file: Path, text: str) -> None:
    """Give `file` its content at once and for its owner only, unless it exists by then."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.") as draft:
        draft.write(text)
        draft.flush()
        os.fsync(draft.fileno())
        try:
            os.link(draft.name, file)
        except FileExistsError:
            return


def _read_policy(file: Path) -> DistillationPolicy:
    document = _read_yaml(file, PolicyError)
    if document is not None and not isinstance(document, dict):
        raise PolicyError(f"{file}: expected a mapping of sections")
    try:
        return DistillationPolicy.parse(document)
    except PolicyError as error:
        raise PolicyError(f"{file}: {' '.join(str(error).split())}") from None


def _with_thresholds(policy: DistillationPolicy, thresholds: Mapping[str, int]) -> DistillationPolicy:
    def gate(section: GatePolicy) -> GatePolicy:
        return section.model_copy(update=dict(thresholds))

    orgs = {
        org_id: override
        if override.gate is None
        else override.model_copy(update={"gate": gate(override.gate)})
        for org_id, override in policy.orgs.items()
    }
    return policy.model_copy(update={"gate": gate(policy.gate), "orgs": orgs})


def _read_yaml(file: Path, refusal: type[ValueError]) -> object:
    """The decoded document; raises `refusal` with the file's name and a place in it, never its content."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise refusal(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise refusal(f"{file}: not UTF-8 at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise refusal(f"{file}: not valid YAML{place}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise refusal(f"{file}: not valid YAML") from None


def _without_password(url: object) -> str | None:
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
        query = [(name, "***" if "password" in name else value) for name, value in parse_qsl(parts.query)]
    except ValueError:
        return "***"
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    netloc = f"{name}{colon}{'***' if colon else ''}{at}{host}"
    return parts._replace(netloc=netloc, query=urlencode(query, safe="/*")).geturl()
