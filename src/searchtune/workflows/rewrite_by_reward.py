"""Training a rewriter on what its rewrites find: candidates, rewards, then the better against the worse of each query.

No human rewrite is needed. The pairs are learned by direct preference optimisation, after a pass over each query's best
rewrite where the recipe asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from safetensors.torch import load_file

from searchtune.data.candidates import RewardedTurn, best_rewrites, preferences
from searchtune.errors import ArtifactError, ConfigError, DataError
from searchtune.metrics.significance import SAME
from searchtune.models.adapters import ADAPTER, Adapter, add_lora
from searchtune.models.cards import check_base, read_llm_card
from searchtune.models.chat import ExampleStore, example_store
from searchtune.models.completions import CompletionReader
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.sources import resolve_model
from searchtune.pipeline.stages import Rewriting
from searchtune.prompts.chat import ChatExample, Conversation
from searchtune.reading import read_json_object
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.card import adapter_folder
from searchtune.specs.llm import LlmRecipe
from searchtune.specs.recipe import LoraMethod
from searchtune.specs.reward import RetrievalReward
from searchtune.storage.atomic import write_json
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.output import OutputPolicy
from searchtune.training.fit import TrainLog
from searchtune.training.generation import CompletionWriting
from searchtune.training.preference import PairPreference, PreferenceOptions, pair_texts, reference_logprobs
from searchtune.types import FloatArray, Turn
from searchtune.workflows.fitting import CutTexts, DevWatch, fit_watched, tell_cut
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.rewrite_reward import (
    CandidateSource,
    RewardData,
    TurnsOf,
    open_reward_data,
    preference_pairs,
    read_rewarded,
    reward_candidates,
    reward_figures,
    single_turns,
    write_rewarded,
)
from searchtune.workflows.rewrite_search import RewriteSearch, open_retrieval
from searchtune.workflows.run_folder import TrainingRun, training_run
from searchtune.workflows.training_set import Leaks, at_most

METRIC = "gain"
"""The dev figure by which the best weights are known."""
_CANDIDATES = "candidates.jsonl"
_REWARDED = "rewarded.jsonl"


@dataclass(frozen=True)
class RewardPlan:
    """What training by reward is made of, beside the recipe of the adapter."""

    reward: RetrievalReward
    source: CandidateSource
    """Draws the candidates: the rewriter that training begins with."""
    ask: Callable[[Turn], Conversation]
    """Puts a turn to the model."""
    over: Callable[[CausalLM], Rewriting]
    """A model in training as a rewriter, for dev."""
    turns_of: TurnsOf = single_turns
    start: Path | None = None
    """The adapter of a rewriter whose weights training begins with; None begins with the base."""
    journal: Path | None = None
    """Where candidates and rewards are kept; None keeps them in the run's folder."""
    cache: EmbeddingCache | None = None


@dataclass(frozen=True)
class RewardTrained:
    """What training left in memory, for whoever writes the adapter."""

    root: Path
    model: CausalLM
    adapter: Adapter
    log: TrainLog
    examples: list[ChatExample]
    """Prompts with the better rewrites."""
    positives: list[str]
    """Ids of the documents that the rewards knew as relevant."""
    fingerprint: str
    """Of collection and labels."""
    rewards: dict[str, float] = field(default_factory=dict)
    """See `reward_figures`."""
    warnings: Sequence[str] = ()
    """What the run warned of."""


def train_by_reward(
    recipe: LlmRecipe,
    plan: RewardPlan,
    out: Path | str,
    *,
    policy: OutputPolicy = "fail",
    leaks: Leaks = "fail",
    progress: Progress = SILENT,
) -> RewardTrained | None:
    """Draw and reward candidates, then learn from the pairs; the weights that gain most on dev are kept.

    `out` gets `recipe.json`, `candidates.jsonl` (the journal), `rewarded.jsonl`, `train_log.json`, `checkpoints/` and,
    with a warm start, `warm/checkpoints/`. A run that was killed goes on with `policy` "resume".

    Returns:
        The trained model; None in all but the main process of a distributed run.

    Raises:
        DataError: no two candidates of any query differ enough in reward.
        SearchtuneError: whatever else a user can mend.
    """
    with training_run(recipe, out, policy, progress) as run:
        return _trained(recipe, plan, run, leaks)


def _trained(recipe: LlmRecipe, plan: RewardPlan, run: TrainingRun, leaks: Leaks) -> RewardTrained | None:
    progress, out = run.progress, run.out
    progress.stage("reading the collection")
    data = open_reward_data(plan.reward, leaks, turns_of=plan.turns_of, progress=progress)
    root = resolve_model(recipe.base, recipe.revision)
    fingerprint = sha256_json([data.collection.fingerprint, plan.reward.model_dump(mode="json")])
    dtype = run.begin(fingerprint)
    search = _search(plan, data, progress)
    if run.main:
        write_rewarded(out / _REWARDED, _reward(recipe, plan, data, search, out, progress))
    PartialState().wait_for_everyone()
    rewarded = read_rewarded(out / _REWARDED)
    pairs, best = _examples(plan, rewarded, progress)
    progress.stage("loading the base model")
    model = load_causal_lm(root, dtype=dtype, device=run.device, quantise=recipe.quantise, attention="eager")
    adapter = add_lora(model, recipe.method, seed=recipe.seed, task_type="CAUSAL_LM")
    if plan.start is not None:
        adapter.load_state(_weights_of(plan.start, root, recipe.method, adapter))
    trainer = _Trainer(recipe, plan.reward, model, adapter, run)
    trainer.warm(best)
    watch = None
    if recipe.dev.times and "dev" in data.collection.qrels:
        most = recipe.dev.max_examples
        watch = DevWatch(
            dev_gain(data, search, metric=plan.reward.metric, most=most, rewriting=plan.over(model)),
            METRIC,
            recipe.dev.times,
            min(most, len(data.collection.qrels["dev"])),
            recipe.dev.min_queries,
            measure_base=False,
            rivals={"the queries as they are": {METRIC: 0.0}},
        )
    log = trainer.prefer(pairs, watch)
    if not run.main:
        return None
    write_json(out / "train_log.json", log.to_json())
    examples = best or pairs
    return RewardTrained(
        root,
        model,
        adapter,
        log,
        examples,
        data.positives,
        data.collection.fingerprint,
        reward_figures(rewarded),
        run.warnings,
    )


def dev_gain(
    data: RewardData, search: RewriteSearch, *, metric: str, most: int, rewriting: Rewriting
) -> Callable[[], dict[str, float]]:
    """What `fit` calls to score dev: rewrites of at most `most` dev queries, searched like candidates.

    Its figures are means over the queries: `reward`, `gain` over the utterances, and the shares `changed` and `harmed`.
    """
    dev = at_most(data.collection, data.collection.split("dev"), most)
    rows = np.arange(len(dev))
    turns = [data.turns[int(query)] for query in dev.queries]
    utterances = [" ".join(turn.utterance.split()) for turn in turns]
    original = search.original(dev.queries, utterances)
    before = search.scores(original, dev, rows, metric)

    def evaluate() -> dict[str, float]:
        rewrites = rewriting.rewrite(turns)
        after = search.scores(search.rewritten(dev.queries, utterances, rewrites, original), dev, rows, metric)
        gains = after - before
        return {
            "reward": float(after.mean()),
            METRIC: float(gains.mean()),
            "changed": float(np.mean([new != old for new, old in zip(rewrites, utterances, strict=True)])),
            "harmed": float((gains < -SAME).mean()),
        }

    return evaluate


@dataclass(frozen=True, eq=False)
class _Trainer:
    """The two passes over one model."""

    recipe: LlmRecipe
    reward: RetrievalReward
    model: CausalLM
    adapter: Adapter
    run: TrainingRun

    def warm(self, examples: list[ChatExample]) -> None:
        """Learn each query's best rewrite: mean negative log-likelihood of its tokens."""
        if not examples:
            return
        recipe = self.recipe
        objective = CompletionWriting(
            self.model,
            self._store(examples).chosen,
            batch_size=recipe.optim.batch_size,
            tokens_per_chunk=recipe.tokens_per_chunk,
            seed=recipe.seed,
            recompute=recipe.recompute,
        )
        optim = recipe.optim.model_copy(update={"epochs": self.reward.warm_start, "min_steps": 0})
        folder = self.run.out / "warm"
        fit_watched(objective, optim, self.run, None, stage="learning the best rewrites", folder=folder)

    def prefer(self, pairs: list[ChatExample], watch: DevWatch | None) -> TrainLog:
        """Learn the better against the worse."""
        recipe, how = self.recipe, self.reward.preference
        store = self._store(pairs)
        objective = PairPreference(
            self.model,
            store,
            self._reference(store),
            PreferenceOptions(how.beta, how.label_smoothing, how.sft_weight),
            batch_size=recipe.optim.batch_size,
            tokens_per_chunk=recipe.tokens_per_chunk,
            seed=recipe.seed,
        )
        return fit_watched(objective, recipe.optim, self.run, watch, stage="learning from preferences")

    def _reference(self, store: ExampleStore) -> FloatArray:
        """Log-probabilities that gains are measured from. Shape: (pairs, 2)."""
        tokens = self.recipe.tokens_per_chunk
        if self.reward.preference.reference == "base":
            return reference_logprobs(self.model, self.adapter, store, tokens_per_chunk=tokens)
        texts, pairs = pair_texts(store)
        found = CompletionReader(self.model).read_store(texts, tokens_per_chunk=tokens)
        return np.ascontiguousarray(found.reshape(2, pairs).T)

    def _store(self, examples: list[ChatExample]) -> ExampleStore:
        store = example_store(self.model.tokenizer, examples, self.recipe.max_tokens)
        cut = CutTexts(store.chosen.tokens.truncated, len(examples), "prompts")
        tell_cut(self.run.progress, cut, "max_tokens", self.recipe.max_tokens)
        return store


def _search(plan: RewardPlan, data: RewardData, progress: Progress) -> RewriteSearch:
    progress.stage("indexing")
    opened = open_retrieval(plan.reward.retrievers, data.collection, plan.cache)
    return RewriteSearch(data.collection, opened, plan.reward.mode, plan.reward.depth)


def _reward(
    recipe: LlmRecipe, plan: RewardPlan, data: RewardData, search: RewriteSearch, out: Path, progress: Progress
) -> list[RewardedTurn]:
    progress.stage("drawing and rewarding candidates")
    place = plan.journal or out / _CANDIDATES
    rewarded = reward_candidates(
        data, plan.source, search=search, reward=plan.reward, place=place, seed=recipe.seed, progress=progress
    )
    figures = reward_figures(rewarded)
    progress.note(
        f"{len(rewarded):,} queries: {plan.reward.metric} {figures['utterance']:.4f} as they are, "
        f"{figures['first']:.4f} rewritten, {figures['best']:.4f} by the best of "
        f"{sum(len(one.candidates) for one in rewarded):,} candidates; {figures['improvable']:.0%} can be improved"
    )
    return rewarded


def _examples(
    plan: RewardPlan, rewarded: list[RewardedTurn], progress: Progress
) -> tuple[list[ChatExample], list[ChatExample]]:
    """Pairs, and the best rewrites for a warm start; none of these where there is none."""
    reward = plan.reward
    found = preferences(rewarded, min_margin=reward.min_margin, per_query=reward.pairs_per_query)
    if not found:
        raise DataError(
            f"no two candidates of the {len(rewarded):,} queries differ by {reward.min_margin:g} in {reward.metric}; "
            "lower reward.min_margin, raise reward.samples or reward.temperature, or set reward.from_documents"
        )
    queries = len({one.query_id for one in found})
    progress.note(f"{len(found):,} pairs of a better and a worse rewrite, of {queries:,} queries")
    best = best_rewrites(rewarded) if reward.warm_start else []
    return preference_pairs(found, plan.ask), [ChatExample(plan.ask(turn), text) for turn, text in best]


def _weights_of(start: Path, root: Path, method: LoraMethod, adapter: Adapter) -> dict[str, Any]:
    """The weights of a saved adapter under the names that they have in training.

    Raises:
        ArtifactError: the folder is damaged, is no rewriter's, or its base is another one.
        ConfigError: it has another shape than the recipe's.
    """
    folder = adapter_folder(start)
    card = read_llm_card(folder)
    if card.kind != "rewrite":
        raise ArtifactError(f"{folder}: an adapter of kind {card.kind!r}; training by reward begins with a rewriter's")
    check_base(card, root)
    saved = read_json_object(folder / "adapter_config.json", ArtifactError)
    here = {"r": method.rank, "lora_alpha": method.alpha, "use_rslora": method.rslora, "use_dora": method.dora}
    differs = {name: saved.get(name) for name, value in here.items() if saved.get(name) != value}
    weights = {
        name.replace(".lora_A.", f".lora_A.{ADAPTER}.").replace(".lora_B.", f".lora_B.{ADAPTER}."): tensor
        for name, tensor in load_file(str(folder / "adapter_model.safetensors")).items()
    }
    if differs or weights.keys() != adapter.parameters.keys():
        raise ConfigError(
            f"{folder}: the adapter to begin with was trained with {differs or 'other layers'}, unlike the recipe's "
            "method; give the recipe the same one"
        )
    return weights
