"""Every way the model's server can misbehave ends in a reason code, in time, within three attempts."""

import time

import pytest

from hivemind_pipelines.core.model import LlmRequest, LlmUnavailable
from hivemind_pipelines.services.llm import CallLimits, ClaudeLlm
from hivemind_pipelines_tests.messages_server import TRANSIENT, Fault, MessagesServer

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"same": {"type": "boolean"}, "why": {"type": "string"}},
    "required": ["same", "why"],
    "additionalProperties": False,
}
REQUEST = LlmRequest("confirm_pair", "system-canary", "prompt-canary", SCHEMA, 200)
KEY = "sk-canary-key"
QUICK = CallLimits(backoff_base_s=0.0, retry_after_max_s=0.01)
STALLING = {Fault.HANG, Fault.DRIP_HEADERS, Fault.DRIP_BODY}

REASONS = {
    **{fault: "http_5xx" for fault in Fault if fault.startswith("http_5")},
    **{fault: f"http_{fault[5:8]}" for fault in Fault if fault.startswith("http_4")},
    **dict.fromkeys((Fault.HANG, Fault.DRIP_HEADERS, Fault.DRIP_BODY), "timeout"),
    **dict.fromkeys(
        (Fault.CLOSED_BEFORE_RESPONSE, Fault.CLOSED_IN_HEADERS, Fault.CLOSED_IN_BODY, Fault.RESET),
        "connection",
    ),
    Fault.NOT_HTTP: "connection",
    Fault.REDIRECT_301: "http_301",
    Fault.REDIRECT_307: "http_307",
    Fault.REDIRECT_LOOP: "http_308",
    Fault.HUGE_BODY: "too_large",
    Fault.REFUSAL: "refusal",
    Fault.MAX_TOKENS: "max_tokens",
    Fault.TOOL_USE: "stop_reason",
    Fault.PAUSE_TURN: "stop_reason",
}


@pytest.fixture(scope="module")
def server():
    with MessagesServer() as running:
        yield running


@pytest.mark.parametrize("fault", list(Fault))
def test_fault_is_a_reason_code_in_time(server, fault, caplog):
    caplog.set_level("DEBUG")
    server.respond_with(fault)
    seen = len(server.requests)
    timeout_s = 0.4 if fault in STALLING else 10.0
    began = time.monotonic()
    outcome = ClaudeLlm(KEY, "m", server.base_url, timeout_s, limits=QUICK).complete(REQUEST)
    assert isinstance(outcome, LlmUnavailable)
    assert outcome.reason == REASONS.get(fault, "malformed")
    assert outcome.usage.attempts == (3 if fault in TRANSIENT else 1) == len(server.requests) - seen
    assert time.monotonic() - began < timeout_s + 2.0
    assert "canary" not in caplog.text + repr(outcome)


@pytest.mark.parametrize("fault", sorted(TRANSIENT))
def test_transient_fault_is_overcome_by_the_next_attempt(server, fault):
    server.respond_with(fault, {"same": False, "why": "well"})
    outcome = ClaudeLlm(KEY, "m", server.base_url, 10.0, limits=QUICK).complete(REQUEST)
    assert not isinstance(outcome, LlmUnavailable)
    assert outcome.usage.attempts == 2


def test_redirect_takes_the_prompt_nowhere(server):
    with MessagesServer() as foreign:
        server.respond_with(Fault.REDIRECT_307)
        ClaudeLlm(KEY, "m", server.base_url, 5.0, limits=QUICK).complete(REQUEST)
        assert foreign.requests == []
    assert server.requests[-1].path == "/v1/messages"
