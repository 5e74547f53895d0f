"""Orgs become partitions when they are first seen; ids that Dagster refuses are encoded."""

import pytest
from dagster import DagsterInstance
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.defs.partitions import add_orgs, missing_keys, org_of, partition_key


def test_new_orgs_are_added_once() -> None:
    with DagsterInstance.ephemeral() as instance:
        assert add_orgs(instance, ["beta", "acme", "beta"]) == ["acme", "beta"]
        assert add_orgs(instance, ["acme", "gamma"]) == ["gamma"]
        assert missing_keys(instance, ["acme", "beta", "gamma"]) == []


REFUSED = ["", "a...b", "tab\there", "line\nbreak", "nul\0", "percent-encoded:x"]


@pytest.mark.parametrize("org", REFUSED)
def test_an_org_id_that_dagster_refuses_is_a_partition_all_the_same(org: str) -> None:
    with DagsterInstance.ephemeral() as instance:
        [key] = add_orgs(instance, [org])
        assert instance.has_dynamic_partition("orgs", key)
        assert org_of(key) == org


@given(st.text(max_size=255))
def test_every_org_has_a_key_of_its_own(org: str) -> None:
    assert org_of(partition_key(org)) == org
    assert partition_key(partition_key(org)) != partition_key(org) or partition_key(org) == org


@pytest.mark.parametrize("org", ["o'neill", 'the "org"', "a, b", " ", "x" * 255, "..", "東京"])
def test_odd_but_legal_org_ids_are_partitions(org: str) -> None:
    with DagsterInstance.ephemeral() as instance:
        assert add_orgs(instance, [org]) == [org]
        assert instance.has_dynamic_partition("orgs", org)
