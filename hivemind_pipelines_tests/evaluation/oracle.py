"""A model that knows the labels: answers for the Messages server, from a labelled file.

    python -m hivemind_pipelines_tests.evaluation.oracle FILE

serves on 127.0.0.1 until interrupted and prints the address; then, elsewhere,

    HIVEMIND_ANTHROPIC_API_KEY=oracle HIVEMIND_ANTHROPIC_BASE_URL=http://127.0.0.1:PORT \
        hivemind-pipelines evaluate duplicates FILE

shows what a model that is always right would buy. The budget of one run caps the calls: raise
`safety.llm_calls_per_run_max` and the amounts of money in a policy file to see all of it.
"""

import re
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from hivemind_pipelines.evaluation import labelled
from hivemind_pipelines.evaluation.labelled import ClusteredText, LabelledPair
from hivemind_pipelines_tests.messages_server import Body, MessagesServer

Same = Callable[[str, str], bool]

_NOTE = re.compile(r"(?s)(\w+) begin note A\n(.*)\n\1 end note A\n\n\1 begin note B\n(.*)\n\1 end note B")


def of_pairs(pairs: Iterable[LabelledPair]) -> Same:
    """Whether a pair of texts is labelled as one statement."""
    same = {frozenset((pair.text_a, pair.text_b)) for pair in pairs if pair.is_same}
    return lambda a, b: frozenset((a, b)) in same


def of_clusters(rows: Iterable[ClusteredText]) -> Same:
    """Whether two texts stand in one labelled cluster."""
    clusters: dict[str, set[str]] = {}
    for row in rows:
        clusters.setdefault(row.row.content, set()).add(row.cluster)
    return lambda a, b: not clusters[a].isdisjoint(clusters[b])


def answer_by(same: Same) -> Callable[[Body], Body]:
    """The answers of a model that asks `same`."""

    def answer(body: Body) -> Body:
        is_same = same(*asked_about(body))
        return {"same": is_same, "confidence": 1.0, "what_differs_code": "wording" if is_same else "topic"}

    return answer


def asked_about(body: Body) -> tuple[str, str]:
    """The two notes of a confirmation request."""
    content = body["messages"][0]["content"]
    prompt = content if isinstance(content, str) else "".join(block["text"] for block in content)
    found = _NOTE.search(prompt)
    assert found is not None
    return found.group(2), found.group(3)


def same_by_labels(path: Path) -> Same:
    """What the labels of a file say, pairs or clusters."""
    if labelled.shape(path) == "pairs":
        return of_pairs(labelled.read_pairs(path))
    return of_clusters(labelled.read_clusters(path))


if __name__ == "__main__":
    with MessagesServer() as server:
        server.respond_with(answer_by(same_by_labels(Path(sys.argv[1]))))
        print(server.base_url, flush=True)
        threading.Event().wait()
