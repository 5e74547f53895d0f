"""Every way the model's server can misbehave ends in a reason code, in time, within three attempts."""

import time
from http import HTTPStatus

import pytest

from hivemind_pipelines.core.model import LlmAnswer, LlmRequest, LlmUnavailable
from hivemind_pipelines.services.llm import CallLimits, ClaudeLlm
from hivemind_pipelines_tests.messages_server import TRANSIENT, Fault, MessagesServer, RawResponse
from hivemind_pipelines_tests.tls import BrokenDoor, Flaw, Manner, served, trusting

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"same": {"type": "boolean"}, "why": {"type": "string"}},
    "required": ["same", "why"],
    "additionalProperties": False,
}
REQUEST = LlmRequest("confirm_pair", "system-canary", "prompt-canary", SCHEMA, 200)
KEY = "sk-canary-key"
QUICK = CallLimits(backoff_base_s=0.0, retry_after_max_s=0.01)
ONE_QUICK = CallLimits(attempts_max=1)
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


ODD_WAITS = ("", "0", "-5", "nan", "inf", "1e12", "soon", "Fri, 31 Dec 9999 23:59:59 GMT", "\x7f", "1,2")


#: All that are registered, and those that proxies made up.
STATUSES = sorted(
    {*(one.value for one in HTTPStatus if one >= 400), 419, 420, 444, 499, 520, 524, 529, 530, 599}
)


def test_every_status_with_whatever_retry_after_is_a_reason(server):
    for number, status in enumerate(STATUSES):
        wait = ODD_WAITS[number % len(ODD_WAITS)]
        server.respond_with(RawResponse(b"{}", status, (("Retry-After", wait),)))
        outcome = ClaudeLlm(KEY, "m", server.base_url, 10.0, limits=ONE_QUICK).complete(REQUEST)
        assert isinstance(outcome, LlmUnavailable)
        assert outcome.reason == ("http_5xx" if status >= 500 else f"http_{status}")


def test_redirect_takes_the_prompt_nowhere(server):
    with MessagesServer() as foreign:
        server.respond_with(Fault.REDIRECT_307)
        ClaudeLlm(KEY, "m", server.base_url, 5.0, limits=QUICK).complete(REQUEST)
        assert foreign.requests == []
    assert server.requests[-1].path == "/v1/messages"


def test_a_certificate_of_an_authority_that_is_trusted_is_enough():
    with MessagesServer(served("none")) as server:
        outcome = ClaudeLlm(KEY, "m", server.base_url, 10.0, limits=QUICK, tls=trusting()).complete(REQUEST)
        assert isinstance(outcome, LlmAnswer)


@pytest.mark.parametrize(
    "flaw", ["self_signed", "unknown_authority", "other_host", "expired", "not_yet_valid"]
)
def test_a_certificate_that_proves_nothing_gets_no_key_and_no_prompt(flaw: Flaw, caplog):
    caplog.set_level("DEBUG")
    with MessagesServer(served(flaw)) as server:
        outcome = ClaudeLlm(KEY, "m", server.base_url, 10.0, limits=QUICK, tls=trusting()).complete(REQUEST)
        assert isinstance(outcome, LlmUnavailable)
        assert (outcome.reason, outcome.usage.attempts, server.connections) == ("certificate", 1, 1)
        assert server.requests == []
    assert "canary" not in caplog.text + repr(outcome)


def test_a_private_authority_is_not_trusted_unless_it_is_named():
    with MessagesServer(served("none")) as server:
        outcome = ClaudeLlm(KEY, "m", server.base_url, 10.0, limits=QUICK).complete(REQUEST)
        assert isinstance(outcome, LlmUnavailable)
        assert (outcome.reason, server.requests) == ("certificate", [])


@pytest.mark.parametrize("manner", ["garbage", "closed", "reset", "silent"])
def test_a_handshake_that_comes_to_nothing_is_a_reason_in_time(manner: Manner):
    timeout_s = 0.4 if manner == "silent" else 10.0
    began = time.monotonic()
    with BrokenDoor(manner) as door:
        outcome = ClaudeLlm(KEY, "m", door.base_url, timeout_s, limits=QUICK).complete(REQUEST)
        assert isinstance(outcome, LlmUnavailable)
        assert outcome.reason == ("timeout" if manner == "silent" else "connection")
        assert outcome.usage.attempts == door.connections == (1 if manner == "silent" else 3)
    assert time.monotonic() - began < timeout_s + 2.0


def test_plain_text_on_the_port_of_tls_is_a_failed_connection(server):
    plain = server.base_url.replace("http:", "https:")
    outcome = ClaudeLlm(KEY, "m", plain, 10.0, limits=QUICK).complete(REQUEST)
    assert isinstance(outcome, LlmUnavailable)
    assert outcome.reason == "connection"
