"""A run whose server is gone frees its org; any other run is left alone."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import create_run_for_test

from hivemind_pipelines.defs.lost_runs import fail_lost_runs


def _started(instance: DagsterInstance, **tags: str) -> str:
    return create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=tags).run_id


@pytest.mark.parametrize("minutes", [0, 5])
def test_only_an_older_run_of_a_vanished_server_is_lost(minutes: int, tmp_path: Path) -> None:
    address = json.dumps({"host": "localhost", "socket": str(tmp_path / "gone.sock")})
    now = datetime.now(UTC) + timedelta(minutes=minutes)
    with DagsterInstance.ephemeral() as instance:
        gone = _started(instance, **{GRPC_INFO_TAG: address})
        elsewhere = _started(instance)
        assert fail_lost_runs(instance, now) == ([gone] if minutes else [])
        run = instance.get_run_by_id(elsewhere)
        assert run is not None
        assert run.status is DagsterRunStatus.STARTED
        assert fail_lost_runs(instance, now) == []
