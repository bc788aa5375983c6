"""Turns with rewrites for a tiny rewriter, a task of conversations, and recipes that train in seconds."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from searchtune.evaluation import build_report
from searchtune.metrics.gain_prediction import GainPredictor
from searchtune.metrics.significance import Estimate
from searchtune.pipeline.rewriting import Rewritten
from searchtune.specs.base import parse_spec
from searchtune.specs.card import RewriteUse
from searchtune.specs.rewrite import RewriteRecipe
from searchtune.storage.fingerprint import sha256_json
from searchtune.workflows import evaluate, suite_rewriters
from searchtune.workflows.progress import Progress
from searchtune.workflows.retriever_identity import words_identity
from searchtune.workflows.rewrite_rule import Abstention

WORDS = ("tide", "soil", "oven", "choir", "judge", "comet", "loan", "fever", "reef", "moss", "salt", "drum")
SMALL = {
    "max_tokens": 200,
    "max_new_tokens": 12,
    "precision": "fp32",
    "method": {"rank": 4, "alpha": 8},
    "optim": {"lr": 3e-3, "epochs": 1, "min_steps": 0, "batch_size": 8, "checkpoint_every": 2},
    "dev": {"times": 1, "share": 0.2},
}


def rows(words=WORDS, *, turns=3):
    """A conversation a word: `tide 1?`, then `what of it 2?`, whose rewrite names the word."""
    found = []
    for word in words:
        history = [{"role": "title", "text": word}]
        for turn in range(1, turns + 1):
            utterance = f"{word} {turn}?" if turn == 1 else f"what of it {turn}?"
            rewrite = utterance.replace("it", word) if turn > 1 else utterance
            found.append(
                {
                    "conversation": word,
                    "history": list(history),
                    "utterance": utterance,
                    "rewrite": rewrite,
                    "turn": turn,
                }
            )
            history += [{"role": "user", "text": utterance}, {"role": "system", "text": f"{word} {turn}"}]
    return found


def write_rows(path: Path, given) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return path


def recipe(base: Path, *files: Path, **changes) -> RewriteRecipe:
    train = [{"file": str(file)} for file in files]
    return parse_spec(RewriteRecipe, {"base": str(base), "train": train, **SMALL, **changes}, "test")


def write_conversations(folder: Path) -> tuple[Path, Path]:
    """A task of utterances as they were said, and the same with people's rewrites: `TOPIC_TURN` asks for `TOPIC-TURN`."""
    topics = ("garden", "harbour", "kitchen", "orbit", "violin", "ledger")
    splits = dict(zip(topics, ("train", "dev", "dev", "test", "test", "test"), strict=True))
    raw, human = folder / "raw", folder / "human"
    for place in (raw, human):
        (place / "qrels").mkdir(parents=True)
        docs = [
            {"_id": f"{topic}-{turn}", "title": topic, "text": f"{topic} {detail} and more"}
            for topic in topics
            for turn, detail in enumerate(("history", "price", "repair"), start=1)
        ]
        write_rows(place / "corpus.jsonl", docs)
        queries = []
        for topic in topics:
            for turn, detail in enumerate(("history", "price", "repair"), start=1):
                whole = f"what is the {detail} of the {topic}"
                said = whole if turn == 1 or place is human else f"and its {detail}"
                queries.append({"_id": f"{topic}_{turn}", "text": said})
        write_rows(place / "queries.jsonl", queries)
        for split in ("train", "dev", "test"):
            lines = [f"{t}_{n}\t{t}-{n}\t1" for t in topics if splits[t] == split for n in (1, 2, 3)]
            (place / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines, ""]))
    return raw, human


def predictor(use="predicted", feature="rewrite_words", above=0.0):
    """Expects a gain where a feature is above a value."""
    one = np.ones(1)
    known = Estimate(0.1, 0.0, 0.2, 12)
    return GainPredictor((feature,), 0 * one, one, one, 0.0, use, above, known, 0.5, 0.0, f"as dev says: {use}")


def held_rule(use="predicted", *, retriever=None, mode="replace", other=None, **options):
    """A card's abstention, by default for BM25."""
    made_for = {"retriever": sha256_json(retriever or words_identity()), "other": other, "mode": mode}
    return Abstention(predictor(use, **options), made_for).to_json()


class Carded:
    """What is read of a rewriter's card."""

    def __init__(self, abstention=None, modes=None):
        self.abstention = abstention
        self.rewriting = (
            None
            if modes is None
            else RewriteUse(history_turns=1, history_words=9, reply_words=9, max_new_tokens=9, modes=modes)
        )


class Notes(Progress):
    """Keeps what a user is told."""

    def __init__(self):
        self.said = []

    def stage(self, name): ...

    def step(self, done, total, note): ...

    def note(self, text):
        self.said.append(text)


class Parrot:
    """A rewriter without a model: puts the newest title or the first word said before the utterance; may fail."""

    def __init__(self, *, name="parrot", fail_after=None, silent="", prompt=None):
        self.name, self.fail_after, self.silent = name, fail_after, silent
        self.asked = []
        self.modes = {}
        self.card = None

    @property
    def identity(self):
        return {"what": self.name}

    def mode(self, retriever):
        return self.modes.get(retriever, "replace")

    def stream(self, turns):
        for place, turn in enumerate(turns):
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise RuntimeError("killed")
            self.asked.append(turn)
            if self.silent and self.silent in turn.utterance:
                yield Rewritten(place, turn.utterance, "no answer in 6 attempts", 0, 0, 0.0)
            else:
                yield Rewritten(place, self.query(turn), None, 10, 2, 0.25)

    @staticmethod
    def query(turn):
        """The last word of the conversation's beginning, behind the utterance."""
        return f"{turn.utterance} {turn.history[0][1].split()[-1]}" if turn.history else turn.utterance


def report_quickly(monkeypatch) -> None:
    """Suites then draw few resamples and write no page."""
    monkeypatch.setattr(evaluate, "build_report", partial(build_report, rounds=200))
    monkeypatch.setattr(evaluate, "write_page", lambda report, file: None)


def put_parrot(monkeypatch) -> Parrot:
    """The rewriter that every suite opens from now on."""
    found = Parrot()
    monkeypatch.setattr(suite_rewriters, "open_rewriter", lambda *_, **__: found)
    return found
