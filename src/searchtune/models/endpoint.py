"""One question to an OpenAI-compatible chat endpoint: retries, limits of time and size, and a key that is never told.

The protocol is that of vLLM, text-generation-inference, Ollama and others: `POST {url}/chat/completions`. Nothing here
knows labels or samples; `models/remote.py` does.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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
_REMEDIES = {
    400: "the request is not to its liking: shorten the prompts, or leave out what it does not know (`extra`)",
    401: "the key is not accepted: check the environment variable that holds it",
    403: "the key may not use this model: check the key and the model's name",
    404: "check the url (it often ends in /v1) and the model's name; GET {url}/models lists the names",
    413: "the prompts are too long for it: shorten them",
    422: "the request is not to its liking: leave out what it does not know (`extra`)",
}


class RemoteError(ModelError):
    """A remote model does not answer, or refuses to."""

    done: object = None
    """What was read before, where the caller would lose it otherwise."""


class GaveUpError(RemoteError):
    """One question had no answer in any attempt; others may have."""


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
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url {self.url!r} is no address; it looks like http://localhost:8000/v1")
        if "@" in parts.netloc or parts.query:
            raise ConfigError(
                f"the url of {parts.hostname} holds a name, password or query; give it without, and the "
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
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._random = random.Random()
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=endpoint.timeout,
            follow_redirects=False,  # the key goes to the host that the user named
            limits=httpx.Limits(max_connections=endpoint.concurrency),
        )

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Make no further attempts, in any thread."""
        self._closed.set()
        self._client.close()

    def ask(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one question, asked again where that may help.

        Asked again: on 408, 409, 425, 429 and 5xx, broken connections, timeouts, and answers that are no JSON object.

        Raises:
            GaveUpError: no answer in any attempt.
            RemoteError: an error that will not go away.
        """
        body = {"model": self.endpoint.model, **payload, **self.endpoint.extra}
        reason = "closed"
        for attempt in range(1, self.endpoint.attempts + 1):
            if self._closed.is_set():
                break
            answer, reason, asked = self._attempt(body)
            if answer is not None:
                return answer
            if attempt < self.endpoint.attempts:
                seconds = self._pause(attempt, asked)
                _LOG.info("%s: %s; attempt %d in %.1f s", self.endpoint.url, reason, attempt + 1, seconds)
                self._wait(seconds)
        raise GaveUpError(f"{self.endpoint.url}: no answer in {self.endpoint.attempts} attempts; the last: {reason}")

    def _attempt(self, body: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str, float | None]:
        """The answer, or why there is none yet and for how many seconds the server asks to be left alone."""
        import httpx

        try:
            with self._client.stream(
                "POST", f"{self.endpoint.url.rstrip('/')}/chat/completions", json=body
            ) as response:
                content = self._content(response)
        except httpx.TimeoutException:
            return None, f"nothing came within {self.endpoint.timeout:g} s", None
        except (httpx.TransportError, httpx.DecodingError) as error:
            return None, self._told(str(error) or type(error).__name__), None
        except RuntimeError as error:
            if not self._closed.is_set():
                raise
            return None, str(error), None
        status = response.status_code
        if 300 <= status < 400:
            where = self._told(response.headers.get("location", "nowhere"))
            raise RemoteError(
                f"{self.endpoint.url}: sends on to {where}; that is not followed, so that the key goes to "
                "no other host: give the right address as url"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            return None, f"status {status}: {self._told(_message(content))}", _retry_after(response.headers)
        if status >= 400:
            remedy = _REMEDIES.get(status, "see what it says").replace("{url}", self.endpoint.url.rstrip("/"))
            raise RemoteError(f"{self.endpoint.url}: status {status}: {self._told(_message(content))} ({remedy})")
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            return (
                None,
                f"an answer that is no JSON object: {self._told(content[:_SHOWN].decode(errors='replace'))!r}",
                None,
            )
        return answer, "", None

    def _content(self, response: httpx.Response) -> bytes:
        """The body, whole, in time and of a reasonable size."""
        import httpx

        began = time.monotonic()
        pieces, size = [], 0
        for piece in response.iter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > _MAX_BODY:
                raise RemoteError(
                    f"{self.endpoint.url}: an answer of more than {_MAX_BODY >> 20} MiB; is this a chat endpoint?"
                )
            if time.monotonic() - began > self.endpoint.timeout:
                raise httpx.ReadTimeout("the answer came too slowly")
        return b"".join(pieces)

    def _pause(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next attempt."""
        if asked is not None:
            return min(asked, _LONGEST_ASKED) + self._random.uniform(0, 1)
        return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1)) * self._random.uniform(0.5, 1)

    def _told(self, text: str) -> str:
        """A server's words fit for an error: without the key, on one line, not too long."""
        text = text.replace(self._key, "***") if self._key else text
        text = " ".join(text.split())
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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
    text = content.decode(errors="replace")
    try:
        value = json.loads(text)
    except ValueError:
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
