"""`RemoteBackend`: a model behind an OpenAI-compatible chat endpoint, asked by a few threads, within a budget.

Answers come in the order of the questions, as soon as all before them are there. The distribution over labels is read
from the log-probabilities of the first token where the endpoint gives them, else the label from the text; what cannot
be read has a reason and no label.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from searchtune.errors import ConfigError
from searchtune.models.backends import LabelReadings, LabelRow, Reply, check_labels
from searchtune.models.endpoint import ChatClient, Endpoint, GaveUpError, RemoteError
from searchtune.models.generation import Sampling
from searchtune.prompts.chat import Conversation
from searchtune.types import FloatArray64

Parser = Callable[[str], str | None]
"""From a reply to the label it means, or None."""

_AHEAD = 4
"""Answers per thread that may wait for an earlier one."""
_IN_A_ROW = 3
"""Questions without an answer, one after the other, after which the endpoint counts as out of order."""
_LABEL_TOKENS = 8
"""Length of a reply that holds a label, where it is read as text."""


class BudgetError(RemoteError):
    """The budget is spent; what was paid for has been handed over."""


@dataclass(frozen=True)
class Budget:
    """How much may be used: no question is begun once so many tokens, or so much money, are spent.

    Those under way are waited for, so as many as are asked at once may come on top. Prices are for a million tokens, in
    the currency of `max_price`.

    Raises:
        ConfigError: a limit of money without prices, or a number below 0.
    """

    max_tokens: int | None = None
    max_price: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} is {value}; it must be 0 or more")
        if self.max_price is not None and not self.price_in + self.price_out:
            raise ConfigError("max_price takes price_in and price_out, the prices of a million tokens")

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


class _Answer(NamedTuple):
    """One answered question, or one for which there is none (`reason`)."""

    choice: Mapping[str, Any]
    reason: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    came: bool = True
    """Whether anything was replied."""


class RemoteBackend:
    """A model that answers from afar. Use it in a `with` statement, or `close` it.

    `parser` reads a label from a reply's text where the endpoint gives no log-probabilities; without one the reply must
    be the label itself. `wait` is called with the seconds between two attempts.

    Raises:
        MissingExtraError: httpx is not installed.
        ConfigError: the environment variable of the key is not set.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        budget: Budget | None = None,
        parser: Parser | None = None,
        wait: Callable[[float], Any] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.budget = budget or Budget()
        self.parser = parser
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._client = ChatClient(endpoint, wait=wait)
        self._lock = threading.Lock()
        self._answering: str | None = None
        self._unanswered = 0

    def __enter__(self) -> RemoteBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; questions that wait for another attempt get no answer."""
        self._client.close()

    @property
    def identity(self) -> Mapping[str, str]:
        extra = json.dumps(dict(self.endpoint.extra), sort_keys=True, ensure_ascii=False)
        return {"what": "remote", "model": self.endpoint.model, "extra": extra, "top": str(self.endpoint.top_logprobs)}

    @property
    def price(self) -> float:
        """What has been spent so far, by the budget's prices."""
        return self.budget.price(self.prompt_tokens, self.completion_tokens)

    def read_labels(self, conversations: Sequence[Conversation], labels: Sequence[str]) -> LabelReadings:
        """The distribution over labels as the first token of each reply, white space around it left out.

        Labels that are not among the likeliest tokens count as 0; their share is part of `outside`. Where there are no
        log-probabilities all is on the label that the text says, and `outside` is NaN.

        Raises:
            BudgetError, RemoteError: with what was read before in `done`, its other rows NaN.
        """
        rows = np.full((len(conversations), len(labels)), np.nan)
        outside = np.full(len(conversations), np.nan)
        reasons: list[str | None] = ["not asked"] * len(conversations)
        used = [0, 0]

        def readings() -> LabelReadings:
            return LabelReadings(rows, tuple(reasons), outside, *used)

        try:
            for one in self.stream_labels(conversations, labels):
                used[0] += one.prompt_tokens
                used[1] += one.completion_tokens
                outside[one.conversation], reasons[one.conversation] = one.outside, one.reason
                rows[one.conversation] = np.nan if one.shares is None else one.shares
        except RemoteError as error:
            error.done = readings()
            raise
        return readings()

    def stream_labels(self, conversations: Sequence[Conversation], labels: Sequence[str]) -> Iterator[LabelRow]:
        """The same, each reading as soon as it and all before it are there.

        Raises:
            BudgetError, RemoteError: after all readings that were there by then.
        """
        check_labels(labels)
        top = self.endpoint.top_logprobs
        settings: dict[str, Any] = {"max_tokens": 1 if top and not self.parser else _LABEL_TOKENS, "temperature": 0}
        if top:
            settings |= {"logprobs": True, "top_logprobs": top}
        before = time.perf_counter()
        for place, answer in self._answers([{"messages": _messages(c), **settings} for c in conversations]):
            now = time.perf_counter()
            shares, outside, reason = self._label_row(answer, labels)
            used = (answer.prompt_tokens, answer.completion_tokens)
            yield LabelRow(place, shares, outside, reason, answer.came, *used, now - before)
            before = now

    def complete(self, conversations: Sequence[Conversation], sampling: Sampling) -> Iterator[Reply]:
        """Replies in order; each sample is a question of its own, with its own seed.

        Raises:
            BudgetError, RemoteError: after all replies that were there by then.
        """
        settings: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
        settings |= {"stop": list(sampling.stop)} if sampling.stop else {}
        settings |= {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
        questions = [
            {"messages": _messages(conversation), **settings, "seed": sampling.seed + sample}
            for conversation in conversations
            for sample in range(sampling.samples)
        ]
        for place, answer in self._answers(questions):
            text, reason = _text(answer)
            cut = answer.choice.get("finish_reason") == "length"
            yield Reply(
                conversation=place // sampling.samples,
                sample=place % sampling.samples,
                text=text,
                reason=reason,
                finish=None if text is None else "length" if cut else "stop",
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                seconds=answer.seconds,
            )

    def _answers(self, questions: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, _Answer]]:
        """Each question's place and answer, in order.

        When the budget is spent, questions under way are waited for. After an error that will not go away they are not:
        what is there by then comes, and then the error.
        """
        asking = _Asking(self._answer)
        pool = ThreadPoolExecutor(self.endpoint.concurrency, thread_name_prefix="remote")
        waiting: deque[tuple[int, Future[_Answer | None]]] = deque()
        feed = iter(enumerate(questions))
        done = 0
        try:
            while True:
                while not asking.ended and len(waiting) < _AHEAD * self.endpoint.concurrency:
                    place, question = next(feed, (-1, {}))
                    if place < 0:
                        break
                    future = pool.submit(asking.one, question)
                    future.add_done_callback(lambda _: asking.news.set())
                    waiting.append((place, future))
                if not waiting:
                    break
                place, future = waiting.popleft()
                answer = asking.result(future)
                if answer is not None:
                    done += 1
                    yield place, answer
        finally:
            asking.ended = True
            pool.shutdown(wait=False, cancel_futures=True)
        if asking.error is not None:
            kind = type(asking.error)
            raise kind(f"{asking.error}; {done} of {len(questions)} questions were answered before") from asking.error

    def _answer(self, question: Mapping[str, Any]) -> _Answer:
        """The answer to one question, or that there is none; in a thread.

        Raises:
            BudgetError: the budget is spent, so the question was not asked.
            RemoteError: an error that will not go away, or too many questions without answer.
        """
        self._check_budget()
        began = time.perf_counter()
        try:
            answer = self._client.ask(question)
        except GaveUpError as error:
            with self._lock:
                self._unanswered += 1
                if self._answering is None or self._unanswered >= _IN_A_ROW:
                    raise RemoteError(f"{error}; see that it runs, and run again") from error
            return _Answer({}, str(error), 0, 0, time.perf_counter() - began, came=False)
        prompt_tokens, completion_tokens = self._count(answer)
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        reason = None if isinstance(choice, dict) else "the answer has no choices"
        return _Answer(
            choice=choice if isinstance(choice, dict) else {},
            reason=reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            seconds=time.perf_counter() - began,
        )

    def _check_budget(self) -> None:
        budget, tokens = self.budget, self.prompt_tokens + self.completion_tokens
        if budget.max_tokens is not None and tokens >= budget.max_tokens:
            raise BudgetError(f"the budget of {budget.max_tokens:,} tokens is spent ({tokens:,} used)")
        if budget.max_price is not None and self.price >= budget.max_price:
            raise BudgetError(f"the budget of {budget.max_price:g} is spent ({self.price:.4g}, {tokens:,} tokens)")

    def _count(self, answer: Mapping[str, Any]) -> tuple[int, int]:
        """Note the tokens of an answer and see that one model gives all answers; prompt and completion tokens."""
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        known = [count if isinstance(count, int) and count >= 0 else None for count in tokens]
        limited = self.budget.max_tokens is not None or self.budget.max_price is not None
        if limited and None in known:
            raise RemoteError(f"{self.endpoint.url}: answers do not say their tokens (usage): no budget is kept")
        prompt_tokens, completion_tokens = (count or 0 for count in known)
        model = str(answer.get("model") or self.endpoint.model)
        with self._lock:
            self.prompt_tokens += prompt_tokens
            self.completion_tokens += completion_tokens
            self._unanswered = 0
            before, self._answering = self._answering, self._answering or model
        if before not in (None, model):
            raise RemoteError(
                f"{self.endpoint.url}: {before!r} answered first and now {model!r}: that would mix two models; "
                f"name one that stays the same instead of {self.endpoint.model!r}"
            )
        return prompt_tokens, completion_tokens

    def _label_row(self, answer: _Answer, labels: Sequence[str]) -> tuple[FloatArray64 | None, float, str | None]:
        """Probabilities of the labels or None, the share of all others, and why there are none."""
        if answer.reason is not None:
            return None, math.nan, answer.reason
        likeliest = _likeliest(answer.choice)
        if likeliest:
            shares = np.zeros(len(labels))
            for token, share in likeliest:
                if token.strip() in labels:
                    shares[labels.index(token.strip())] += share
            if shares.sum() > 0:
                return shares / shares.sum(), max(0.0, 1 - float(shares.sum())), None
            said = ", ".join(repr(token) for token, _ in likeliest[:5])
            return None, 1.0, f"no label among the {len(likeliest)} likeliest tokens: {said}"
        text, reason = _text(answer)
        if text is None:
            return None, math.nan, reason
        label = self.parser(text) if self.parser else text.strip()
        if label not in labels:
            return None, math.nan, f"no label in the reply {text[:80]!r}"
        row = np.zeros(len(labels))
        row[labels.index(label)] = 1.0
        return row, math.nan, None


class _Asking:
    """What the threads of one stream of questions tell the one that reads the answers."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], _Answer]) -> None:
        self._answer = answer
        self.ended = False
        self.error: RemoteError | None = None
        self.news = threading.Event()

    def one(self, question: Mapping[str, Any]) -> _Answer | None:
        """The answer, or None after an error; the first error is kept."""
        if self.ended:
            return None
        try:
            return self._answer(question)
        except RemoteError as error:
            if self.error is None or (isinstance(self.error, BudgetError) and not isinstance(error, BudgetError)):
                self.error = error
            self.ended = True
            return None

    def result(self, future: Future[_Answer | None]) -> _Answer | None:
        """The future's answer; None if it has none, or after an error that will not go away has none yet."""
        while True:
            self.news.clear()
            if future.done():
                return future.result()
            if self.error is not None and not isinstance(self.error, BudgetError):
                return None
            self.news.wait()


def _messages(conversation: Conversation) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in conversation]


def _text(answer: _Answer) -> tuple[str | None, str | None]:
    """The reply's text, or None and why."""
    if answer.reason is not None:
        return None, answer.reason
    message = answer.choice.get("message")
    message = message if isinstance(message, dict) else {}
    if answer.choice.get("finish_reason") == "content_filter" or message.get("refusal"):
        return None, f"refused: {str(message.get('refusal') or 'content filter')[:200]}"
    text = message.get("content")
    return (text, None) if isinstance(text, str) else (None, "the answer has no text")


def _likeliest(choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The first token's alternatives with their probabilities; empty where they are not given or not readable."""
    try:
        first = choice["logprobs"]["content"][0]["top_logprobs"]
        found = [(str(entry["token"]), math.exp(float(entry["logprob"]))) for entry in first]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return []
    return found if all(math.isfinite(share) for _, share in found) else []
