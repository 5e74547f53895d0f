"""A GLiNER model beside the shipped one: its names go too, offsets hold, and whatever fails fails closed."""

import json
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.policy import DistillationPolicy, PiiPolicy
from hivemind_pipelines.services import gliner_names
from hivemind_pipelines.services.deadline import UNBOUNDED, Deadline, DeadlineError
from hivemind_pipelines.services.gliner_names import GlinerNames
from hivemind_pipelines.services.pii import GatedScanner, Redacted, ScanFailed
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.stages.context import build_services
from hivemind_pipelines_tests.services import fake_gliner

#: A name that spaCy's small model passes over here.
NAME = "Quillon Tarvex"
TEXT = f"The notes of {NAME} were kept. The job retries three times and then gives up."
CLEAN = TEXT.replace(NAME, "[PERSON]")

Model = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """Makes a model directory; the library that reads it is on the path."""
    fake_gliner.install(tmp_path / "site", monkeypatch)

    def make(
        name: str = "model", *, names: tuple[str, ...] = (NAME,), max_len: int = 384, **more: int
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        known = {"names": names, "max_len": max_len} | more
        (directory / "gliner_config.json").write_text(json.dumps(known))
        return directory

    return make


def scanner(directory: Path) -> GatedScanner:
    return GatedScanner(PiiPolicy(), more_names=[GlinerNames(directory)])


def test_names_of_both_models_are_redacted(model: Model) -> None:
    text = f"{TEXT} Jeff Triplett convinced me to use it."
    assert GatedScanner(PiiPolicy()).redact([TEXT]) == [Redacted(TEXT)]
    assert scanner(model()).redact([text, "Use rg -i.", ""]) == [
        Redacted(f"{CLEAN} [PERSON] convinced me to use it.", {"PERSON": 2}),
        Redacted("Use rg -i."),
        Redacted(""),
    ]


def test_the_model_of_the_settings_is_asked(model: Model, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, gliner_model=model())
    services = build_services(settings, DistillationPolicy())
    assert services.scanner.redact([TEXT]) == [Redacted(CLEAN, {"PERSON": 1})]


def test_what_names_a_thing_stays_whoever_takes_it_for_a_person(model: Model) -> None:
    text = "Docker Compose starts Jenkins, and `Quillon Tarvex` is code."
    assert scanner(model(names=("Docker Compose", "Jenkins", NAME))).redact([text]) == [Redacted(text)]


@pytest.mark.parametrize("max_len", [40, 384])
def test_a_name_anywhere_in_a_long_text_is_found_at_its_place(model: Model, max_len: int) -> None:
    finder = GlinerNames(model(max_len=max_len))
    for lead in range(300, 400, 7):
        text = f"{'é, x ' * (lead // 5)}{'y' * (lead % 5)} {NAME} {'z. ' * 400}"
        start = text.index(NAME)
        assert set(finder.find([text], UNBOUNDED)[0]) == {(start, start + len(NAME))}


@given(text=st.text(alphabet="ab \n日", max_size=400), window=st.integers(4, 90))
def test_chunks_cover_the_text_and_fit_the_window(text: str, window: int) -> None:
    chunks = list(gliner_names._chunks(text, window))
    assert chunks[0][0] == 0
    assert chunks[-1][1] == len(text)
    assert all(end - start <= window for start, end in chunks)
    assert all(a[0] < b[0] <= a[1] < b[1] for a, b in pairwise(chunks))


def test_a_crash_fails_its_text_alone_and_tells_no_text(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = scanner(model()).redact([TEXT, f"{TEXT} It will crash here."])
    assert outcomes == [Redacted(CLEAN, {"PERSON": 1}), ScanFailed("error:RuntimeError")]
    assert NAME not in caplog.text + repr(outcomes)


def test_a_span_outside_the_text_fails_closed(model: Model) -> None:
    assert scanner(model(shift=1000)).redact([TEXT]) == [ScanFailed("error:ValueError")]


def test_a_damaged_model_fails_closed(model: Model) -> None:
    directory = model()
    (directory / "gliner_config.json").write_text("{")
    assert scanner(directory).redact([TEXT]) == [ScanFailed("model_missing")]


def test_the_time_is_looked_at_between_chunks(model: Model) -> None:
    ticks = count()
    finder = GlinerNames(model(max_len=40))
    with pytest.raises(DeadlineError):
        finder.find([f"{NAME} waits. " * 200], Deadline(1.0, lambda: float(next(ticks))))
    assert next(ticks) == 3


def test_another_model_is_another_stamp(model: Model) -> None:
    directory, same, other = model("one"), model("same"), model("other", names=("Someone",))
    weights = [folder / "model.safetensors" for folder in (directory, same, other)]
    for file in weights:
        file.write_bytes(bytes(300_000))
    stamp = scanner(directory).stamp
    assert stamp != GatedScanner(PiiPolicy()).stamp
    assert stamp == scanner(same).stamp
    assert stamp != scanner(other).stamp
    weights[0].write_bytes(bytes(299_999) + b"\1")
    assert stamp != scanner(directory).stamp
