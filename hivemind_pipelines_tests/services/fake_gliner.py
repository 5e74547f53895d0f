"""A library `gliner` that a test puts on the path: the class and signatures of the real one, names by list."""

from pathlib import Path

import pytest

SOURCE = """
import json
import re
from pathlib import Path
from types import SimpleNamespace


class GLiNER:
    def __init__(self, directory):
        known = json.loads((directory / "gliner_config.json").read_text())
        self.config = SimpleNamespace(max_len=known["max_len"])
        self._names = known["names"]
        self._shift = known.get("shift", 0)

    @classmethod
    def from_pretrained(cls, model_id, *, local_files_only=False):
        assert local_files_only, "no network here"
        return cls(Path(model_id))

    def batch_predict_entities(self, texts, labels, flat_ner=True, threshold=0.5, multi_label=False):
        return [self._entities(text, labels[0]) for text in texts]

    def _entities(self, text, label):
        if "crash here" in text:
            raise RuntimeError(text)
        words = list(re.finditer(r"\\\\w+(?:[-_]\\\\w+)*|\\\\S", text))[: self.config.max_len]
        read = text[: words[-1].end()]
        return [
            {"start": found.start() + self._shift, "end": found.end() + self._shift, "text": name,
             "label": label, "score": 0.9}
            for name in self._names
            for found in re.finditer(re.escape(name), read)
        ]
""".replace("\\\\", "\\")


def install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import gliner` find the fake for the rest of the test."""
    import sys

    directory.mkdir()
    (directory / "gliner.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setitem(sys.modules, "gliner", None)
    monkeypatch.delitem(sys.modules, "gliner")
