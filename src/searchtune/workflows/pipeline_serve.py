"""A pipeline behind `http://127.0.0.1`, for trying it from another program on the same machine.

    GET  /health   {"status": "ok", "stages": {...}, "costs": {...}}
    POST /search   {"query": "...", "history": [...], "stages": {"rewrite": false}, "top": 5} -> one result

It listens on the loopback interface alone, answers one search at a time, and has no password: a page in a browser is
kept out by asking for JSON's content type and for a host of this machine. For anything beyond, put a real server in
front of `Chain`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from searchtune.errors import ConfigError, DataError, SearchtuneError, StorageError
from searchtune.reading import shown, strict_json
from searchtune.workflows.open_pipeline import OpenPipeline
from searchtune.workflows.pipeline_run import read_turn, spent

HOST = "127.0.0.1"
MOST_BYTES = 64 * 1024
"""Of a request's body."""
_SECONDS = 30.0
"""A client that says nothing for so long is let go."""
_MOST_DIGITS = 12
"""Of a length: Python itself refuses to read numbers of some thousands."""
_HOSTS = ("127.0.0.1", "localhost")


class Refused(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def make_server(opened: OpenPipeline, port: int = 8080) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 that is bound and not yet running; port 0 takes a free one.

    Raises:
        StorageError: the port is taken, or not allowed.
    """
    turn = threading.Lock()

    class Handler(_Handler):
        pipeline = opened
        lock = turn

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise StorageError(f"port {port} of {HOST} cannot be used ({error.strerror}); choose another --port") from error


def serve(opened: OpenPipeline, port: int = 8080, *, ready: Callable[[str], None] = lambda _: None) -> None:
    """Serve until Ctrl-C. `ready` is told the address once requests are taken."""
    server = make_server(opened, port)
    server.daemon_threads = True
    try:
        ready(f"http://{HOST}:{server.server_address[1]}")
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def answer_request(opened: OpenPipeline, body: bytes) -> dict[str, Any]:
    """What a body of `/search` asks for.

    Raises:
        Refused: it is no JSON object, or asks for what there is not.
    """
    try:
        row = strict_json(body)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else shown(error)
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {why}") from error
    if not isinstance(row, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, 'the body is no JSON object; send {"query": ...}')
    stages, top = row.get("stages") or {}, row.get("top", opened.spec.top)
    if not isinstance(stages, dict):
        raise Refused(
            HTTPStatus.BAD_REQUEST, f'stages is {shown(repr(stages))}; give an object such as {{"rewrite": false}}'
        )
    if not isinstance(top, int) or isinstance(top, bool):
        raise Refused(HTTPStatus.BAD_REQUEST, f"top is {shown(repr(top))}; give a whole number")
    try:
        turn = read_turn(row, extra=("stages", "top"))
        return opened.chain.ask([turn], stages=stages, top=top)[0].to_json()
    except (ConfigError, DataError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error


class _Handler(BaseHTTPRequestHandler):
    """One connection. `pipeline` and `lock` are set by the server that makes it."""

    pipeline: OpenPipeline
    lock: threading.Lock
    server_version = "searchtune"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS

    def do_GET(self) -> None:
        self._reply(self._get)

    def do_POST(self) -> None:
        self._reply(self._post)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: queries are nobody's business."""

    def _get(self) -> dict[str, Any]:
        if self._path() == "/search":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "/search takes POST")
        if self._path() != "/health":
            raise Refused(HTTPStatus.NOT_FOUND, f"nothing at {self._path()[:80]}; there are GET /health, POST /search")
        return {"status": "ok", "stages": self.pipeline.chain.settings(), "costs": spent(self.pipeline)}

    def _post(self) -> dict[str, Any]:
        if self._path() == "/health":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "/health takes GET")
        if self._path() != "/search":
            raise Refused(HTTPStatus.NOT_FOUND, f"nothing at {self._path()[:80]}; there are GET /health, POST /search")
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json")
        body = self._body()
        with self.lock:
            return answer_request(self.pipeline, body)

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _body(self) -> bytes:
        given = self.headers.get("Content-Length")
        if given is None or re.fullmatch("[0-9]+", given) is None:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "send Content-Length, a whole number in plain digits")
        if len(given.lstrip("0")) > _MOST_DIGITS or int(given) > MOST_BYTES:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of {shown(given)} bytes; at most {MOST_BYTES} are read"
            )
        body = self.rfile.read(int(given))
        if len(body) < int(given):
            raise Refused(HTTPStatus.BAD_REQUEST, f"the body ends after {len(body)} of {given} bytes")
        return body

    def _reply(self, make: Callable[[], dict[str, Any]]) -> None:
        status, found = HTTPStatus.OK, {}
        try:
            if self.headers.get("Host", HOST).rsplit(":", 1)[0] not in _HOSTS:
                raise Refused(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost alone")
            found = make()
        except Refused as refused:
            status, found = refused.status, {"error": str(refused)}
        except SearchtuneError as error:
            status, found = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)}
        body = json.dumps(found, ensure_ascii=False).encode(errors="backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if status >= HTTPStatus.BAD_REQUEST:  # what is left of a refused body must not be read as the next request
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)
