"""`RemoteBackend`: a model behind an OpenAI-compatible chat endpoint, asked by a few threads, within a budget.

Answers come in the order of the questions, as soon as all before them are there. A label is read off the probabilities
of the reply's first token, where the endpoint gives them and the labels hold at least half of it; else from the words
of the reply; and where they do not say it, there is no label but a reason. A reply is one only if it came to its own
end: what was cut off, filtered, left empty, or is nothing but reasoning or a call of a tool is none.

One question may be turned down (a content filter, a prompt too long) and one may stay without an answer: such a row has
its reason, and the others go on. When several in a row are turned down, a harmless question shows whether the endpoint
answers at all; if not, everything ends.
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
from searchtune.models.endpoint import ChatClient, Endpoint, GaveUpError, RemoteError, TurnedDownError
from searchtune.models.generation import Sampling
from searchtune.models.remote_reply import ReadRow, read_label, read_text
from searchtune.prompts.chat import Conversation

_AHEAD = 4
"""Answers per thread that may wait for an earlier one."""
_IN_A_ROW = 3
"""Questions without an answer, one after the other, after which the endpoint counts as out of order."""
_TURNED_DOWN = 5
"""Questions turned down one after the other, after which a harmless one is asked; twice as many the next time."""
_HARMLESS = "Reply with the digit 1."
READING = "2"
"""Raised when replies are read by another rule: what was read by two of them is never mixed in one journal."""
LABEL_TOKENS = 64
"""Length of a reply that holds a label: enough for a few words around it, not for a thought before it."""


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
    refused: bool = False
    """Whether the question was turned down for what it holds."""


class RemoteBackend:
    """A model that answers from afar. Use it in a `with` statement, or `close` it.

    `label_tokens` bounds a reply that holds a label: a model that thinks first needs more. `wait` is called with the
    seconds between two attempts.

    Raises:
        MissingExtraError: httpx is not installed.
        ConfigError: the environment variable of the key is not set.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        budget: Budget | None = None,
        label_tokens: int = LABEL_TOKENS,
        wait: Callable[[float], Any] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.budget = budget or Budget()
        self.label_tokens = label_tokens
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._client = ChatClient(endpoint, wait=wait)
        self.url = self._client.url
        """As it may be shown: without the key, where it is part of it."""
        self._lock = threading.Lock()
        self._answering: str | None = None
        self._unanswered = 0
        self._refused, self._patience = 0, _TURNED_DOWN
        self._sure = threading.Event()
        """Not set while a harmless question is under way: nothing else is asked meanwhile."""
        self._broken: RemoteError | None = None

    def __enter__(self) -> RemoteBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; questions that wait for another attempt get no answer."""
        self._client.close()

    @property
    def identity(self) -> Mapping[str, str]:
        extra = json.dumps(dict(self.endpoint.extra), sort_keys=True)
        found = {"what": "remote", "model": self.endpoint.model, "extra": extra, "reading": READING}
        return found | {"top": str(self.endpoint.top_logprobs), "label_tokens": str(self.label_tokens)}

    @property
    def price(self) -> float:
        """What has been spent so far, by the budget's prices."""
        return self.budget.price(self.prompt_tokens, self.completion_tokens)

    def read_labels(self, conversations: Sequence[Conversation], labels: Sequence[str]) -> LabelReadings:
        """The distribution over labels as the beginning of each reply; see `remote_reply.read_label`.

        Labels that are not among the likeliest tokens count as 0; their share is part of `outside`. What was read from
        words is all on one label, and its `outside` NaN.

        Raises:
            BudgetError, RemoteError: with what was read before in `done`, its other rows NaN.
        """
        rows = np.full((len(conversations), len(labels)), np.nan)
        outside = np.full(len(conversations), np.nan)
        reasons: list[str | None] = ["not asked"] * len(conversations)
        used, refused, unanswered = [0, 0], set[int](), set[int]()

        def readings() -> LabelReadings:
            return LabelReadings(
                rows, tuple(reasons), outside, used[0], used[1], frozenset(refused), frozenset(unanswered)
            )

        try:
            for one in self.stream_labels(conversations, labels):
                used[0] += one.prompt_tokens
                used[1] += one.completion_tokens
                outside[one.conversation], reasons[one.conversation] = one.outside, one.reason
                rows[one.conversation] = np.nan if one.shares is None else one.shares
                refused |= {one.conversation} if one.refused else set()
                unanswered |= set() if one.answered else {one.conversation}
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
        settings: dict[str, Any] = {"max_tokens": self.label_tokens, "temperature": 0}
        if top:
            settings |= {"logprobs": True, "top_logprobs": top}
        before = time.perf_counter()
        for place, answer in self._answers([{"messages": _messages(c), **settings} for c in conversations]):
            now = time.perf_counter()
            read = ReadRow(None, math.nan, answer.reason)
            if answer.reason is None:
                read = read_label(answer.choice, labels)
            yield LabelRow(
                conversation=place,
                shares=read.shares,
                outside=read.outside,
                reason=read.reason,
                answered=answer.came or answer.refused,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                seconds=now - before,
                refused=answer.refused,
                source=read.source,
            )
            before = now

    def complete(self, conversations: Sequence[Conversation], sampling: Sampling) -> Iterator[Reply]:
        """Replies in order; each sample is a question of its own, with its own seed. One that is cut off is none.

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
            text, reason = read_text(answer.choice) if answer.reason is None else (None, answer.reason)
            yield Reply(
                conversation=place // sampling.samples,
                sample=place % sampling.samples,
                text=text,
                reason=reason,
                finish=None if text is None else "stop",
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                seconds=answer.seconds,
                settled=text is None and answer.came,
                refused=answer.refused,
            )

    def _answers(self, questions: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, _Answer]]:
        """Each question's place and answer, in order.

        When the budget is spent, questions under way are waited for. After an error that will not go away they are not:
        what is there by then comes, and then the error.
        """
        asking = _Asking(self._answer)
        self._broken = None
        self._sure.set()
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
                    done += answer.came
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
        self._sure.wait()
        if self._broken is not None:
            raise self._broken
        self._check_budget()
        began = time.perf_counter()
        try:
            answer = self._client.ask(question)
        except GaveUpError as error:
            with self._lock:
                self._unanswered += 1
                nobody = self._answering is None and not error.reached
                if nobody or self._unanswered >= _IN_A_ROW:
                    raise RemoteError(f"{error}; see that it runs, and run again") from error
            return _Answer({}, str(error), 0, 0, time.perf_counter() - began, came=False)
        except TurnedDownError as error:
            self._see_that_others_are_answered(question, error)
            return _Answer({}, str(error), 0, 0, time.perf_counter() - began, came=False, refused=True)
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

    def _see_that_others_are_answered(self, question: Mapping[str, Any], error: RemoteError) -> None:
        """Ask something harmless under the same settings when several questions in a row were turned down.

        Raises:
            RemoteError: that is not answered either.
        """
        with self._lock:
            self._refused += 1
            if self._refused < self._patience:
                return
            count, self._refused, self._patience = self._refused, 0, 2 * self._patience
            self._sure.clear()
        try:
            answer = self._client.ask({**question, "messages": [{"role": "user", "content": _HARMLESS}]})
        except RemoteError as also:
            asked = f"; {count} questions in a row were turned down, and a harmless one too"
            self._broken = RemoteError(f"{error}{asked}")
            raise self._broken from also
        finally:
            self._sure.set()
        self._count(answer)

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
            raise RemoteError(f"{self.url}: answers do not say their tokens (usage): no budget is kept")
        prompt_tokens, completion_tokens = (count or 0 for count in known)
        model = str(answer.get("model") or self.endpoint.model)
        with self._lock:
            self.prompt_tokens += prompt_tokens
            self.completion_tokens += completion_tokens
            self._unanswered = self._refused = 0
            before, self._answering = self._answering, self._answering or model
        if before not in (None, model):
            raise RemoteError(
                f"{self.url}: {before!r} answered first and now {model!r}: that would mix two models; "
                f"name one that stays the same instead of {self.endpoint.model!r}"
            )
        return prompt_tokens, completion_tokens


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
