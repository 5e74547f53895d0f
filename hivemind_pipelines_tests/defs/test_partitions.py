"""Orgs become partitions when they are first seen, except the few ids that Dagster refuses."""

import pytest
from dagster import DagsterInstance

from hivemind_pipelines.defs.partitions import add_orgs, is_partition_key, missing_orgs


def test_new_orgs_are_added_once() -> None:
    with DagsterInstance.ephemeral() as instance:
        assert add_orgs(instance, ["beta", "acme", "beta"]) == ["acme", "beta"]
        assert add_orgs(instance, ["acme", "gamma"]) == ["gamma"]
        assert missing_orgs(instance, ["acme", "beta", "gamma"]) == []


@pytest.mark.parametrize("org", ["", "a...b", "tab\there", "line\nbreak", "nul\0"])
def test_an_org_id_that_dagster_refuses_harms_no_other(org: str) -> None:
    assert not is_partition_key(org)
    with DagsterInstance.ephemeral() as instance:
        assert add_orgs(instance, [org, "acme"]) == ["acme"]


@pytest.mark.parametrize("org", ["o'neill", 'the "org"', "a, b", " ", "x" * 255, "..", "東京"])
def test_odd_but_legal_org_ids_are_partitions(org: str) -> None:
    with DagsterInstance.ephemeral() as instance:
        assert add_orgs(instance, [org]) == [org]
        assert instance.has_dynamic_partition("orgs", org)
