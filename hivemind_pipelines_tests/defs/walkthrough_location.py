"""The code location as a code server of its own loads it, with services that need no model."""

from hivemind_pipelines.definitions import build_defs
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines_tests.defs.conftest import SERVICES

defs = build_defs({"commons": Commons(services=SERVICES)})
