"""Whoever uses an adapter reads documents as its training did: every command gives the vectors of that reading."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import yaml

import support
from searchtune.data.tasks import load_task, open_collection
from searchtune.data.trec import read_trec_run
from searchtune.errors import ConfigError
from searchtune.evaluation import build_report
from searchtune.models.artifact import load_artifact
from searchtune.models.cards import read_card
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.card import AdapterCard
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.suite import SuiteSpec
from searchtune.workflows import encode, finish, measure, pipeline
from searchtune.workflows.adapter import verify_adapter
from searchtune.workflows.document_texts import as_trained
from searchtune.workflows.embed import train_embedding
from searchtune.workflows.encode import open_adapter
from searchtune.workflows.evaluate import run_suite
from searchtune.workflows.search import encode_file, search_collection

TEMPLATE = "{text} | from {title}"
ASKED = "harbour tide sail"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return support.write_collection(tmp_path_factory.mktemp("world") / "tiny")


@pytest.fixture(scope="module")
def trained(world, tiny_model, tmp_path_factory):
    """The folder of a run under a template of its own, for two vector sizes, at a length that cuts documents."""
    folder = tmp_path_factory.mktemp("trained")
    task = folder / "own.yaml"
    task.write_text(yaml.safe_dump({"name": "own", "source": str(world), "doc_template": TEMPLATE}), encoding="utf-8")
    recipe = {
        "task": str(task),
        "base": str(tiny_model),
        "max_tokens": 18,
        "precision": "fp32",
        "method": {"rank": 4, "alpha": 8, "top_layers": 1},
        "objective": {"matryoshka": [32, 16]},
        "optim": {"lr": 1e-2, "epochs": 1, "batch_size": 16},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "verify_in_fresh_process", verify_adapter)
        patch.setattr(measure, "build_report", partial(build_report, rounds=200))
        patch.setattr(measure, "write_page", lambda report, file: None)
        return train_embedding(EmbedRecipe.model_validate(recipe), folder / "run").adapter


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setattr(encode, "dtype_name", lambda precision, device: "float32")


@pytest.fixture(scope="module")
def expected(trained, world):
    """Vectors of documents and of a query, as training read them, at both sizes."""
    encoder, card = load_artifact(trained, dtype=torch.float32, device=torch.device("cpu"))
    texts = [f"{text} | from {title}" for title, text in support.documents().values()]
    order = np.argsort(list(support.documents()))
    documents = encoder.encode(texts, max_tokens=card.max_tokens, prompt=card.document_prompt)[order]
    query = encoder.encode([ASKED], max_tokens=card.query_max_tokens, prompt=card.query_prompt)

    def sized(vectors, size):
        return vectors[:, :size] / np.linalg.norm(vectors[:, :size], axis=1, keepdims=True)

    return {size: (sized(documents, size), sized(query, size)[0]) for size in (32, 16)}


def test_the_card_says_how_documents_were_written(trained):
    assert read_card(trained).doc_template == TEMPLATE
    assert f'"{TEMPLATE}".format(title=title, text=text)' in (trained / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [32, 16])
def test_every_command_gives_the_vectors_of_training(trained, world, expected, tmp_path, size):
    documents, query = expected[size]
    dimensions = None if size == 32 else size
    encode_file(trained, world / "corpus.jsonl", tmp_path / "out.npy", dimensions=dimensions)
    names = [json.loads(line)["_id"] for line in (world / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert np.abs(np.load(tmp_path / "out.npy") - documents[np.argsort(np.argsort(names))]).max() < 1e-5

    scores = dict(zip(sorted(support.documents()), documents @ query, strict=True))
    cache = EmbeddingCache(tmp_path / "cache")
    search_collection(trained, ASKED, str(world), 40, cache=cache)  # whole vectors are in the cache now
    hits = search_collection(trained, ASKED, str(world), 40, dimensions=dimensions, cache=cache)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(scores, abs=1e-5)

    system = {"kind": "dense", "model": str(trained), "precision": "fp32", "dimensions": dimensions}
    suite = SuiteSpec.model_validate({"name": "s", "tasks": [str(world)], "systems": {"tuned": system}, "depth": 40})
    (result,) = run_suite(suite, tmp_path / "out", cache=cache)
    named = read_trec_run(result.folder / "runs" / "tuned.run.gz")
    collection = open_collection(load_task(str(world)))
    row = int(named.run.queries[0])
    text = collection.query_texts[collection.query_index[named.query_ids[row]]]
    asked = open_adapter(trained, dimensions=dimensions).queries.encode([text])[0]
    ranked = {named.doc_ids[doc]: score for doc, score in zip(named.run.docs[0], named.run.scores[0], strict=True)}
    by_hand = dict(zip(sorted(support.documents()), documents @ asked, strict=True))
    assert ranked == pytest.approx(by_hand, abs=1e-5)


def test_the_python_search_reads_documents_so_too(trained, world, expected):
    documents, query = expected[32]
    (hits,) = pipeline.open_search(str(world), model=str(trained)).search([ASKED], 40)
    scores = dict(zip(sorted(support.documents()), documents @ query, strict=True))
    assert {hit.id: hit.score for hit in hits} == pytest.approx(scores, abs=1e-5)


def test_what_is_read_otherwise_and_what_is_cut_is_told(trained, world, tmp_path):
    said = support.Notes()
    encode_file(trained, world / "corpus.jsonl", tmp_path / "out.npy", progress=said)
    assert f"documents are read as {TEMPLATE!r}, as in training" in said.notes[0]
    assert "of 40 texts" in said.notes[1] and "are cut at 18 tokens: train with a larger max_tokens" in said.notes[1]
    said = support.Notes()
    search_collection(trained, ASKED, str(world), 3, progress=said)
    assert f"documents are read as {TEMPLATE!r}, as in training, not '{{title}} {{text}}'" in said.notes[0]
    assert "of 40 documents encoded now" in said.notes[1]
    (tmp_path / "plain.txt").write_text("harbour\n", encoding="utf-8")
    said = support.Notes()
    encode_file(trained, tmp_path / "plain.txt", tmp_path / "plain.npy", progress=said)
    assert f"read as a whole document. The adapter was trained on {TEMPLATE!r}" in said.notes[0]
    said = support.Notes()
    encode_file(trained, tmp_path / "plain.txt", tmp_path / "plain.npy", queries=True, progress=said)
    assert said.notes == []


def test_queries_are_their_text_alone(trained, tmp_path):
    for name, row in (("bare", {"text": ASKED}), ("titled", {"title": "Sea", "text": ASKED})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row), encoding="utf-8")
        encode_file(trained, tmp_path / f"{name}.jsonl", tmp_path / f"{name}.npy", queries=True)
    assert (np.load(tmp_path / "bare.npy") == np.load(tmp_path / "titled.npy")).all()


def test_a_size_that_was_not_trained_is_refused(trained, tiny_model):
    with pytest.raises(ConfigError, match=r"dimensions 8: .* was trained for 32, 16; choose one of these"):
        open_adapter(trained, dimensions=8)
    with pytest.raises(ConfigError, match="dimensions 99: the vectors of .* have 32"):
        encode.open_encoder(str(tiny_model), dimensions=99).queries.encode(["a"])
    assert encode.open_encoder(str(tiny_model), dimensions=8).queries.encode(["a", "b"]).shape == (2, 8)


def test_an_older_card_opens_and_reads_as_the_task_says(trained, world, tmp_path, monkeypatch):
    card = read_card(trained)
    fields = card.model_dump(mode="json")
    del fields["doc_template"]
    assert AdapterCard.model_validate(fields).doc_template is None
    collection = open_collection(load_task(str(world)))
    assert as_trained(collection, None, "a") is collection
    monkeypatch.setattr(encode, "read_card", lambda folder: card.model_copy(update={"doc_template": None}))
    said = support.Notes()
    encode_file(trained, world / "corpus.jsonl", tmp_path / "out.npy", progress=said)
    assert "the adapter's card does not say how documents were written; read as '{title} {text}'" in said.notes[0]


@pytest.mark.parametrize("template", ["{title!r}", "{text:>9}", "{text.__class__}", "{other}", "no place", "{"])
def test_a_card_with_more_than_title_and_text_in_its_template_is_refused(trained, template):
    fields = {**read_card(trained).model_dump(mode="json"), "doc_template": template}
    with pytest.raises(ValueError, match="doc_template"):
        AdapterCard.model_validate(fields)
