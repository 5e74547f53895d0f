"""The code location as a whole: it loads fast, brings nothing heavy, and explains itself."""

import subprocess
import sys
from itertools import pairwise
from typing import get_args

import pytest
from dagster import AssetKey, Definitions

from hivemind_pipelines.core import receipts
from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.policy import SECTION_GROUPS
from hivemind_pipelines.core.receipts import Outcome, Receipt
from hivemind_pipelines.definitions import build_defs, defs
from hivemind_pipelines.defs.glossary import KEYS, OUTCOMES, metadata_keys, receipt_metadata
from hivemind_pipelines.defs.policies import policy_key
from hivemind_pipelines.store import invariants

HEAVY = ("spacy", "presidio_analyzer", "onnxruntime", "anthropic", "matplotlib", "pandas", "tokenizers")

_MEASURE = f"""
import sys, time
import dagster
started = time.process_time()
import hivemind_pipelines.definitions
print(time.process_time() - started, [name for name in {HEAVY} if name in sys.modules])
"""

RECEIPTS = [
    value
    for value in vars(receipts).values()
    if isinstance(value, type) and issubclass(value, Receipt) and value is not Receipt
]


def test_loading_is_fast_and_brings_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.strip().split(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 2.5


def test_the_definitions_are_valid_and_complete() -> None:
    Definitions.validate_loadable(build_defs())
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    own = {stage.value for stage in Stage} | {
        *("quality_scores", "erasure_propagation", "matching_evaluation", "pii_retro_scan")
    }
    assert keys == own | {policy_key(group).to_user_string() for group in SECTION_GROUPS}


def test_the_lineage_is_the_order_in_which_a_run_calls_its_stages() -> None:
    graph = defs.resolve_asset_graph()
    chain = list(Stage)[:6]
    for upstream, downstream in pairwise(chain):
        assert AssetKey(upstream.value) in graph.get(AssetKey(downstream.value)).parent_keys
    report = {key.to_user_string() for key in graph.get(AssetKey("distillation_report")).parent_keys}
    assert report == {stage.value for stage in Stage if stage is not Stage.DISTILLATION_REPORT}


@pytest.mark.parametrize("key", sorted(defs.resolve_asset_graph().get_all_asset_keys()))
def test_every_asset_explains_itself(key: AssetKey) -> None:
    node = defs.resolve_asset_graph().get(key)
    assert node.description
    assert "| key | meaning |" in node.description
    assert node.owners
    assert node.kinds
    assert node.group_name != "default"
    if node.group_name != "policy":
        columns = node.metadata["dagster/column_schema"].columns
        assert all(column.description for column in columns)


def test_every_job_sensor_and_schedule_has_a_description() -> None:
    repository = defs.get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    assert all(one.description for one in [*jobs, *repository.sensor_defs, *repository.schedule_defs])


@pytest.mark.parametrize("receipt_type", RECEIPTS)
def test_every_metadata_key_has_a_meaning(receipt_type: type[Receipt]) -> None:
    assert [key for key in metadata_keys(receipt_type) if not KEYS.get(key)] == []
    assert set(receipt_metadata(receipt_type())) <= set(metadata_keys(receipt_type))


def test_every_outcome_has_a_meaning() -> None:
    assert set(OUTCOMES) == set(get_args(Outcome))


def test_every_invariant_that_a_query_can_see_is_a_check() -> None:
    checks = {key.name for key in defs.resolve_asset_graph().asset_check_keys}
    seen = {one.name for one in invariants.INVARIANTS if one.sql is not None}
    assert checks == seen | {"scores_tell_items_apart", "no_wrong_merge"}
