"""ClaudeLlm against a real server that speaks the Messages API."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hivemind_pipelines.core.confirmation import confirmation_request, parse_verdict
from hivemind_pipelines.core.grounding import check_draft
from hivemind_pipelines.core.model import ItemId, LlmAnswer, LlmRequest, LlmUnavailable, LlmUsage, SourceText
from hivemind_pipelines.core.policy import SummaryPolicy
from hivemind_pipelines.core.summarization import build_request, parse_draft
from hivemind_pipelines.services.llm import CallLimits, ClaudeLlm
from hivemind_pipelines_tests.messages_server import DEFAULT, Fault, MessagesServer, RawResponse

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"same": {"type": "boolean"}, "why": {"type": "string"}},
    "required": ["same", "why"],
    "additionalProperties": False,
}


def request(user: str = "Are they the same?", **changes: object) -> LlmRequest:
    values: dict[str, object] = {
        "purpose": "confirm_pair",
        "system": "Compare.",
        "user": user,
        "schema": SCHEMA,
        "max_output_tokens": 200,
    }
    return LlmRequest(**(values | changes))  # type: ignore[arg-type]


def llm(server: MessagesServer, timeout_s: float = 10.0, **changes: object) -> ClaudeLlm:
    values: dict[str, object] = {"sleep": lambda _: None, "uniform": lambda _, high: 0.0}
    return ClaudeLlm("sk-test-key", "test-model", server.base_url, timeout_s, **(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def server():
    with MessagesServer() as running:
        yield running


def test_answer_is_the_decoded_object_and_its_usage(server):
    outcome = llm(server).complete(request())
    assert isinstance(outcome, LlmAnswer)
    assert outcome.data == {"same": True, "why": "A short answer."}
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens, outcome.usage.attempts) == (100, 20, 1)


def test_request_is_structured_and_carries_no_tools(server):
    llm(server).complete(request("hello"))
    [seen] = server.requests
    assert seen.path == "/v1/messages"
    assert seen.headers["authorization"] == "Bearer sk-test-key"
    assert "anthropic-version" in seen.headers
    assert seen.body == {
        "model": "test-model",
        "max_tokens": 200,
        "system": "Compare.",
        "messages": [{"role": "user", "content": "hello"}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }


def test_default_answers_of_the_server_pass_the_gates_of_both_purposes(server):
    texts = ("Use rg -i to ignore case.", "Pass -i to rg and case is ignored.", "rg -i ignores case.")
    sources = [SourceText(n, ItemId(n), "", text) for n, text in enumerate(texts, 1)]  # type: ignore[arg-type]
    policy = SummaryPolicy()
    summary = llm(server).complete(build_request(sources, "k3jd9fk2ld0s8fh3jd8s", policy))
    assert isinstance(summary, LlmAnswer)
    draft = parse_draft(summary.data)
    assert draft is not None
    assert check_draft(draft, sources, policy) == ()
    verdict = llm(server).complete(confirmation_request("a b", "a c", "k3jd9fk2ld0s8fh3jd8s"))
    assert isinstance(verdict, LlmAnswer)
    assert parse_verdict(verdict.data) is not None


def test_nul_and_lone_surrogates_of_a_prompt_are_cleaned(server):
    assert isinstance(llm(server).complete(request("a\0b\ud83dc 😀")), LlmAnswer)
    assert server.requests[0].body["messages"][0]["content"] == "ab?c 😀"


@pytest.mark.parametrize("key", ["", "  ", "ключ", "new\nline"])
def test_unusable_key_is_named_without_a_call(server, key):
    outcome = ClaudeLlm(key, "m", server.base_url, 5.0).complete(request())
    assert outcome == LlmUnavailable("invalid_key", outcome.usage)
    assert outcome.usage.attempts == 0
    assert server.requests == []


@pytest.mark.parametrize("url", ["localhost:80", "ftp://x", "http://", "http://x:99999", "http://[", "x"])
def test_unusable_base_url_is_named_without_a_call(url):
    outcome = ClaudeLlm("k", "m", url, 5.0).complete(request())
    assert outcome == LlmUnavailable("invalid_base_url", LlmUsage(attempts=0))


def test_environment_cannot_redirect_or_authenticate_the_call(server, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "ANTHROPIC_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-other")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "other-token")
    assert isinstance(llm(server).complete(request()), LlmAnswer)
    assert server.requests[0].headers["authorization"] == "Bearer sk-test-key"


def test_dead_endpoint_is_a_connection_failure_after_three_attempts():
    with MessagesServer() as gone:
        url = gone.base_url
    outcome = ClaudeLlm("k", "m", url, 5.0, sleep=lambda _: None).complete(request())
    assert outcome == LlmUnavailable("connection", outcome.usage)
    assert outcome.usage.attempts == 3


def test_tls_against_a_plain_port_is_a_connection_failure(server):
    url = server.base_url.replace("http:", "https:")
    outcome = ClaudeLlm("k", "m", url, 5.0, sleep=lambda _: None).complete(request())
    assert isinstance(outcome, LlmUnavailable)
    assert outcome.reason == "connection"


def test_waits_are_full_jitter_under_a_doubling_cap(server):
    server.respond_with(Fault.HTTP_500)
    ceilings: list[float] = []
    slept: list[float] = []

    def uniform(low: float, high: float) -> float:
        ceilings.append(high)
        return low + 0.25 * high

    llm(server, 60.0, uniform=uniform, sleep=slept.append).complete(request())
    assert ceilings[:2] == [1.0, 2.0]
    assert slept == [0.25, 0.5]


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [("3", 3.0), ("0.5", 0.5), ("1e12", 20.0), ("-4", 0.0), ("nan", 0.0), ("inf", 20.0), ("soon", 0.0)],
)
def test_retry_after_is_honoured_up_to_a_cap(server, retry_after, expected):
    server.respond_with(RawResponse(b"{}", 429, (("Retry-After", retry_after),)), DEFAULT)
    slept: list[float] = []
    outcome = llm(server, 60.0, sleep=slept.append).complete(request())
    assert isinstance(outcome, LlmAnswer)
    assert slept == [expected]


def test_no_wait_goes_past_the_deadline(server):
    server.respond_with(RawResponse(b"{}", 503, (("Retry-After", "15"),)))
    slept: list[float] = []
    outcome = llm(server, 10.0, sleep=slept.append).complete(request())
    assert (slept, outcome.usage.attempts) == ([], 1)


def test_tokens_of_refused_answers_are_counted(server):
    server.respond_with(Fault.HTTP_500, Fault.MAX_TOKENS)
    outcome = llm(server).complete(request())
    assert isinstance(outcome, LlmUnavailable)
    assert (outcome.reason, outcome.usage.output_tokens, outcome.usage.attempts) == ("max_tokens", 20, 2)


def test_circuit_opens_after_five_straight_failures(server):
    server.respond_with(Fault.HTTP_404)
    model = llm(server)
    reasons = [model.complete(request()) for _ in range(7)]
    assert [outcome.reason for outcome in reasons if isinstance(outcome, LlmUnavailable)] == [
        *["http_404"] * 5,
        *["circuit_open"] * 2,
    ]
    assert len(server.requests) == 5
    assert reasons[-1].usage.attempts == 0


def test_an_answer_or_a_refusal_closes_the_count(server):
    server.respond_with(*[Fault.HTTP_404] * 4, Fault.REFUSAL, *[Fault.HTTP_404] * 4, DEFAULT)
    model = llm(server)
    outcomes = [model.complete(request()) for _ in range(10)]
    assert isinstance(outcomes[-1], LlmAnswer)


@pytest.mark.parametrize("fault", [Fault.HTTP_401, Fault.HTTP_403])
def test_refused_key_opens_the_circuit_at_once(server, fault):
    server.respond_with(fault)
    model = llm(server)
    first, second = model.complete(request()), model.complete(request())
    assert isinstance(first, LlmUnavailable)
    assert isinstance(second, LlmUnavailable)
    assert (first.reason, second.reason) == (fault.value, "circuit_open")
    assert len(server.requests) == 1


def test_shared_by_threads_each_call_gets_its_own_answer(server):
    server.respond_with(lambda body: {"same": True, "why": body["messages"][0]["content"]})
    model = llm(server)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: model.complete(request(str(n))), range(40)))
    assert [o.data["why"] for o in outcomes if isinstance(o, LlmAnswer)] == [str(n) for n in range(40)]


def test_many_failing_threads_leave_the_circuit_open(server):
    server.respond_with(Fault.HTTP_404)
    model = llm(server)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: model.complete(request()), range(40)))
    assert 5 <= len(server.requests) <= 12


def test_no_thread_stays_behind_after_a_timeout(server):
    server.respond_with(Fault.HANG)
    before = threading.active_count()
    llm(server, 0.3, limits=CallLimits(attempts_max=1)).complete(request())
    for thread in threading.enumerate():
        if thread.name == "llm-attempt":
            thread.join(5.0)
            assert not thread.is_alive()
    assert threading.active_count() <= before + 1


def test_key_and_texts_are_in_no_log_even_at_debug(server, caplog, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_LOG", "debug")
    caplog.set_level("DEBUG")
    server.respond_with(Fault.HTTP_500, {"same": True, "why": "answer-canary"})
    model = llm(server)
    model.complete(request("prompt-canary"))
    server.respond_with(Fault.HTTP_400)
    outcome = model.complete(request("prompt-canary"))
    told = caplog.text + repr(outcome) + repr(model)
    assert not [secret for secret in ("canary", "sk-test-key") if secret in told]


def test_import_of_the_module_loads_no_sdk():
    code = (
        "import sys, hivemind_pipelines.services.llm; print(len({'anthropic', 'httpx2'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "0"
