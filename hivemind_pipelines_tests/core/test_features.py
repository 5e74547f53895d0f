"""Features: equal statements share a class, and signatures estimate the similarity of shingle sets."""

from uuid import uuid4

import numpy as np
import pytest

from hivemind_pipelines.core.features import class_key, extract, extract_all, signatures
from hivemind_pipelines.core.model import Category, Item, ItemId, OrgId, Scope
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.core.text import content_hash, folded, shingles

POLICY = MatchingPolicy()


def an_item(content: str) -> Item:
    return Item(ItemId(uuid4()), OrgId("acme"), content, content_hash(content), Category.GENERAL)


def test_wording_that_is_equal_after_normalisation_is_one_class() -> None:
    assert class_key("Run the tests.", Scope()) == class_key("run  the tests", Scope())
    assert len(class_key("", Scope())) == 32


@pytest.mark.parametrize(
    "scope", [Scope(framework="django"), Scope(language="python"), Scope(version="3.11"), Scope("python")]
)
def test_another_scope_is_another_class(scope: Scope) -> None:
    assert class_key("Run the tests", scope) != class_key("Run the tests", Scope())


def test_scopes_differ_in_more_than_case_and_space() -> None:
    assert class_key("x", Scope(framework=" Django ")) == class_key("x", Scope(framework="django"))
    assert class_key("x", Scope(framework="a", language="b")) != class_key("x", Scope(framework="ab"))
    assert class_key("x", Scope(framework=" ")) == class_key("x", Scope())


def test_many_items_get_the_features_of_each_alone() -> None:
    items = [an_item(text) for text in ("Use `pip -r` on 3.11.4", "never stop v2", "", "\ud800\x00")]

    for one, alone in zip(extract_all(items, POLICY), (extract(item, POLICY) for item in items), strict=True):
        assert one.item_id == alone.item_id
        assert one.class_key == alone.class_key
        assert one.discriminators == alone.discriminators
        np.testing.assert_array_equal(one.signature, alone.signature)


def test_discriminators_are_found_by_kind() -> None:
    found = extract(an_item("Don't use `-R` with 3 files in v1.2.3 of my_tool"), POLICY).discriminators

    assert found.numbers == ("3",)
    assert found.versions == ("1.2.3",)
    assert found.flags == ("-R",)
    assert found.code_tokens == ("my_tool",)
    assert found.negations == ("not",)


def test_signatures_are_stable_and_estimate_jaccard() -> None:
    texts = [
        "Remove all stopped containers and dangling images",
        "Remove all stopped containers and unused images",
    ]
    rows = signatures(texts, POLICY)
    a, b = (shingles(folded(text), POLICY.shingle_size) for text in texts)

    assert rows.dtype == np.uint32
    assert rows.shape == (2, POLICY.num_perm)
    assert float(np.mean(rows[0] == rows[1])) == pytest.approx(len(a & b) / len(a | b), abs=0.15)
    assert rows[0, :3].tolist() == signatures(texts[:1], POLICY)[0, :3].tolist()


@pytest.mark.parametrize("text", ["", " ", "!", "a", "\ud800", "!!! ???"])
def test_empty_and_tiny_texts_have_a_signature(text: str) -> None:
    assert signatures([text], POLICY).shape == (1, POLICY.num_perm)


def test_no_texts_have_no_signatures() -> None:
    assert signatures([], POLICY).shape == (0, POLICY.num_perm)
    assert extract_all([], POLICY) == ()
