"""The adapter folder of a language model: writing it, reading it back, and proving that it reloads as it was trained.

The folder is a PEFT adapter, as transformers, peft and vLLM open it. The card beside it holds what they do not check:
which base and which chat template, under which prompt, and which scores must come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from searchtune.models.adapters import Adapter
from searchtune.models.backends import label_tokens
from searchtune.models.cards import check_base, read_llm_card
from searchtune.models.chat import chat_store, example_store
from searchtune.models.completions import CompletionReader
from searchtune.models.folders import open_plainly, put_adapter, write_adapter
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.precision import warn_of_slow
from searchtune.models.quantisation import Quantise
from searchtune.models.quiet import quiet
from searchtune.models.sources import resolve_model
from searchtune.prompts.chat import ChatExample, Conversation, Message, Passage
from searchtune.specs.card import CARD_FILE, ChatProbe, LlmCard, ProbeExample, ProbePart, ProbeTurn
from searchtune.storage.atomic import new_folder, write_json, write_text
from searchtune.types import FloatArray

_TOLERANCE = 1e-5
"""Of the largest score: logits have no fixed size, and float32 rounds in proportion. For completions it is so much a
token at least: each token's log-probability is the difference of two numbers that are much larger than itself."""


@quiet()
def save_llm_adapter(
    folder: Path,
    model: CausalLM,
    adapter: Adapter,
    card: LlmCard,
    *,
    train_positives: list[str],
) -> LlmCard:
    """Write the adapter folder, whole or not at all; an older complete artifact there stays until then.

    `model` is in float32: the probe of `card` is run with it and recorded. Returns the card with its tolerance.
    """
    scores = llm_probe_scores(model, card)
    tolerance = _TOLERANCE * max(1.0, float(np.abs(scores).max(initial=0.0)), _longest_completion(model, card))
    card = card.model_copy(update={"probe": card.probe.model_copy(update={"tolerance": tolerance})})
    with new_folder(folder) as temporary:
        write_adapter(temporary, adapter, card, model.backbone, model.tokenizer)
        np.save(temporary / card.probe.scores_file, scores)
        write_json(temporary / "train_positives.json", train_positives)
        write_text(temporary / "README.md", _readme(card))
    return card


@quiet()
def load_llm_adapter(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    base: str | None = None,
    quantise: Quantise | None = None,
) -> tuple[CausalLM, LlmCard]:
    """The tuned language model and its card; its adapter is folded into the weights unless those are in 4 bits.

    `quantise` opens the base otherwise than it was trained on: `none` puts the adapter of a 4-bit base onto the 16-bit
    one, which gives other scores.

    Raises:
        ArtifactError: the folder is damaged, of another kind, or the base, its tokenizer or its chat template is not
            the one it was trained on.
    """
    card = read_llm_card(folder)
    root = resolve_model(base or card.base, None if base else card.revision)
    check_base(card, root)
    if (quantise or card.quantise) == "nf4":  # merging into 4 bits would lose what was trained
        model = load_causal_lm(root, dtype=dtype, device=device, quantise="nf4")
        put_adapter(model.backbone, folder, root)
        return model.eval(), card
    warn_of_slow(dtype, device)
    model = load_causal_lm(root, dtype=torch.float32, device=torch.device("cpu"))
    model.backbone = put_adapter(model.backbone, folder, root).merge_and_unload().eval().to(dtype=dtype, device=device)
    return model.eval(), card


def chat_probe(examples: Sequence[ChatExample]) -> ChatProbe:
    """Examples as a card keeps them; their completions count only where the card has no labels."""
    return ChatProbe(
        examples=[
            ProbeExample(
                turns=[ProbeTurn(role=message.role, parts=_parts(message)) for message in example.messages],
                completion=example.completion,
            )
            for example in examples
        ]
    )


def llm_probe_scores(model: CausalLM, card: LlmCard) -> FloatArray:
    """What the model makes of the probe. Shape: (examples, labels), or (examples, 1) where the card has no labels."""
    if card.labels:
        store = chat_store(model.tokenizer, _conversations(card), card.max_tokens)
        return model.score_store(store, label_tokens(model.tokenizer, _conversations(card), card.labels))
    chosen = example_store(model.tokenizer, _examples(card), card.max_tokens).chosen
    return CompletionReader(model).read_store(chosen)[:, None]


@quiet()
@torch.no_grad()
def open_llm_with_transformers(folder: Path, card: LlmCard, model: CausalLM, base: str | None = None) -> FloatArray:
    """Probe scores by transformers' and peft's own classes, over the whole vocabulary, one text at a time.

    `model` gives the tokenizer alone. Shape: as `llm_probe_scores`.
    """
    plain = open_plainly(folder, card, resolve_model(base or card.base, None if base else card.revision))
    tokenizer, scores = model.tokenizer, []
    if card.labels:
        store = chat_store(tokenizer, _conversations(card), card.max_tokens)
        labels = label_tokens(tokenizer, _conversations(card), card.labels)
        for start, stop in zip(store.offsets, store.offsets[1:], strict=False):
            logits = plain(input_ids=torch.from_numpy(store.ids[start:stop])[None]).logits[0, -1].float()
            scores.append(logits[labels].numpy())
        return np.stack(scores)
    chosen = example_store(tokenizer, _examples(card), card.max_tokens).chosen
    for text, prompt in enumerate(chosen.prompts):
        ids = torch.from_numpy(chosen.tokens.ids[chosen.tokens.offsets[text] : chosen.tokens.offsets[text + 1]])
        logprobs = plain(input_ids=ids[None]).logits[0].float().log_softmax(-1)
        found = logprobs[torch.arange(int(prompt) - 1, len(ids) - 1), ids[int(prompt) :]]
        scores.append(found.sum(dim=0, keepdim=True).numpy())
    return np.stack(scores)


def _longest_completion(model: CausalLM, card: LlmCard) -> int:
    """Tokens of the longest completion that the probe reads; 0 where it reads labels."""
    if card.labels:
        return 0
    chosen = example_store(model.tokenizer, _examples(card), card.max_tokens).chosen
    return int((chosen.tokens.lengths - chosen.prompts).max(initial=0))


def _parts(message: Message) -> list[ProbePart]:
    return [
        ProbePart(text=part.text, passage=True) if isinstance(part, Passage) else ProbePart(text=part)
        for part in message.parts
    ]


def _conversations(card: LlmCard) -> list[Conversation]:
    return [
        tuple(
            Message(turn.role, tuple(Passage(part.text) if part.passage else part.text for part in turn.parts))
            for turn in example.turns
        )
        for example in card.probe.examples
    ]


def _examples(card: LlmCard) -> list[ChatExample]:
    completions = [example.completion for example in card.probe.examples]
    return [ChatExample(turns, text) for turns, text in zip(_conversations(card), completions, strict=True)]


def _readme(card: LlmCard) -> str:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in card.metrics.items()) or "none"
    purpose = {
        "judge": "judges how relevant a document is to a query",
        "rewrite": "rewrites queries",
        "answer": "answers from documents",
    }[card.kind]
    return (
        f"# {card.name}\n\nA LoRA adapter for `{card.base}` that {purpose}, trained with searchtune under the prompt "
        f"{card.prompt} {card.prompt_version}. Dev figures: {figures}.\n\n"
        "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
        'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")\n```\n\n'
        "`searchtune adapter verify` checks that it still gives the scores it was trained to give; "
        f"`{CARD_FILE}` says what it was trained on.\n"
    )
