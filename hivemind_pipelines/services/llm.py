"""The language model behind one Protocol: a structured answer or a reason code, never a text of theirs."""

import email.utils
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from hivemind_pipelines.core.model import LlmAnswer, LlmOutcome, LlmRequest, LlmUnavailable, LlmUsage

if TYPE_CHECKING:
    import ssl

    from httpx2 import Request, Response

_log = logging.getLogger(__name__)

DEFAULT_BASE_URL = "https://api.anthropic.com"


class Llm(Protocol):
    """A model that answers structured requests; `model` names it in stamps and fingerprints."""

    model: str

    def complete(self, request: LlmRequest) -> LlmOutcome:
        """One structured call; never raises for anything the service does."""
        ...


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How hard one `complete` tries: seconds, attempts and bytes."""

    attempts_max: int = 3
    backoff_base_s: float = 0.5
    backoff_max_s: float = 8.0
    retry_after_max_s: float = 20.0
    response_bytes_max: int = 2_000_000
    straight_failures_max: int = 5


class ClaudeLlm:
    """Claude, or any server that speaks the Messages API, through the anthropic SDK; threads may share it.

    One deadline of `call_timeout_s` seconds covers all attempts of a call, waits included. After
    `straight_failures_max` failed calls in a row, or one refused key, every further call of this
    instance answers `circuit_open` without touching the network.
    Reasons: `timeout`, `connection`, `http_<status>`, `http_5xx`, `malformed`, `too_large`, `refusal`,
    `max_tokens`, `stop_reason`, `invalid_key`, `invalid_base_url`, `invalid_request`, `unexpected`,
    `certificate`, `circuit_open`. `tls` says whom to trust, otherwise it is the public authorities.
    """

    def __init__(
        self,
        api_key: str,
        model: str,
        base_url: str | None = None,
        call_timeout_s: float = 60.0,
        *,
        limits: CallLimits | None = None,
        tls: "ssl.SSLContext | None" = None,
        uniform: Callable[[float, float], float] = random.uniform,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.model = model
        self._api_key = api_key.strip()
        self._base_url = (base_url or "").strip() or DEFAULT_BASE_URL
        self._call_timeout_s = call_timeout_s
        self._limits = limits or CallLimits()
        self._uniform = uniform
        self._sleep = sleep
        self._breaker = _Breaker(self._limits.straight_failures_max)
        self._given_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"ClaudeLlm(model={self.model!r})"

    def complete(self, request: LlmRequest) -> LlmOutcome:
        """Ask once, with retries of our own; the outcome carries what all attempts together cost."""
        misconfigured = self._misconfiguration()
        if misconfigured:
            return LlmUnavailable(misconfigured, _NO_ATTEMPT)
        if self._breaker.is_open:
            return LlmUnavailable("circuit_open", _NO_ATTEMPT)
        tls = self._load()
        outcome = self._try_until(time.monotonic() + self._call_timeout_s, request, tls)
        self._breaker.note(outcome)
        return outcome

    def _try_until(self, deadline: float, request: LlmRequest, tls: "ssl.SSLContext") -> LlmOutcome:
        spent = _NO_ATTEMPT
        attempts_max = min(self._limits.attempts_max, request.attempts_max)
        for number in range(1, attempts_max + 1):
            reply = self._attempt(request, tls, deadline)
            spent = _add(spent, reply.usage)
            if reply.data is not None:
                return LlmAnswer(reply.data, spent)
            wait_s = self._wait(number, reply.retry_after_s)
            is_last = number == attempts_max or time.monotonic() + wait_s >= deadline
            if is_last or not reply.is_transient or self._breaker.is_open:
                break
            self._sleep(wait_s)
        return LlmUnavailable(reply.reason, spent)

    def _wait(self, attempt: int, retry_after_s: float) -> float:
        """Full jitter under an exponential cap, or what the server asked for within its own cap."""
        ceiling = min(self._limits.backoff_max_s, self._limits.backoff_base_s * 2.0**attempt)
        return max(self._uniform(0.0, ceiling), min(retry_after_s, self._limits.retry_after_max_s))

    def _attempt(self, request: LlmRequest, tls: "ssl.SSLContext", deadline: float) -> "_Reply":
        """One HTTP exchange on a thread of its own, cut off at the deadline whatever it is waiting for.

        Timeouts of the HTTP client are per read, so a server that drips one byte a second, or a name
        server that never answers, would hold the caller for ever.
        """
        attempt = _Attempt(self._limits.response_bytes_max)
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            return _Reply("timeout", usage=_NO_ATTEMPT)

        def run() -> None:
            attempt.reply = self._exchange(request, tls, remaining_s, attempt)

        thread = threading.Thread(target=run, name="llm-attempt", daemon=True)
        thread.start()
        thread.join(remaining_s)
        if thread.is_alive():
            attempt.cut()
            return _Reply("timeout", is_transient=True)
        return attempt.reply

    def _exchange(
        self, request: LlmRequest, tls: "ssl.SSLContext", timeout_s: float, attempt: "_Attempt"
    ) -> "_Reply":
        import anthropic
        import httpx2

        try:
            with (
                httpx2.Client(
                    transport=_bounded_transport(tls, attempt),
                    timeout=timeout_s,
                    follow_redirects=False,
                    trust_env=False,
                ) as http,
                anthropic.Anthropic(
                    api_key=self._api_key,
                    base_url=self._base_url,
                    timeout=timeout_s,
                    max_retries=0,
                    http_client=http,
                    open_telemetry=False,
                    default_headers={"Accept-Encoding": "identity"},
                ) as client,
            ):
                response = client.messages.with_raw_response.create(
                    model=self.model,
                    max_tokens=request.max_output_tokens,
                    system=_clean(request.system),
                    messages=[{"role": "user", "content": _clean(request.user)}],
                    output_config={"format": {"type": "json_schema", "schema": request.schema}},
                )
                return _read_message(response.http_response.content, request.schema)
        except anthropic.APIStatusError as error:
            return _refused(error.status_code, error.response.headers)
        except anthropic.APITimeoutError:
            return _Reply("timeout", is_transient=True)
        except (anthropic.APIConnectionError, httpx2.TransportError, OSError) as error:
            if attempt.refused_as:
                return _Reply(attempt.refused_as)
            if _is_untrusted(error):
                return _Reply("certificate")
            return _Reply("connection", is_transient=True)
        except (anthropic.AnthropicError, httpx2.InvalidURL, httpx2.HTTPError, ValueError, TypeError):
            return _Reply("invalid_request")
        except Exception as error:  # noqa: BLE001 - its message, or a traceback, may quote the prompt
            _log.warning("llm attempt failed unexpectedly: %s", type(error).__name__)
            return _Reply("unexpected")

    def _misconfiguration(self) -> str | None:
        if not self._api_key or not (self._api_key.isascii() and self._api_key.isprintable()):
            return "invalid_key"
        try:
            parts = urlsplit(self._base_url)
            usable = (
                parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
            )
        except ValueError:
            usable = False
        return None if usable else "invalid_base_url"

    def _load(self) -> "ssl.SSLContext":
        """Import the SDK, which takes seconds, and read the trust store, both before the deadline runs."""
        with self._tls_lock:
            if self._tls is None:
                import anthropic
                import httpx2

                # ANTHROPIC_LOG=debug, or a root logger at DEBUG, would print prompts.
                for name in (anthropic.__name__, "httpx2", "httpcore2"):
                    logging.getLogger(name).setLevel(logging.WARNING)
                self._tls = self._given_tls or httpx2.create_ssl_context(trust_env=False)
            return self._tls


_ONE_ATTEMPT = LlmUsage(attempts=1)
_NO_ATTEMPT = LlmUsage(attempts=0)


@dataclass(frozen=True, slots=True)
class _Reply:
    """What one attempt brought: data, or a reason code and whether trying again may help."""

    reason: str = ""
    data: dict[str, object] | None = None
    usage: LlmUsage = _ONE_ATTEMPT
    is_transient: bool = False
    retry_after_s: float = 0.0


@dataclass(slots=True)
class _Attempt:
    """The sockets of one attempt, so that the waiting thread can cut them."""

    response_bytes_max: int
    reply: _Reply = _Reply("connection", is_transient=True)
    refused_as: str | None = None
    _sockets: list[socket.socket] = field(default_factory=list)
    _is_cut: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.append(connection)
            if self._is_cut:
                _shut(connection)

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for connection in self._sockets:
                _shut(connection)

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore's trace hook: the one way to learn of a socket before the response has begun."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            connection = info["return_value"].get_extra_info("socket")
            if connection is not None:
                self.opened(connection)


def _shut(connection: socket.socket) -> None:
    # close() alone would not wake a thread that is blocked in recv().
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether the server could not prove who it is, which no further attempt changes."""
    import ssl

    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


class _RefusedResponseError(OSError):
    """A response that is not read to its end; `_Attempt.refused_as` says why."""


def _bounded_transport(tls: "ssl.SSLContext", attempt: _Attempt) -> Any:
    """An HTTP transport without connection reuse that counts bytes and reports its sockets."""
    import httpx2

    class BoundedStream(httpx2.SyncByteStream):
        def __init__(self, inner: httpx2.SyncByteStream) -> None:
            self._inner = inner

        def __iter__(self) -> Iterator[bytes]:
            received = 0
            for chunk in self._inner:
                received += len(chunk)
                if received > attempt.response_bytes_max:
                    attempt.refused_as = "too_large"
                    raise _RefusedResponseError
                yield chunk

        def close(self) -> None:
            self._inner.close()

    class BoundedTransport(httpx2.HTTPTransport):
        def handle_request(self, request: "Request") -> "Response":
            request.extensions = {**request.extensions, "trace": attempt.trace}
            response = super().handle_request(request)
            if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                # None was asked for, and a gzip bomb must not be inflated.
                response.close()
                attempt.refused_as = "malformed"
                raise _RefusedResponseError
            if isinstance(response.stream, httpx2.SyncByteStream):
                response.stream = BoundedStream(response.stream)
            return response

    return BoundedTransport(
        verify=tls, trust_env=False, limits=httpx2.Limits(max_connections=1, max_keepalive_connections=0)
    )


class _Breaker:
    """Opens after so many failed calls in a row, or at once when the key is refused, and stays open."""

    def __init__(self, straight_failures_max: int) -> None:
        self._straight_failures_max = straight_failures_max
        self._straight_failures = 0
        self._is_refused = False
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        return self._is_refused or self._straight_failures >= self._straight_failures_max

    def note(self, outcome: LlmOutcome) -> None:
        reason = outcome.reason if isinstance(outcome, LlmUnavailable) else None
        with self._lock:
            if reason in _KEY_REFUSED:
                self._is_refused = True
            elif reason is None or reason in _ANSWERED:
                self._straight_failures = 0 if not self.is_open else self._straight_failures
            else:
                self._straight_failures += 1


_KEY_REFUSED = frozenset({"http_401", "http_403"})
#: The service works, this one request had no usable answer.
_ANSWERED = frozenset({"refusal", "max_tokens"})
_TRANSIENT_STATUS = frozenset({408, 429})


def _refused(status: int, headers: Mapping[str, str]) -> _Reply:
    if status >= 500:
        return _Reply("http_5xx", is_transient=True, retry_after_s=_retry_after_s(headers))
    transient = status in _TRANSIENT_STATUS
    return _Reply(f"http_{status}", is_transient=transient, retry_after_s=_retry_after_s(headers))


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds the server asked for, 0 when it said nothing usable; never negative, NaN or infinite."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError, OSError):
            return 0.0
    return min(seconds, 86_400.0) if seconds > 0 else 0.0


def _read_message(body: bytes, schema: Mapping[str, object]) -> _Reply:
    message = _decode(body)
    if not isinstance(message, dict):
        return _Reply("malformed")
    usage = _usage(message.get("usage"))
    stop_reason = message.get("stop_reason")
    if stop_reason in ("max_tokens", "model_context_window_exceeded"):
        return _Reply("max_tokens", usage=usage)
    if stop_reason == "refusal":
        return _Reply("refusal", usage=usage)
    if stop_reason != "end_turn":
        return _Reply("stop_reason" if isinstance(stop_reason, str) else "malformed", usage=usage)
    data = _decode(_text(message.get("content")))
    if not isinstance(data, dict) or not _conforms(data, schema) or not _is_storable(data):
        return _Reply("malformed", usage=usage)
    return _Reply(data=data, usage=usage)


def _decode(text: str | bytes) -> object:
    """The JSON value, or None for anything that is not strict JSON of sane depth."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


def _text(content: object) -> str:
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text") for block in blocks if isinstance(block, dict) and block.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def _usage(usage: object) -> LlmUsage:
    counts = usage if isinstance(usage, dict) else {}
    return LlmUsage(_count(counts.get("input_tokens")), _count(counts.get("output_tokens")), attempts=1)


def _count(value: object) -> int:
    return min(value, 10**9) if type(value) is int and value > 0 else 0


def _add(total: LlmUsage, more: LlmUsage) -> LlmUsage:
    return LlmUsage(
        total.input_tokens + more.input_tokens,
        total.output_tokens + more.output_tokens,
        total.attempts + more.attempts,
    )


def _is_storable(value: object) -> bool:
    """Whether every string inside can be kept by Postgres: no NUL, no lone surrogate."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return all(_is_storable(key) and _is_storable(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(_is_storable(inner) for inner in value)
    return True


_JSON_TYPES: dict[str, Callable[[object], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null": lambda value: value is None,
}


def _conforms(value: object, schema: object) -> bool:
    """The part of JSON Schema that requests use: type, enum, required, properties, items."""
    if not isinstance(schema, Mapping):
        return True
    kind = schema.get("type")
    if kind in _JSON_TYPES and not _JSON_TYPES[kind](value):
        return False
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return False
    if isinstance(value, dict):
        return _object_conforms(value, schema)
    if isinstance(value, list):
        return all(_conforms(inner, schema.get("items")) for inner in value)
    return True


def _object_conforms(value: dict[str, object], schema: Mapping[str, Any]) -> bool:
    properties = schema.get("properties") or {}
    if any(name not in value for name in schema.get("required") or ()):
        return False
    if schema.get("additionalProperties") is False and any(name not in properties for name in value):
        return False
    return all(_conforms(inner, properties.get(name)) for name, inner in value.items())


def _clean(text: str) -> str:
    """What can be sent: NUL removed, lone surrogates replaced."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
