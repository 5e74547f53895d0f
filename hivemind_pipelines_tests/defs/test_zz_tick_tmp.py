import time
from datetime import datetime, timezone
from dagster import DagsterInstance
from hivemind_pipelines_tests.defs.conftest import location
from hivemind_pipelines_tests.defs.test_sensors import _tick, _fill
from hivemind_pipelines_tests.builders import execute, insert_pending
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines_tests.conftest import *
def test_tick(store, tmp_path):
    execute(store, """INSERT INTO public.knowledge_items (id, org_id, is_public, source_agent_id, content, content_hash, category, confidence, contributed_at, approved_at, quality_score, retrieval_count, helpful_count, not_helpful_count)
      SELECT gen_random_uuid(), 'org-' || (g % 1000), false, 'a', 'text ' || g, md5(g::text), 'general', 0.8, now(), now(), 0.5, 0,0,0 FROM generate_series(1, 50000) g""")
    _fill(store, 60)
    execute(store, "ANALYZE")
    with DagsterInstance.local_temp(str(tmp_path)) as inst:
        here = location(inst, store, DistillationPolicy())
        for i in range(3):
            t=time.perf_counter(); r=_tick(here, "distillation_backlog"); print("TICK", i, round(time.perf_counter()-t,3), len(r.run_requests or []))
            for e in r.asset_events: inst.report_runless_asset_event(e)
            for q in r.dynamic_partitions_requests or []: inst.add_dynamic_partitions("orgs", list(q.partition_keys))
        t=time.perf_counter(); _tick(here, "erasure_backlog"); print("TICK erasure", round(time.perf_counter()-t,3))
