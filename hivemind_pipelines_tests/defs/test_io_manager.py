"""Receipts travel between assets by org, through Postgres."""

from dagster import (
    AssetExecutionContext,
    AssetKey,
    BackfillPolicy,
    DagsterInstance,
    Definitions,
    asset,
    define_asset_job,
    in_process_executor,
)
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from hivemind_pipelines.core.receipts import MergesReceipt, PairsReceipt
from hivemind_pipelines.defs.io_manager import ReceiptIOManager
from hivemind_pipelines.defs.partitions import orgs
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import scalar

STRANGE_ORGS = ["acme", 'o\'neill, "the" org', "x" * 255, "zürich/東京"]


@asset(partitions_def=orgs, backfill_policy=BackfillPolicy.multi_run(100))
def pairs(context: AssetExecutionContext) -> dict[str, PairsReceipt]:
    return {org: PairsReceipt(compared=len(org)) for org in context.partition_keys}


@asset(partitions_def=orgs, backfill_policy=BackfillPolicy.multi_run(100))
def merges(context: AssetExecutionContext, pairs: dict[str, PairsReceipt]) -> dict[str, MergesReceipt]:
    assert set(pairs) == set(context.partition_keys)
    assert all(type(receipt) is PairsReceipt for receipt in pairs.values())
    return {org: MergesReceipt(merged=receipt.compared) for org, receipt in pairs.items()}


def _definitions(store: Store) -> Definitions:
    return Definitions(
        assets=[pairs, merges],
        jobs=[define_asset_job("all", [pairs, merges]), define_asset_job("second", [merges])],
        resources={"io_manager": ReceiptIOManager(Commons(store=store))},
        executor=in_process_executor,
    )


def test_one_run_over_many_orgs_hands_each_org_its_own_receipt(store: Store) -> None:
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("orgs", STRANGE_ORGS)
        span = {
            ASSET_PARTITION_RANGE_START_TAG: STRANGE_ORGS[0],
            ASSET_PARTITION_RANGE_END_TAG: STRANGE_ORGS[-1],
        }
        job = _definitions(store).resolve_job_def("all")
        assert job.execute_in_process(instance=instance, tags=span).success
        assert instance.get_materialized_partitions(AssetKey("merges")) == set(STRANGE_ORGS)
    for org in STRANGE_ORGS:
        assert _merged(store, org) == len(org)


def test_a_run_of_the_second_asset_alone_reads_what_the_first_left(store: Store) -> None:
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("orgs", ["acme"])
        definitions = _definitions(store)
        for name in ("all", "second"):
            job = definitions.resolve_job_def(name)
            assert job.execute_in_process(instance=instance, partition_key="acme").success
    assert _merged(store, "acme") == 4


def test_an_org_that_left_no_receipt_loads_as_an_empty_one(store: Store) -> None:
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("orgs", ["acme"])
        job = _definitions(store).resolve_job_def("second")
        assert job.execute_in_process(instance=instance, partition_key="acme").success
    assert _merged(store, "acme") == 0


def _merged(store: Store, org: str) -> int:
    query = "SELECT payload->>'merged' FROM distillation.receipts WHERE asset = 'merges' AND org_id = :org"
    return int(scalar(store, query, org=org))
