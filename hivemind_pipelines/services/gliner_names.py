"""Names of people by a GLiNER model in a local directory; its library is the deployment's to install."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hivemind_pipelines.services.deadline import Deadline
from hivemind_pipelines.services.persons import ModelMissingError, NameFinder, Span

_LABELS = ["person"]
#: The library's own default; what a span is worth here is judged as for any other model.
_SCORE_MIN = 0.5
#: GLiNER cuts off what lies beyond so many words; a chunk of no more characters never holds more words.
_WINDOW = 384
#: Chunks share so many characters: a name on the border of one stands whole in the next.
_OVERLAP = 64
_CHUNKS_TOGETHER = 8
_BLOCK_BYTES = 1 << 16
_BLOCKS_MAX = 64


def name_finders(model: Path | None) -> tuple[NameFinder, ...]:
    """The finder of the model that the settings name, if they name one."""
    return () if model is None else (GlinerNames(model),)


class GlinerNames:
    """A NameFinder; the model is loaded at the first text, `fingerprint` tells models apart before.

    Raises ModelMissingError when the library or the model cannot be loaded.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.fingerprint = _fingerprint(directory)

    def find(self, texts: Sequence[str], deadline: Deadline) -> list[list[Span]]:
        """The spans of names in each text, chunk by chunk of the model's window."""
        window = min(_WINDOW, int(self._model.config.max_len))
        chunks = [
            (position, start, text[start:end])
            for position, text in enumerate(texts)
            for start, end in _chunks(text, window)
            if text[start:end].strip()
        ]
        found: list[list[Span]] = [[] for _ in texts]
        for first in deadline.each(range(0, len(chunks), _CHUNKS_TOGETHER)):
            together = chunks[first : first + _CHUNKS_TOGETHER]
            for (position, start, chunk), entities in zip(together, self._predict(together), strict=True):
                found[position] += [_span(start, chunk, entity) for entity in entities]
        return found

    def _predict(self, chunks: Sequence[tuple[int, int, str]]) -> list[list[dict[str, Any]]]:
        texts = [chunk for _, _, chunk in chunks]
        # Older releases know only the older name, which newer ones deprecate and will take away.
        is_new = hasattr(self._model, "inference")
        predict = self._model.inference if is_new else self._model.batch_predict_entities
        predicted: list[list[dict[str, Any]]] = predict(texts, _LABELS, threshold=_SCORE_MIN)
        return predicted

    @cached_property
    def _model(self) -> Any:
        # The library brings torch, which takes seconds and is no dependency of ours.
        try:
            from gliner import GLiNER

            return GLiNER.from_pretrained(str(self._directory), local_files_only=True)
        except Exception as error:  # noqa: BLE001 - a damaged model fails in as many ways as it has files
            raise ModelMissingError(type(error).__name__) from None


def _chunks(text: str, window: int) -> Iterator[tuple[int, int]]:
    """[start, end) of chunks of at most `window` characters, cut after white space where there is any."""
    overlap = min(_OVERLAP, window // 4)
    start = 0
    while len(text) - start > window:
        end = _after_space(text, start + window // 2, start + window)
        yield start, end
        start = _after_space(text, end - 2 * overlap, end - overlap)
    yield start, len(text)


def _after_space(text: str, lowest: int, highest: int) -> int:
    """The last place up to `highest` that follows white space, `highest` when none above `lowest` does."""
    return next((place for place in range(highest, lowest, -1) if text[place - 1].isspace()), highest)


def _span(start: int, chunk: str, entity: dict[str, Any]) -> Span:
    first, last = int(entity["start"]), int(entity["end"])
    if not 0 <= first <= last <= len(chunk):
        raise ValueError("the model names a span outside its text")
    return start + first, start + last


def _fingerprint(directory: Path) -> str:
    """16 hex digits over the files' names and sizes, all of small ones and samples all over large ones."""
    digest = hashlib.sha256()
    for file in sorted(file for file in directory.rglob("*") if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(directory).as_posix()}\0{size}\0".encode())
        with file.open("rb") as content:
            # Two trainings of one model differ in no size, but all over their weights.
            for place in range(0, size, max(_BLOCK_BYTES, size // _BLOCKS_MAX)):
                content.seek(place)
                digest.update(content.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]
