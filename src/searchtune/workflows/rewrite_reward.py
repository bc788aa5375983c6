"""Candidate rewrites of the training queries and what each is worth in a search, kept so that nothing is done twice.

Everything goes into one journal. Keys hold all that a result depends on: rewriter, turn and sampling for candidates;
collection, retriever, metric, mode, query and text for rewards. So a journal may outlive its run: another run with it
asks and searches only for what is new.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from searchtune.data.candidates import (
    SAME,
    Preference,
    RewardedTurn,
    WordAssociations,
    document_candidates,
    searched_text,
    word_idf,
)
from searchtune.data.leakage import find_leaks, positives
from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import DataError
from searchtune.metrics.ranking import parse_metric
from searchtune.prompts.chat import ChatExample, Conversation
from searchtune.reading import read_text, strict_json
from searchtune.specs.reward import Mode, RetrievalReward
from searchtune.storage.atomic import write_text
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.journal import Journal
from searchtune.types import Collection, Qrels, Run, Turn
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.rewrite_search import RewriteSearch
from searchtune.workflows.training_set import Leaks, at_most

HEADER = {"what": "rewrites and their rewards", "version": 1}
_TURNS = 16
"""Turns whose candidates are drawn together: what a kill can cost."""
_TEXTS = 256
"""Texts that are searched together."""

TurnsOf = Callable[[Sequence[str], Sequence[str]], Sequence[Turn]]
"""Ids and texts of all queries of a collection -> their turns, alike in order."""


class CandidateSource(Protocol):
    """What draws candidate rewrites: an open rewriter, or anything else."""

    @property
    def identity(self) -> Mapping[str, str]:
        """All that its rewrites depend on beside turn and sampling."""

    def rewrite(self, turns: Sequence[Turn]) -> list[str]:
        """The likeliest rewrite of each turn."""

    def candidates(self, turns: Sequence[Turn], samples: int, temperature: float, seed: int) -> list[list[str]]:
        """Distinct rewrites of each turn, the likeliest first."""


def single_turns(query_ids: Sequence[str], texts: Sequence[str]) -> list[Turn]:
    """Every query by itself, without history."""
    return [Turn(text) for text in texts]


@dataclass(frozen=True, eq=False)
class RewardData:
    """The training queries of a task."""

    collection: Collection
    train: Qrels
    """Labels of the queries that are trained on: each has a relevant document, and none is a query of dev or test."""
    turns: Sequence[Turn]
    """Of every query of the collection."""

    @property
    def positives(self) -> list[str]:
        """Ids of the documents that rewards, and rewrites made from documents, know as relevant."""
        return [self.collection.doc_ids[int(doc)] for doc in positives(self.train, self.collection.min_grade)]


def open_reward_data(
    reward: RetrievalReward, leaks: Leaks = "fail", *, turns_of: TurnsOf = single_turns, progress: Progress = SILENT
) -> RewardData:
    """Open a task and take the training queries that can be rewarded.

    Raises:
        ConfigError: no such task or metric.
        DataError: no training split, or no relevant document in it.
        LeakError: a training query is also, or nearly, a query of dev or test, and `leaks` is "fail".
    """
    parse_metric(reward.metric)
    collection = open_collection(load_task(reward.task))
    if reward.split not in collection.qrels:
        have = ", ".join(sorted(collection.qrels)) or "none"
        raise DataError(f"{collection.name} has no {reward.split} split (it has: {have}); add qrels/{reward.split}.tsv")
    train = collection.qrels[reward.split]
    for split in sorted(set(collection.qrels) & {"dev", "test"}):
        report = find_leaks(collection, train, collection.qrels[split])
        if leaks == "fail":
            report.raise_if_any()
        elif report.leaks or report.documents:
            what = f"{len(report.train_queries)} training queries and {len(report.documents)} answers"
            progress.note(f"{what} are also in {split} ({'left out' if leaks == 'drop' else 'kept'})")
        train = report.without_leaks(train) if leaks == "drop" else train
    known = np.isin(train.queries, train.relevant(collection.min_grade).queries)
    train = at_most(collection, train.select(known), reward.max_queries)
    if not len(train):
        raise DataError(f"{collection.name}: no training query has a document of grade {collection.min_grade} or more")
    return RewardData(collection, train, turns_of(list(collection.query_ids), list(collection.query_texts)))


def reward_candidates(
    data: RewardData,
    source: CandidateSource,
    *,
    search: RewriteSearch,
    reward: RetrievalReward,
    place: Path,
    seed: int = 13,
    progress: Progress = SILENT,
) -> list[RewardedTurn]:
    """Candidates of every training query and their rewards; what the journal at `place` holds is not done again.

    Raises:
        DataError, StorageError: as `Journal`.
        SearchtuneError: what sampling or searching raises.
    """
    with Journal(place, HEADER) as journal:
        job = _Job(data, source, search, reward, journal, seed, progress)
        asked = job.sample()
        texts = [job.candidates(row, drawn) for row, drawn in enumerate(asked)]
        return job.rewarded(texts)


def associations_of(data: RewardData) -> WordAssociations:
    """What goes with what, from every training query and the best of its relevant documents, the first of equals."""
    documents = data.collection.documents
    labels = [data.train.row(row) for row in range(len(data.train))]
    best = [documents[int(docs[np.argmax(grades)])] for docs, grades in labels]
    asked = [data.turns[int(query)].utterance for query in data.train.queries]
    return WordAssociations(asked, best, word_idf(documents))


@dataclass(frozen=True)
class AssociationRewriter:
    """The rewriter that a language model has to beat: the words that training documents suggest for a query's words.

    Under `append` its rewrite is these words alone; otherwise the utterance stands before them. Where nothing is
    suggested, it is the utterance.
    """

    associations: WordAssociations
    mode: Mode = "append"
    count: int = 4
    least: float = 0.35
    """The strength that a word needs (see `WordAssociations`)."""

    def rewrite(self, turns: Sequence[Turn]) -> list[str]:
        """The query for each turn; its history is not read."""
        found = []
        for turn in turns:
            added = self.associations.guesses(turn.utterance, self.count, least=self.least)
            before = [] if added and self.mode == "append" else [turn.utterance]
            found.append(" ".join([*before, *added]))
        return found


@dataclass(frozen=True, eq=False)
class _Job:
    data: RewardData
    source: CandidateSource
    search: RewriteSearch
    reward: RetrievalReward
    journal: Journal
    seed: int
    progress: Progress
    _context: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        one = self.data.collection
        drawn = {"samples": self.reward.samples, "temperature": self.reward.temperature, "seed": self.seed}
        if not self.reward.samples:
            drawn = {"samples": 0}
        searched = [one.fingerprint, one.doc_template, one.min_grade, one.drop_self, dict(self.search.opened.identity)]
        how = [self.reward.metric, self.search.mode, self.search.depth]
        self._context["draw"] = sha256_json(["candidates", dict(self.source.identity), drawn])
        self._context["search"] = sha256_json(["reward", *searched, *how])

    def turn(self, row: int) -> Turn:
        return self.data.turns[int(self.data.train.queries[row])]

    def query_id(self, row: int) -> str:
        return self.data.collection.query_ids[int(self.data.train.queries[row])]

    def sample(self) -> list[list[str]]:
        """The model's candidates for each training query, the likeliest first."""
        rows = range(len(self.data.train))
        keys = [self._draw_key(self.turn(row)) for row in rows]
        missing = list({keys[row]: row for row in rows if keys[row] not in self.journal}.values())
        for start in range(0, len(missing), _TURNS):
            part = missing[start : start + _TURNS]
            for row, texts in zip(part, self._draw([self.turn(row) for row in part]), strict=True):
                self.journal.append(keys[row], {"candidates": [_line(text) for text in texts]})
            self.progress.step(start + len(part), len(missing), "turns with candidates")
        known = dict(self.journal.items())
        return [list(known[key]["candidates"]) for key in keys]

    def candidates(self, row: int, drawn: Sequence[str]) -> list[str]:
        """All candidates of a query, each once: the model's, those made from a document, the utterance."""
        utterance = _line(self.turn(row).utterance)
        found = list(drawn)
        if self.reward.from_documents:
            found += document_candidates(
                utterance, row, self._associations, count=self.reward.document_words, mode=self.reward.mode
            )
        if self.reward.keep_original:
            found.append(utterance)
        return [text for text in dict.fromkeys(found) if text and (text != utterance or self.reward.keep_original)]

    def rewarded(self, candidates: Sequence[Sequence[str]]) -> list[RewardedTurn]:
        """Search for what has no reward yet, and give every candidate its own."""
        utterances = [_line(self.turn(row).utterance) for row in range(len(candidates))]
        wanted = [(row, text) for row, own in enumerate(candidates) for text in dict.fromkeys([utterances[row], *own])]
        keys = {(row, text): self._reward_key(row, text) for row, text in wanted}
        missing = [pair for pair in wanted if keys[pair] not in self.journal]
        done = 0
        for part, values in self._searched(missing, utterances):
            for pair, value in zip(part, values, strict=True):
                self.journal.append(keys[pair], {"reward": float(value)})
            done += len(part)
            self.progress.step(done, len(missing), "candidates searched")
        known = dict(self.journal.items())
        worth = {pair: float(known[key]["reward"]) for pair, key in keys.items()}
        return [
            RewardedTurn(
                self.query_id(row),
                Turn(utterances[row], self.turn(row).history),
                worth[row, utterances[row]],
                tuple(own),
                tuple(worth[row, text] for text in own),
            )
            for row, own in enumerate(candidates)
        ]

    def _searched(
        self, pairs: Sequence[tuple[int, str]], utterances: Sequence[str]
    ) -> Iterator[tuple[list[tuple[int, str]], Sequence[float]]]:
        """Pairs of query and text with their rewards, part by part; each distinct text is searched once."""
        train = self.data.train
        rows = sorted({row for row, _ in pairs})
        place = {row: i for i, row in enumerate(rows)}
        base = None
        if self.search.mode == "fuse" and rows:
            base = self.search.original(train.queries[rows], [utterances[row] for row in rows])
        for part in _blocks(pairs, lambda pair: searched_text(utterances[pair[0]], pair[1], self.search.mode)):
            own = np.array([row for row, _ in part], dtype=np.int64)
            original = None
            if base is not None:
                at = np.array([place[row] for row, _ in part], dtype=np.int64)
                original = Run(np.arange(len(at)), base.docs[at], base.scores[at])
            run = self.search.rewritten(
                train.queries[own], [utterances[row] for row, _ in part], [text for _, text in part], original
            )
            yield part, self.search.scores(run, train, own, self.reward.metric).tolist()

    @cached_property
    def _associations(self) -> WordAssociations:
        return associations_of(self.data)

    def _draw(self, turns: Sequence[Turn]) -> list[list[str]]:
        if not self.reward.samples:
            return [[text] for text in self.source.rewrite(turns)]
        return self.source.candidates(turns, self.reward.samples, self.reward.temperature, self.seed)

    def _draw_key(self, turn: Turn) -> str:
        return sha256_json([self._context["draw"], turn.utterance, [list(said) for said in turn.history]])

    def _reward_key(self, row: int, text: str) -> str:
        return sha256_json([self._context["search"], self.query_id(row), _line(self.turn(row).utterance), text])


def preference_pairs(preferences: Sequence[Preference], ask: Callable[[Turn], Conversation]) -> list[ChatExample]:
    """Pairs as a language model learns from them; `ask` puts a turn into words."""
    return [ChatExample(ask(one.turn), one.chosen, one.rejected) for one in preferences]


def write_rewarded(file: Path, rewarded: Sequence[RewardedTurn]) -> None:
    """Write turns, candidates and rewards as JSON lines, for people and for the other processes of a run."""
    rows = (
        {
            "query_id": one.query_id,
            "history": [{"role": role, "text": text} for role, text in one.turn.history],
            "utterance": one.turn.utterance,
            "original": one.original,
            "candidates": [{"text": t, "reward": r} for t, r in zip(one.candidates, one.rewards, strict=True)],
        }
        for one in rewarded
    )
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


def read_rewarded(file: Path) -> list[RewardedTurn]:
    """What `write_rewarded` wrote."""
    found = []
    for row in map(strict_json, read_text(file).splitlines()):
        turn = Turn(row["utterance"], tuple((said["role"], said["text"]) for said in row["history"]))
        texts, rewards = (tuple(one[what] for one in row["candidates"]) for what in ("text", "reward"))
        found.append(RewardedTurn(row["query_id"], turn, row["original"], texts, rewards))
    return found


def reward_figures(rewarded: Sequence[RewardedTurn]) -> dict[str, float]:
    """Means over turns: reward of the `utterance`, of the `first` candidate, of the `best`; and the share `improvable`.

    A turn without candidates counts with its utterance. Nothing where there are no turns.
    """
    if not rewarded:
        return {}
    best = [max([one.original, *one.rewards]) for one in rewarded]
    return {
        "utterance": float(np.mean([one.original for one in rewarded])),
        "first": float(np.mean([one.rewards[0] if one.rewards else one.original for one in rewarded])),
        "best": float(np.mean(best)),
        "improvable": float(np.mean([high > one.original + SAME for high, one in zip(best, rewarded, strict=True)])),
    }


def _blocks(pairs: Sequence[tuple[int, str]], text_of: Callable[[tuple[int, str]], str]) -> Iterator[list[Any]]:
    """Pairs in parts of about `_TEXTS`; those that are searched by the same text are in one part."""
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for pair in pairs:
        groups[text_of(pair)].append(pair)
    part: list[tuple[int, str]] = []
    for group in groups.values():
        part += group
        if len(part) >= _TEXTS:
            yield part
            part = []
    if part:
        yield part


def _line(text: str) -> str:
    """Everything on one line, with single spaces; what is no Unicode text becomes a question mark."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
