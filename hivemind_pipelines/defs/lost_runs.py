"""Runs whose server is gone: without a verdict they would hold their org for as long as a run may take.

A run that is killed alone is reported by its code server. When the server goes with it (a reboot, a
stopped `dev`), nobody is left to say so, and Dagster's default launcher has no health check.
"""

import json
from datetime import datetime, timedelta

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.storage.tags import GRPC_INFO_TAG

#: A younger run may not have told its server's address yet.
GRACE = timedelta(minutes=1)

_RUNNING = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


def fail_lost_runs(instance: DagsterInstance, now: datetime) -> list[str]:
    """Report every run as failed whose code server no longer answers; returns their ids."""
    records = instance.get_run_records(RunsFilter(statuses=_RUNNING))
    old = [record.dagster_run for record in records if now - record.create_timestamp > GRACE]
    lost = [run for run in old if _server_is_gone(run)]
    for run in lost:
        instance.report_run_failed(run, "the process of this run is gone; what it left undone is due again")
    return [run.run_id for run in lost]


def _server_is_gone(run: DagsterRun) -> bool:
    """Whether the run names a server that does not answer; a run without one belongs to another launcher."""
    address = json.loads(run.tags.get(GRPC_INFO_TAG, "null"))
    if address is None:
        return False
    from dagster._grpc.client import DagsterGrpcClient

    client = DagsterGrpcClient(
        port=address.get("port"),
        socket=address.get("socket"),
        host=address.get("host"),
        use_ssl=address.get("use_ssl", False),
    )
    try:
        client.ping("")
    except DagsterUserCodeUnreachableError:
        return True
    return False
