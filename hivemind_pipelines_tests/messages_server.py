"""A real HTTP server on 127.0.0.1 that speaks the Messages API and can be told to misbehave.

    with MessagesServer() as server:
        llm = ClaudeLlm("key", "model", server.base_url, call_timeout_s=5.0)
        ...
        assert len(server.requests) == 2

Without instructions it answers every request with JSON that conforms to the request's schema: sentences
are the first ones of the notes in the prompt, each citing its note, booleans are true, numbers 1.

`server.respond_with(*answers)` programs it. The n-th request gets the n-th answer, the last answer stays
for all later ones; an answer is

- a dict: sent as the JSON text of a well-formed message,
- a function of the request body that returns an answer: `server.respond_with(lambda body: {...})`,
- a `Fault`: a named way to misbehave, `server.respond_with(Fault.HTTP_500, DEFAULT)` fails once,
- a `RawResponse`: status, headers and body as they are,
- `DEFAULT`: the schema-conforming answer.

`server.requests` holds every request in order of arrival (headers with lower-case names, raw bytes, decoded
body), `server.misbehaved` counts the faults sent. `Fault` is iterable: parametrize over it, and look into
`TRANSIENT` for those after which another attempt is right.
"""

import gzip
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from hivemind_pipelines.core.text import sentences

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RawResponse:
    """One response; `declared_length` lies about the body, `pace_s` is the pause after each byte."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    declared_length: int | None = None
    pace_s: float = 0.0
    drips_headers: bool = False


@dataclass(frozen=True, slots=True)
class Hang:
    """Say nothing until the server is closed."""


@dataclass(frozen=True, slots=True)
class Close:
    """Send these bytes and close the connection, with a TCP reset if asked."""

    sent: bytes = b""
    is_reset: bool = False


class Default:
    """The schema-conforming answer."""


DEFAULT: Final = Default()


class Fault(StrEnum):
    """The ways to misbehave, by name."""

    HTTP_400 = "http_400"
    HTTP_401 = "http_401"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_408 = "http_408"
    HTTP_413 = "http_413"
    HTTP_422 = "http_422"
    HTTP_429 = "http_429"
    HTTP_429_RETRY_AFTER_ZERO = "http_429_retry_after_zero"
    HTTP_429_RETRY_AFTER_HUGE = "http_429_retry_after_huge"
    HTTP_429_RETRY_AFTER_NEGATIVE = "http_429_retry_after_negative"
    HTTP_429_RETRY_AFTER_NAN = "http_429_retry_after_nan"
    HTTP_429_RETRY_AFTER_WORDS = "http_429_retry_after_words"
    HTTP_429_RETRY_AFTER_DATE = "http_429_retry_after_date"
    HTTP_500 = "http_500"
    HTTP_500_HTML = "http_500_html"
    HTTP_502 = "http_502"
    HTTP_503 = "http_503"
    HTTP_504 = "http_504"
    HTTP_529 = "http_529"
    NO_CONTENT_204 = "no_content_204"
    REDIRECT_301 = "redirect_301"
    REDIRECT_307 = "redirect_307"
    REDIRECT_LOOP = "redirect_loop"
    CLOSED_BEFORE_RESPONSE = "closed_before_response"
    CLOSED_IN_HEADERS = "closed_in_headers"
    CLOSED_IN_BODY = "closed_in_body"
    RESET = "reset"
    HANG = "hang"
    DRIP_HEADERS = "drip_headers"
    DRIP_BODY = "drip_body"
    NOT_HTTP = "not_http"
    HTML = "html"
    EMPTY_BODY = "empty_body"
    TRUNCATED_JSON = "truncated_json"
    JSON_ARRAY = "json_array"
    JSON_NULL = "json_null"
    DEEP_JSON = "deep_json"
    INVALID_UTF8 = "invalid_utf8"
    UTF16 = "utf16"
    HUGE_BODY = "huge_body"
    GZIP = "gzip"
    GZIP_BOMB = "gzip_bomb"
    NO_CONTENT = "no_content"
    CONTENT_NULL = "content_null"
    CONTENT_IS_TEXT = "content_is_text"
    ONLY_THINKING = "only_thinking"
    TOOL_USE = "tool_use"
    EMPTY_TEXT = "empty_text"
    PROSE_TEXT = "prose_text"
    FENCED_JSON = "fenced_json"
    ANSWER_TRUNCATED = "answer_truncated"
    ANSWER_ARRAY = "answer_array"
    ANSWER_EMPTY_OBJECT = "answer_empty_object"
    ANSWER_WRONG_TYPES = "answer_wrong_types"
    ANSWER_NAN = "answer_nan"
    ANSWER_NUL = "answer_nul"
    ANSWER_LONE_SURROGATE = "answer_lone_surrogate"
    REFUSAL = "refusal"
    MAX_TOKENS = "max_tokens"
    PAUSE_TURN = "pause_turn"
    STOP_REASON_MISSING = "stop_reason_missing"
    ERROR_WITH_STATUS_200 = "error_with_status_200"


Answer = dict[str, Any] | RawResponse | Hang | Close | Fault | Default | Callable[[Body], Any]


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as it arrived; `body` is None when it was not a JSON object."""

    path: str
    headers: dict[str, str]
    raw: bytes
    body: Body | None


class MessagesServer:
    """The server of the module's docstring; a context manager, any free port, one thread a connection.

    With `tls` it speaks HTTPS alone; `connections` counts what came in, whether a session came about or not.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._answers: tuple[Answer, ...] = (DEFAULT,)
        self._answered = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.requests: list[RecordedRequest] = []
        self.misbehaved = 0
        self._http = _Server(("127.0.0.1", 0), _handler_of(self))
        self._http.tls = tls
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def base_url(self) -> str:
        """What to give a client as its base URL."""
        scheme = "https" if self._http.tls else "http"
        return f"{scheme}://127.0.0.1:{self._http.server_address[1]}"

    @property
    def connections(self) -> int:
        """How many were accepted."""
        return self._http.connections

    def respond_with(self, *answers: Answer) -> None:
        """Answer the requests from now on with these, in order; the last one stays."""
        with self._lock:
            self._answers = answers or (DEFAULT,)
            self._answered = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _accept(self, request: RecordedRequest) -> RawResponse | Hang | Close:
        with self._lock:
            self.requests.append(request)
            answer = self._answers[min(self._answered, len(self._answers) - 1)]
            self._answered += 1
            self.misbehaved += isinstance(answer, Fault)
        return _resolve(answer, request.body or {}, self.base_url)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    tls: ssl.SSLContext | None = None
    connections = 0

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections += 1
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """On the connection's own thread, for a handshake may take as long as the client likes."""
        wrapped = request if self.tls is None else self.tls.wrap_socket(request, server_side=True)
        super().finish_request(wrapped, client_address)
        if wrapped is not request:
            wrapped.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


def _handler_of(server: MessagesServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            response = server._accept(RecordedRequest(self.path, headers, raw, _json_object(raw)))
            with suppress(OSError):
                self._send(response)
            self.close_connection = True

        def do_GET(self) -> None:
            self.do_POST()

        def _send(self, response: RawResponse | Hang | Close) -> None:
            match response:
                case Hang():
                    server._closing.wait()
                case Close(sent=sent, is_reset=is_reset):
                    self.wfile.write(sent)
                    if is_reset:
                        _reset_on_close(self.connection)
                case RawResponse():
                    self._send_response(response)

        def _send_response(self, response: RawResponse) -> None:
            head = _head(response)
            if not response.pace_s:
                self.wfile.write(head + response.body)
                return
            if not response.drips_headers:
                self.wfile.write(head)
            for byte in (head if response.drips_headers else b"") + response.body:
                self.wfile.write(bytes([byte]))
                if server._closing.wait(response.pace_s):
                    return

        def log_message(self, format: str, *args: object) -> None:
            """Silent: requests are recorded, not printed."""

    return Handler


def _head(response: RawResponse) -> bytes:
    length = len(response.body) if response.declared_length is None else response.declared_length
    lines = [f"HTTP/1.1 {response.status} Said"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    if response.status != 204:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join([*lines, "Connection: close", "", ""])).encode("latin-1")


def _reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _json_object(raw: bytes) -> Body | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _resolve(answer: Answer, body: Body, base_url: str) -> RawResponse | Hang | Close:
    if isinstance(answer, RawResponse | Hang | Close):
        return answer
    if isinstance(answer, Fault):
        return _FAULTS[answer](body, base_url)
    if isinstance(answer, Default):
        return _message(json.dumps(conforming_answer(body)))
    if isinstance(answer, dict):
        return _message(json.dumps(answer))
    return _resolve(answer(body), body, base_url)


def _message(text: str, **changes: object) -> RawResponse:
    """A well-formed message around one text block; `changes` overwrite its top-level keys."""
    message = {
        "id": "msg_0000000000000000",
        "type": "message",
        "role": "assistant",
        "model": "test-model",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 100, "output_tokens": 20},
        **changes,
    }
    return RawResponse(
        json.dumps({key: value for key, value in message.items() if value is not ...}).encode()
    )


def conforming_answer(body: Body) -> Body:
    """A JSON object that conforms to the request's schema, its strings copied from the prompt's notes."""
    schema = body.get("output_config", {}).get("format", {}).get("schema", {"type": "object"})
    answer = _value(schema, iter(_first_sentences(_user_text(body))))
    return answer if isinstance(answer, dict) else {}


def _value(schema: dict[str, Any], said: Iterator[tuple[int, str]]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return _object(schema, said)
        case "array":
            items = schema.get("items", {})
            return [_value(items, said) for _ in range(2 if items.get("type") == "object" else 1)]
        case "integer" | "number":
            return schema.get("maximum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return next(said, (1, "A short answer."))[1]


def _object(schema: dict[str, Any], said: Iterator[tuple[int, str]]) -> Body:
    """A sentence with the numbers of its sources stays together; everything else goes by type."""
    properties = schema.get("properties", {})
    numbers = [name for name, inner in properties.items() if _is_number_list(inner)]
    texts = [
        name for name, inner in properties.items() if inner.get("type") == "string" and "enum" not in inner
    ]
    if len(numbers) == 1 and len(texts) == 1:
        number, sentence = next(said, (1, "A short answer."))
        rest = {name: inner for name, inner in properties.items() if name not in (numbers[0], texts[0])}
        others = {name: _value(inner, said) for name, inner in rest.items()}
        return {texts[0]: sentence, numbers[0]: [number], **others}
    return {name: _value(inner, said) for name, inner in properties.items()}


def _is_number_list(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "array" and schema.get("items", {}).get("type") == "integer"


def notes(body: Body | None) -> list[tuple[int, str]]:
    """The number and the text of every note that summarization.build_request quoted."""
    found = _NOTE.finditer(_user_text(body or {}))
    return [(int(match.group(1)), json.loads(match.group(3))) for match in found]


def _user_text(body: Body) -> str:
    content = body["messages"][0]["content"] if body.get("messages") else ""
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content if isinstance(block, dict))


_NOTE = re.compile(r"^\[note (\d+) (\w+)\]\n(.*)\n\[end of note \1 \2\]$", re.MULTILINE)


def _first_sentences(prompt: str) -> list[tuple[int, str]]:
    """The number and the first sentence of every note that summarization.build_request quoted."""
    quoted = [
        (int(match.group(1)), sentences(json.loads(match.group(3)))) for match in _NOTE.finditer(prompt)
    ]
    return [(number, inside[0]) for number, inside in quoted if inside]


Builder = Callable[[Body, str], RawResponse | Hang | Close]

_RETRY_DATE = format_datetime(datetime.now(UTC) + timedelta(days=3650), usegmt=True)
_ERROR = {"type": "error", "error": {"type": "api_error", "message": "canary-of-the-server"}}


def _error(status: int, retry_after: str | None = None) -> Builder:
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    if retry_after is not None:
        headers += (("Retry-After", retry_after),)
    return lambda body, url: RawResponse(json.dumps(_ERROR).encode(), status, headers)


def _redirect(status: int, path: str) -> Builder:
    return lambda body, url: RawResponse(b"", status, (("Location", url + path),))


def _raw(body: bytes, content_type: str = "application/json", status: int = 200) -> Builder:
    return lambda _, url: RawResponse(body, status, (("Content-Type", content_type),))


def _good(body: Body) -> RawResponse:
    return _message(json.dumps(conforming_answer(body)))


def _with(**changes: object) -> Builder:
    """The default answer with top-level keys of the message changed; `...` removes a key."""
    return lambda body, url: _message(json.dumps(conforming_answer(body)), **changes)


def _said(text: str) -> Builder:
    return lambda body, url: _message(text)


def _poisoned(poison: str) -> Builder:
    """The default answer with `poison` appended, JSON-escaped, to each of its strings."""

    def poison_strings(value: Any) -> Any:
        if isinstance(value, str):
            return value + poison
        if isinstance(value, list):
            return [poison_strings(inner) for inner in value]
        if isinstance(value, dict):
            return {name: poison_strings(inner) for name, inner in value.items()}
        return value

    return lambda body, url: _message(json.dumps(poison_strings(conforming_answer(body))))


def _wrong_types(body: Body, url: str) -> RawResponse:
    return _message(json.dumps({name: {"wrong": [None]} for name in conforming_answer(body)}))


def _gzip(body: Body, url: str) -> RawResponse:
    packed = gzip.compress(_good(body).body)
    return RawResponse(packed, 200, (("Content-Type", "application/json"), ("Content-Encoding", "gzip")))


def _gzip_bomb(body: Body, url: str) -> RawResponse:
    return replace(_gzip(body, url), body=gzip.compress(b" " * 50_000_000, compresslevel=1))


_HTML = b"<!doctype html><html><body><h1>It works!</h1></body></html>"

_FAULTS: dict[Fault, Builder] = {
    Fault.HTTP_400: _error(400),
    Fault.HTTP_401: _error(401),
    Fault.HTTP_403: _error(403),
    Fault.HTTP_404: _error(404),
    Fault.HTTP_408: _error(408),
    Fault.HTTP_413: _error(413),
    Fault.HTTP_422: _error(422),
    Fault.HTTP_429: _error(429),
    Fault.HTTP_429_RETRY_AFTER_ZERO: _error(429, "0"),
    Fault.HTTP_429_RETRY_AFTER_HUGE: _error(429, "1e12"),
    Fault.HTTP_429_RETRY_AFTER_NEGATIVE: _error(429, "-5"),
    Fault.HTTP_429_RETRY_AFTER_NAN: _error(429, "nan"),
    Fault.HTTP_429_RETRY_AFTER_WORDS: _error(429, "in a while"),
    Fault.HTTP_429_RETRY_AFTER_DATE: _error(429, _RETRY_DATE),
    Fault.HTTP_500: _error(500),
    Fault.HTTP_500_HTML: _raw(_HTML, "text/html", 500),
    Fault.HTTP_502: _error(502),
    Fault.HTTP_503: _error(503, "1"),
    Fault.HTTP_504: _error(504),
    Fault.HTTP_529: _error(529),
    Fault.NO_CONTENT_204: _raw(b"", status=204),
    Fault.REDIRECT_301: _redirect(301, "/elsewhere"),
    Fault.REDIRECT_307: _redirect(307, "/elsewhere"),
    Fault.REDIRECT_LOOP: _redirect(308, "/v1/messages"),
    Fault.CLOSED_BEFORE_RESPONSE: lambda body, url: Close(),
    Fault.CLOSED_IN_HEADERS: lambda body, url: Close(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    Fault.CLOSED_IN_BODY: lambda body, url: replace(_good(body), declared_length=100_000),
    Fault.RESET: lambda body, url: Close(is_reset=True),
    Fault.HANG: lambda body, url: Hang(),
    Fault.DRIP_HEADERS: lambda body, url: replace(_good(body), pace_s=0.05, drips_headers=True),
    Fault.DRIP_BODY: lambda body, url: replace(_good(body), pace_s=0.05),
    Fault.NOT_HTTP: lambda body, url: Close(b"220 mail.example.test ESMTP ready\r\n"),
    Fault.HTML: _raw(_HTML, "text/html"),
    Fault.EMPTY_BODY: _raw(b""),
    Fault.TRUNCATED_JSON: lambda body, url: RawResponse(_good(body).body[:-25]),
    Fault.JSON_ARRAY: _raw(b"[1, 2, 3]"),
    Fault.JSON_NULL: _raw(b"null"),
    Fault.DEEP_JSON: _raw(b"[" * 100_000 + b"]" * 100_000),
    Fault.INVALID_UTF8: lambda body, url: RawResponse(_good(body).body.replace(b"msg_", b"\xff\xfe\xc0")),
    Fault.UTF16: lambda body, url: RawResponse(_good(body).body.decode().encode("utf-16")[:-3]),
    Fault.HUGE_BODY: lambda body, url: RawResponse(b" " * 10_000_000 + _good(body).body),
    Fault.GZIP: _gzip,
    Fault.GZIP_BOMB: _gzip_bomb,
    Fault.NO_CONTENT: _with(content=[]),
    Fault.CONTENT_NULL: _with(content=None),
    Fault.CONTENT_IS_TEXT: _with(content="just text"),
    Fault.ONLY_THINKING: _with(content=[{"type": "thinking", "thinking": "hm", "signature": "s"}]),
    Fault.TOOL_USE: _with(
        stop_reason="tool_use", content=[{"type": "tool_use", "id": "t", "name": "n", "input": {}}]
    ),
    Fault.EMPTY_TEXT: _said(""),
    Fault.PROSE_TEXT: _said("Sure! Here is the summary you asked for."),
    Fault.FENCED_JSON: lambda body, url: _message(f"```json\n{json.dumps(conforming_answer(body))}\n```"),
    Fault.ANSWER_TRUNCATED: lambda body, url: _message(json.dumps(conforming_answer(body))[:-4]),
    Fault.ANSWER_ARRAY: lambda body, url: _message(json.dumps([conforming_answer(body)])),
    Fault.ANSWER_EMPTY_OBJECT: _said("{}"),
    Fault.ANSWER_WRONG_TYPES: _wrong_types,
    Fault.ANSWER_NAN: _said('{"same": true, "confidence": NaN}'),
    Fault.ANSWER_NUL: _poisoned("\0"),
    Fault.ANSWER_LONE_SURROGATE: _poisoned("\ud83d"),
    Fault.REFUSAL: _with(stop_reason="refusal"),
    Fault.MAX_TOKENS: _with(stop_reason="max_tokens"),
    Fault.PAUSE_TURN: _with(stop_reason="pause_turn"),
    Fault.STOP_REASON_MISSING: _with(stop_reason=...),
    Fault.ERROR_WITH_STATUS_200: _raw(json.dumps(_ERROR).encode()),
}

#: After these another attempt is right; after all others it is not.
TRANSIENT: frozenset[Fault] = frozenset(
    {
        Fault.HTTP_408,
        Fault.CLOSED_BEFORE_RESPONSE,
        Fault.CLOSED_IN_HEADERS,
        Fault.CLOSED_IN_BODY,
        Fault.RESET,
        Fault.NOT_HTTP,
    }
) | {fault for fault in Fault if fault.startswith(("http_429", "http_5"))}
