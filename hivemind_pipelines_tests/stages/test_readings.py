"""Readings in the stage: who is asked, what becomes a case, and that the policy can do without."""

from collections.abc import Sequence

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.reading import Reading
from hivemind_pipelines.core.receipts import CasesReceipt
from hivemind_pipelines.services.cross_encoder import TextPair
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import insert_item, rows, scalar
from hivemind_pipelines_tests.stages.commons import distil, policy, services

DECLARED = "Anyone in engineering can declare an incident of the platform."
ALLOWED = "Declaring an incident of the platform is a privilege of the duty manager."
READS = policy(contradiction={"reads": True})


class Certain:
    """A CrossEncoder that always says the same and remembers what it was asked."""

    def __init__(self, contradiction: float) -> None:
        rest = (1.0 - contradiction) / 3
        self._said = Reading(contradiction, rest, rest, rest)
        self.asked: list[TextPair] = []

    def read(self, pairs: Sequence[TextPair]) -> tuple[Reading, ...]:
        self.asked += pairs
        return (self._said,) * len(pairs)


def test_what_no_rule_finds_becomes_a_case_and_is_read_once(store: Store) -> None:
    encoder = Certain(0.99)
    insert_item(store, DECLARED)
    insert_item(store, ALLOWED)
    for opened in (1, 0):
        receipt = distil(store, under=READS, using=services(cross_encoder=encoder))[Stage.CONTRADICTION_CASES]
        assert isinstance(receipt, CasesReceipt)
        assert receipt.opened == opened
    assert len(encoder.asked) == 1
    evidence = rows(store, "SELECT evidence FROM distillation.contradiction_cases")[0].evidence
    assert (evidence["reason"], evidence["outcome"]) == ("read", "contradiction")
    assert evidence["spans"]["a"]
    assert evidence["spans"]["b"]


def test_a_reading_of_two_true_statements_opens_nothing(store: Store) -> None:
    insert_item(store, DECLARED)
    insert_item(store, ALLOWED)
    distil(store, under=READS, using=services(cross_encoder=Certain(0.01)))
    assert scalar(store, "SELECT count(*) FROM distillation.contradiction_cases") == 0


def test_another_word_of_the_policy_examines_anew_and_withdraws(store: Store) -> None:
    encoder = Certain(0.99)
    insert_item(store, DECLARED)
    insert_item(store, ALLOWED)
    distil(store, using=services(cross_encoder=encoder))
    assert (encoder.asked, scalar(store, "SELECT count(*) FROM distillation.contradiction_cases")) == ([], 0)
    distil(store, under=READS, using=services(cross_encoder=encoder))
    assert scalar(store, "SELECT count(*) FROM distillation.contradiction_cases WHERE status = 'open'") == 1
    distil(store, using=services(cross_encoder=encoder))
    assert scalar(store, "SELECT count(*) FROM distillation.contradiction_cases WHERE status = 'open'") == 0


def test_notes_of_two_scopes_and_recipes_are_not_read(store: Store) -> None:
    encoder = Certain(0.99)
    insert_item(store, DECLARED, language="go")
    insert_item(store, ALLOWED, language="rust")
    insert_item(store, "Start the service: `systemctl start nginx`")
    insert_item(store, "Stop the service: `systemctl stop nginx`")
    distil(store, under=READS, using=services(cross_encoder=encoder))
    assert encoder.asked == []
