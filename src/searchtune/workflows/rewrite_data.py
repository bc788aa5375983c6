"""From a recipe to the turns that a rewriter learns from and is tested on, and leaks between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchtune.data.leakage import few
from searchtune.data.problems import current_policy, tell_left_out
from searchtune.data.rewrites import (
    RewriteExample,
    RewriteSet,
    chosen,
    leaking,
    read_rewrites,
    split_by_conversation,
    task_turns,
)
from searchtune.data.splits import hash_share
from searchtune.data.tasks import find_source_file, load_task, open_collection
from searchtune.errors import ConfigError, DataError, LeakError, did_you_mean
from searchtune.specs.rewrite import RetrievalTest, RewriteRecipe, RewriteSource
from searchtune.storage.assets import find_asset
from searchtune.types import Collection, Qrels, Turn
from searchtune.workflows.progress import Progress
from searchtune.workflows.training_set import Leaks

DEV = "dev"
_BUILTIN = "builtin:"


@dataclass(frozen=True, eq=False)
class SearchTurns:
    """A task's queries as turns. Lists are parallel to the collection's queries."""

    collection: Collection
    turns: list[Turn]
    human: list[str | None]
    """People's rewrites, None where there is none."""
    test: Qrels
    dev: Qrels | None
    """None where the task has no dev split, so that nothing can be chosen on it."""

    def known(self, qrels: Qrels) -> list[str]:
        """What people would ask for the judged queries of a split; the utterances where nobody said."""
        places = qrels.queries.tolist()
        return [self.human[place] or self.collection.query_texts[place] for place in places]


@dataclass(frozen=True, eq=False)
class RewriteData:
    """Examples of other conversations each; no test turns where the recipe names none."""

    train: list[RewriteExample]
    dev: list[RewriteExample]
    test: SearchTurns | None

    @property
    def fingerprint(self) -> str:
        """Of what is trained on."""
        return RewriteSet(tuple(self.train)).fingerprint


def open_rewrite_data(recipe: RewriteRecipe, leaks: Leaks, progress: Progress) -> RewriteData:
    """Training, dev and test turns.

    Raises:
        LeakError: a training turn is also, or nearly, a test turn, and `leaks` is "fail".
        ConfigError: no such file, task or split.
        DataError: broken rows.
    """
    parts = [open_source(source) for source in recipe.train]
    test = None if recipe.test is None else open_test(recipe.test)
    examples = [one for part in parts for one in part]
    if test is not None:
        examples = _without_leaks(examples, test, leaks, progress)
    train, dev = split_by_conversation(examples, recipe.dev.share)
    dev = chosen(dev, recipe.dev.max_examples)
    often = {one.id: source.repeat for source, part in zip(recipe.train, parts, strict=True) for one in part}
    repeated = [one for one in train for _ in range(often[one.id])]
    changed = sum(one.changed for one in repeated) / max(1, len(repeated))
    progress.note(
        f"training turns: {len(repeated):,} of {len({one.conversation for one in train}):,} conversations, "
        f"{changed:.0%} of them changed; dev: {len(dev):,} of others"
    )
    return RewriteData(repeated, dev, test)


def open_source(source: RewriteSource) -> list[RewriteExample]:
    """The examples of one source.

    Raises:
        ConfigError: no such file.
        DataError: broken rows, or none left.
    """
    whole = read_rewrites(_found(source.file), on_problem=current_policy())
    tell_left_out(str(source.file), whole.warnings)
    found = list(whole.examples)
    if source.changed_only:
        found = [one for one in found if one.changed]
    if not found:
        raise DataError(f"{source.file}: no rewrite differs from its utterance; leave out changed_only")
    return chosen(found, source.max_examples)


def open_test(test: RetrievalTest) -> SearchTurns:
    """A task's queries as they were said, with their history and people's rewrites.

    Raises:
        ConfigError: no such task or split, or one of people's rewrites that shares no query with it.
    """
    collection = open_collection(load_task(test.task))
    if test.split not in collection.qrels:
        known = did_you_mean(test.split, collection.qrels)
        raise ConfigError(f"{collection.name} has no split {test.split!r}{known}")
    dev = collection.qrels.get(DEV) if test.split != DEV else None
    human: list[str | None] = [None] * len(collection.query_ids)
    if test.human is not None:
        people = open_collection(load_task(test.human))
        texts = dict(zip(people.query_ids, people.query_texts, strict=True))
        human = [texts.get(name) for name in collection.query_ids]
        if not any(human):
            raise ConfigError(
                f"test.human: {people.name} has no query of {collection.name}: their ids must be the same"
            )
    turns = task_turns(collection.query_ids, collection.query_texts, history=test.history)
    limited = (_limited(collection, part, test.max_queries) for part in (collection.qrels[test.split], dev))
    judged, watched = limited
    assert judged is not None
    return SearchTurns(collection, turns, human, judged, watched)


def _limited(collection: Collection, qrels: Qrels | None, count: int | None) -> Qrels | None:
    """The labels of at most so many queries, chosen by the hash of their ids."""
    if qrels is None or count is None or count >= len(qrels):
        return qrels
    order = sorted(qrels.queries.tolist(), key=lambda query: hash_share(collection.query_ids[query]))
    return qrels.select(np.isin(qrels.queries, order[:count]))


def _without_leaks(
    examples: Sequence[RewriteExample], test: SearchTurns, leaks: Leaks, progress: Progress
) -> list[RewriteExample]:
    """The training examples that the test does not know, as `leaks` wants it."""
    known = [test.turns[place] for place in test.test.queries.tolist()]
    shared = leaking(examples, known, test.known(test.test))
    if not shared:
        return list(examples)
    named = few([examples[place].rewrite for place in shared])
    if leaks == "fail":
        raise LeakError(
            f"{len(shared)} training turns are also, or nearly, test turns: {named}; take them out, or pass "
            "--leaks drop (leave them out of training) or --leaks allow"
        )
    progress.note(f"{len(shared)} training turns are also test turns ({leaks})")
    if leaks == "drop" and len(shared) == len(examples):
        raise LeakError("every training turn is also, or nearly, a test turn: nothing is left to train on")
    out = set(shared) if leaks == "drop" else set()
    return [one for place, one in enumerate(examples) if place not in out]


def _found(name: str) -> Path:
    if name.startswith(_BUILTIN):
        return find_asset("data", f"{name.removeprefix(_BUILTIN)}.jsonl")
    return find_source_file(name, "rewrites")
