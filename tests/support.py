"""A small world for tests: forty documents on eight topics, sixty queries, graded labels, and models small enough to train.

Topics 0 to 4 belong to train, so that half of the test queries ask for documents that training never saw.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from searchtune.workflows.progress import Progress

TOPICS = {
    "sea": "harbour tide sail anchor wave pilot reef cargo storm deck gull rope",
    "garden": "seed soil root bloom hedge spade rain petal orchard bee moss vine",
    "kitchen": "oven dough salt butter knife pan simmer yeast broth pepper crust bowl",
    "music": "chord violin tempo choir drum melody score flute rhythm string hall encore",
    "law": "court judge appeal statute clause witness verdict treaty motion plea bench docket",
    "space": "orbit comet probe lens crater launch signal dust eclipse rover nebula gravity",
    "finance": "loan bond audit yield ledger tax margin invoice credit fund share deposit",
    "health": "fever vaccine pulse nurse tissue dose clinic bone sleep lung virus diet",
}
SHARED = "old new long small first early open quiet north local daily simple great late common winter"
PER_TOPIC = 5
TRAIN_TOPICS = range(5)


class Notes(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@dataclass(frozen=True)
class Query:
    id: str
    text: str
    split: str
    grades: dict[str, int]


def words() -> list[str]:
    """Every word of the small world, once."""
    return sorted({word for line in (*TOPICS.values(), SHARED) for word in line.split()})


def documents() -> dict[str, tuple[str, str]]:
    """Document id to (title, text)."""
    rng = random.Random(1)
    shared = SHARED.split()
    found: dict[str, tuple[str, str]] = {}
    for topic, line in TOPICS.items():
        for number in range(PER_TOPIC):
            own = rng.sample(line.split(), 8)
            body = [*own[:7], *rng.sample(shared, 4), *rng.choices(own, k=3)]
            rng.shuffle(body)
            found[f"{topic}-{number}"] = (f"{own[0]} {own[7]}", " ".join(body))
    return found


def queries() -> list[Query]:
    """36 train, 12 dev and 12 test queries; the document asked for has grade 2, another of its topic grade 1."""
    rng = random.Random(2)
    docs = documents()
    names = list(TOPICS)
    known = [f"{names[topic]}-{number}" for topic in TRAIN_TOPICS for number in range(PER_TOPIC)]
    unknown = [doc for doc in docs if doc not in known]
    wanted = {
        "train": [known[i % len(known)] for i in range(36)],
        "dev": rng.sample(known, 6) + rng.sample(unknown, 6),
        "test": rng.sample(known, 6) + rng.sample(unknown, 6),
    }
    found = []
    for split, targets in wanted.items():
        for target in targets:
            title, text = docs[target]
            asked = rng.sample(sorted(set(f"{title} {text}".split())), 5)
            topic = target.rpartition("-")[0]
            second = rng.choice([doc for doc in docs if doc.startswith(topic) and doc != target])
            found.append(Query(f"q{len(found):02d}", " ".join(asked), split, {target: 2, second: 1}))
    return found


def write_collection(folder: Path) -> Path:
    """Write the small world as a BEIR folder."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = ({"_id": i, "title": title, "text": text} for i, (title, text) in documents().items())
    _write_jsonl(folder / "corpus.jsonl", corpus)
    _write_jsonl(folder / "queries.jsonl", ({"_id": query.id, "text": query.text} for query in queries()))
    for split in ("train", "dev", "test"):
        rows = [f"{q.id}\t{doc}\t{grade}" for q in queries() if q.split == split for doc, grade in q.grades.items()]
        text = "\n".join(["query-id\tcorpus-id\tscore", *rows, ""])
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def write_bert(folder: Path) -> Path:
    """A random BERT of 4 layers and 32 dimensions as a sentence-transformers folder: mean pooling, unit length."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    return _write_model(BertModel, config, folder)


def write_llama(folder: Path) -> Path:
    """A random Llama of 2 layers and 32 dimensions, in the same form."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return _write_model(LlamaModel, config, folder)


def write_causal(folder: Path) -> Path:
    """The same Llama as a causal language model, in a plain transformers folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    answers = ("yes", "no")
    config = LlamaConfig(
        vocab_size=len(_vocabulary(answers)),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        LlamaForCausalLM(config).eval().save_pretrained(folder)
    _tokenizer(answers).save_pretrained(folder)
    return folder


def _write_model(architecture, config, folder):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    plain = folder / "plain"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        architecture(config).eval().save_pretrained(plain)
    _tokenizer().save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=128)
    model = SentenceTransformer(modules=[transformer, Pooling(config.hidden_size, "mean"), Normalize()], device="cpu")
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def _vocabulary(extra: tuple[str, ...] = ()) -> dict[str, int]:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *words(), *extra]
    return {token: i for i, token in enumerate(tokens)}


def _tokenizer(extra: tuple[str, ...] = ()):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = _vocabulary(extra)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
