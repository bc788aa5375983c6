"""One question to an OpenAI-compatible chat endpoint: retries, limits of time and size, and a key that is never told.

Whatever a server says is cleaned where it comes in (`clean_text`): the key is taken out by its value, so that a
server which repeats it puts it into no reply, journal, log or error, and so is what steers a terminal.

The protocol is that of vLLM, text-generation-inference, Ollama and others: `POST {url}/chat/completions`. Nothing here
knows labels or samples; `models/remote.py` does.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from searchtune.clean_text import clean, clean_all
from searchtune.errors import ConfigError, MissingExtraError, ModelError

if TYPE_CHECKING:
    import httpx

_LOG = logging.getLogger(__name__)
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
"""Seconds between two attempts: doubled each time, less up to a half by chance."""
_LONGEST_ASKED = 600.0
"""Seconds: a server that asks for a longer wait is asked again after this."""
_MAX_BODY = 16 * 1024 * 1024
"""Bytes of an answer; no chat reply comes near."""
_SHOWN = 300
"""Characters of a server's own words in an error."""
_MAX_SHOWN = 64 * 1024
"""Bytes of an error's body that are looked at."""
_TOLD_WAIT = 5.0
"""Seconds: longer waits for another attempt are told as a warning, others only in the log."""
_REMEDIES = {
    400: "see what it says",
    401: "the key is not accepted: check the environment variable that holds it",
    402: "the account is not paid up",
    403: "the key may not use this model: check the key and the model's name",
    404: "check the url (it often ends in /v1) and the model's name; GET {url}/models lists the names",
    413: "the prompts are too long for it: shorten them",
    422: "the request is not to its liking: see what it says",
}
_OF_THE_QUESTION = frozenset({400, 413, 414, 422, 451})
"""Statuses by which one question may be turned down for what it holds, while others are answered."""
_OF_ALL = re.compile(
    r"insufficient_quota|invalid_api_key|model_not_found|incorrect api key|"
    r"\bmodel\b.{0,120}\b(?:not found|does(?: not|n't) exist|not (?:a )?valid|unknown|no such|not available)"
    r"|\b(?:unknown|invalid|no such|unsupported|not a valid) model\b",
    re.IGNORECASE | re.DOTALL,
)
"""Words that mean the whole job, whatever the status."""
_SECRET = 8
"""Characters: a shorter key that is a plain word is the placeholder of a server without keys, and left in replies."""
_USERINFO = re.compile(r"(?<=://)[^\s/@\"'<>]+@")
_QUERY = re.compile(r"(?<=://)([^\s?#\"'<>]+)[?#][^\s\"'<>]+")


class RemoteError(ModelError):
    """A remote model does not answer, or refuses to."""

    done: object = None
    """What was read before, where the caller would lose it otherwise."""


class GaveUpError(RemoteError):
    """One question had no answer in any attempt; others may have."""

    reached = False
    """Whether a server replied at all."""


class TurnedDownError(RemoteError):
    """One question was turned down for what it holds, as by a content filter or for its length; others may not be."""


@dataclass(frozen=True)
class Endpoint:
    """Where a remote model is and how it is asked.

    Raises:
        ConfigError: a url that is none or holds a password, or a number out of range.
    """

    url: str
    """Up to and with `/v1`, such as http://localhost:8000/v1."""
    model: str
    key_variable: str | None = None
    """The environment variable that holds the key; its value is written nowhere."""
    concurrency: int = 8
    """Questions under way at once."""
    timeout: float = 120.0
    """Seconds for one attempt."""
    attempts: int = 6
    top_logprobs: int = 20
    """How many of the likeliest first tokens to ask for; 0 where the endpoint gives none."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request, such as `chat_template_kwargs`; they win over those that are set here."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"url {_shown(self.url)!r} is no address: {error}") from error
        if parts.scheme not in ("http", "https") or not host or port == 0 or re.search(r"[\s\x00-\x1f\x7f]", self.url):
            raise ConfigError(f"url {_shown(self.url)!r} is no address; it looks like http://localhost:8000/v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                f"the url of {host} holds a name, password or query; give it without, and the "
                "key in an environment variable (key_variable)"
            )
        least = {"concurrency": 1, "attempts": 1, "top_logprobs": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not self.timeout > 0:
            raise ConfigError(f"timeout is {self.timeout}; it must be above 0 seconds")
        if not self.model:
            raise ConfigError("the remote model has no name; GET {url}/models lists the names")


class ChatClient:
    """A connection to an endpoint that many threads may use.

    `wait` is called with the seconds between two attempts; `close` ends the waiting of all threads.

    Raises:
        MissingExtraError: httpx is not installed.
        ConfigError: the environment variable of the key is not set.
    """

    def __init__(self, endpoint: Endpoint, *, wait: Callable[[float], Any] | None = None) -> None:
        if importlib.util.find_spec("httpx") is None:
            raise MissingExtraError("remote models take httpx: pip install 'searchtune[remote]'")
        import httpx

        self.endpoint = endpoint
        self._key = _key(endpoint.key_variable)
        self._written = _written(self._key)
        self._secret = len(self._key) >= _SECRET or (len(self._key) > _SECRET // 2 and not self._key.isalpha())
        self.url = self._told(endpoint.url.rstrip("/"))
        """As it may be shown."""
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._random = random.Random()
        headers = {"Content-Type": "application/json"}
        try:
            self._client = httpx.Client(
                headers=headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
                timeout=endpoint.timeout,
                follow_redirects=False,  # the key goes to the host that the user named
                limits=httpx.Limits(max_connections=endpoint.concurrency),
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise ConfigError(
                f"{self.url}: no connection can be made ({_shown(str(error))}); check the environment variables "
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE"
            ) from error

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Make no further attempts, in any thread."""
        self._closed.set()
        self._client.close()

    def ask(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one question, cleaned, asked again where that may help.

        Asked again: on 408, 409, 425, 429 and 5xx, broken connections, timeouts, and answers that are no JSON object;
        after as long as the server asks for (Retry-After, up to ten minutes), else after .5 s, doubled each time up to
        a minute, less up to a half by chance.

        Raises:
            GaveUpError: no answer in any attempt.
            TurnedDownError: an error that may be of this question alone (400, 413, 414, 422, 451).
            RemoteError: an error that will not go away.
        """
        body = {"model": self.endpoint.model, **payload, **self.endpoint.extra}
        content = json.dumps(body).encode("ascii")
        reason, reached = "closed", False
        for attempt in range(1, self.endpoint.attempts + 1):
            if self._closed.is_set():
                break
            answer, reason, asked = self._attempt(content)
            if answer is not None:
                return answer
            reached = reached or reason.startswith("status")
            if attempt < self.endpoint.attempts:
                seconds = self._pause(attempt, asked)
                level = logging.WARNING if seconds >= _TOLD_WAIT else logging.INFO
                _LOG.log(level, "%s: %s; attempt %d in %.1f s", self.url, reason, attempt + 1, seconds)
                self._wait(seconds)
        error = GaveUpError(f"{self.url}: no answer in {self.endpoint.attempts} attempts; the last: {reason}")
        error.reached = reached
        raise error

    def _attempt(self, body: bytes) -> tuple[dict[str, Any] | None, str, float | None]:
        """The answer, or why there is none yet and for how many seconds the server asks to be left alone."""
        import httpx

        try:
            with self._client.stream(
                "POST", f"{self.endpoint.url.rstrip('/')}/chat/completions", content=body
            ) as response:
                content = self._content(response)
        except httpx.TimeoutException:
            return None, f"nothing came within {self.endpoint.timeout:g} s", None
        except (httpx.TransportError, httpx.DecodingError) as error:
            return None, self._told(str(error) or type(error).__name__), None
        except httpx.InvalidURL as error:
            raise RemoteError(f"{self.url}: no address: {self._told(str(error))}") from error
        except RuntimeError as error:
            if not self._closed.is_set():
                raise
            return None, str(error), None
        if response.status_code != 200:
            return None, self._status(response, content), _retry_after(response.headers)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            said = self._told(content[:_MAX_SHOWN].decode(errors="replace"))
            return None, f"an answer that is no JSON object: {said!r}", None
        cleaned: dict[str, Any] = clean_all(answer, self._hidden if self._secret else str)
        return cleaned, "", None

    def _status(self, response: httpx.Response, content: bytes) -> str:
        """Why there is no answer yet, of a status that may pass.

        Raises:
            TurnedDownError, RemoteError: of one that will not.
        """
        status = response.status_code
        if 300 <= status < 400:
            where = self._told(response.headers.get("location", "nowhere"))
            raise RemoteError(
                f"{self.url}: sends on to {where}; that is not followed, so that the key goes to "
                "no other host: give the right address as url"
            )
        message = _message(content)
        said = f"status {status}: {self._told(message)}"
        of_all = bool(_OF_ALL.search(content[:_MAX_SHOWN].decode(errors="replace")))
        if (status in (408, 409, 425, 429) or status >= 500 or status < 300) and not (status == 429 and of_all):
            return said
        remedy = _REMEDIES.get(status, "see what it says").replace("{url}", self.url)
        if of_all and status not in (401, 403):
            remedy = _REMEDIES[404].replace("{url}", self.url) if "model" in message else _REMEDIES[400]
        kind = TurnedDownError if status in _OF_THE_QUESTION and not of_all else RemoteError
        raise kind(f"{self.url}: {said} ({remedy})")

    def _content(self, response: httpx.Response) -> bytes:
        """The body, whole, in time and of a reasonable size."""
        import httpx

        began = time.monotonic()
        pieces, size = [], 0
        for piece in response.iter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > _MAX_BODY:
                raise RemoteError(f"{self.url}: an answer of more than {_MAX_BODY >> 20} MiB; is this a chat endpoint?")
            if time.monotonic() - began > self.endpoint.timeout:
                raise httpx.ReadTimeout("the answer came too slowly")
        return b"".join(pieces)

    def _pause(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next attempt."""
        if asked is not None:
            return min(asked, _LONGEST_ASKED) + self._random.uniform(0, 1)
        return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1)) * self._random.uniform(0.5, 1)

    def _hidden(self, text: str) -> str:
        """Without the key, as it is and as urls and JSON write it."""
        return self._written.sub("***", text) if self._key else text

    def _told(self, text: str) -> str:
        """A server's words fit for an error: without the key, passwords and queries of urls, on one line, not long."""
        return _shown(self._hidden(clean(text)))


def _shown(text: str) -> str:
    """On one line, not too long, without what steers a terminal, and urls without passwords and queries."""
    text = _QUERY.sub(r"\1?***", _USERINFO.sub("***@", " ".join(clean(text).split())))
    if "://" not in text:  # `name:password@host` without a scheme
        text = re.sub(r"^[^\s/@]+:[^\s/@]+@", "***@", text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _written(key: str) -> re.Pattern[str]:
    """A key in whatever way its characters are written: plain, behind a backslash, or as `%2F` or `\\u002f`."""
    return re.compile(
        "".join(rf"(?:\\?{re.escape(one)}|(?i:%{ord(one):02x}|\\u{ord(one):04x}))" for one in key), re.ASCII
    )


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {variable}, which shall hold the key, is not set: export {variable}=..."
        )
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"the environment variable {variable} holds characters that no key has")
    return key


def _message(content: bytes) -> str:
    """What an error's body says: `error.message` (OpenAI), else `error`, `message` or `detail`, else all of it."""
    text = content[:_MAX_SHOWN].decode(errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(name):
            value = value[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, given so or as a date (RFC 9110, 10.2.3); None where it does not."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time()
    return seconds if 0 <= seconds < float("inf") else 0.0 if seconds < 0 else None
