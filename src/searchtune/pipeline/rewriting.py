"""The rewriting stage: a language model that puts what was said into queries that stand alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from searchtune.models.backends import Backend, spoken_reply
from searchtune.models.generation import Sampling
from searchtune.prompts.rewrite import RewritePrompt, parse_rewrite
from searchtune.types import Turn


class Rewritten(NamedTuple):
    """One turn's rewrite, and what it took."""

    turn: int
    """Its place among those asked."""
    query: str
    """The utterance itself where the model said nothing."""
    reason: str | None
    """Why there is no rewrite; None where there is one."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """For turns that are rewritten together, each one's share."""
    settled: bool = False
    """Where there is no rewrite: whether a reply came that cannot be used, so that asking again would not help."""
    refused: bool = False
    """Whether the turn was turned down for what it holds."""

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.prompt_tokens + self.completion_tokens


class LlmRewriter:
    """Any backend as a rewriter."""

    def __init__(self, backend: Backend, prompt: RewritePrompt, *, max_new_tokens: int = 64) -> None:
        self.backend, self.prompt, self.max_new_tokens = backend, prompt, max_new_tokens

    def rewrite(self, turns: Sequence[Turn]) -> list[str]:
        """The likeliest query for each turn, in order; the utterance itself where the model says nothing."""
        return [one.query for one in self.stream(turns)]

    def stream(self, turns: Sequence[Turn]) -> Iterator[Rewritten]:
        """The same one by one, as soon as each is there, with tokens and time."""
        conversations = [self.prompt.conversation(turn) for turn in turns]
        for reply in self.backend.complete(conversations, self._sampling()):
            utterance = turns[reply.conversation].utterance
            said = spoken_reply(reply)
            yield Rewritten(
                turn=reply.conversation,
                query=parse_rewrite(said.text or "", utterance),
                reason=said.reason,
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                seconds=reply.seconds,
                settled=reply.settled or reply.text is not None,
                refused=reply.refused,
            )

    def candidates(self, turns: Sequence[Turn], samples: int, temperature: float, seed: int) -> list[list[str]]:
        """Distinct queries for each turn: the likeliest first, then those of `samples` draws in their order.

        Raises:
            ConfigError: a temperature that is not above 0, or a number of samples below 1.
        """
        found = [[query] for query in self.rewrite(turns)]
        conversations = [self.prompt.conversation(turn) for turn in turns]
        drawing = self._sampling(samples=samples, temperature=temperature, seed=seed)
        for reply in self.backend.complete(conversations, drawing):
            said = spoken_reply(reply)
            if said.text is None:
                continue
            query = parse_rewrite(said.text, turns[reply.conversation].utterance)
            if query not in found[reply.conversation]:
                found[reply.conversation].append(query)
        return found

    def _sampling(self, *, samples: int = 1, temperature: float = 0.0, seed: int = 0) -> Sampling:
        """A tuned model writes one line; others may begin with a line about what they do."""
        stop = () if self.prompt.style == "full" else ("\n",)
        return Sampling(
            max_new_tokens=self.max_new_tokens, temperature=temperature, samples=samples, seed=seed, stop=stop
        )
