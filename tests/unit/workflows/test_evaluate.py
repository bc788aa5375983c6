"""Running suites on the small world: what each kind of system ranks, what is written, what is refused."""

import gzip
import json
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import support
from searchtune.data.beir import read_beir
from searchtune.data.named import NamedQrels
from searchtune.data.results import read_result
from searchtune.data.trec import read_trec_run, write_qrels_file
from searchtune.errors import ArtifactError, ConfigError, DataError, OutputExistsError
from searchtune.evaluation import build_report, read_report
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.suite import SuiteSpec
from searchtune.workflows import evaluate, systems
from searchtune.workflows.evaluate import load_suite, run_suite
from searchtune.workflows.score import score_files

DOCUMENT = next(iter(support.documents()))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(evaluate, "build_report", partial(build_report, rounds=200))
    monkeypatch.setattr(evaluate, "write_page", lambda report, file: None)


@pytest.fixture
def suite(tiny_collection, tiny_model):
    """Make a suite over the small world with the given systems, or with words, vectors and both."""
    usual = {
        "words": {"kind": "bm25"},
        "vectors": {"kind": "dense", "model": str(tiny_model), "max_tokens": 64},
        "both": {"kind": "fusion", "of": ["words", "vectors"]},
    }

    def make(systems=None, **changes):
        whole = {"name": "s", "tasks": [str(tiny_collection)], "systems": systems or usual, **changes}
        return SuiteSpec.model_validate(whole)

    return make


def means(result, metric="ndcg@10"):
    return {name: system.metrics[metric].mean for name, system in result.report.systems.items()}


def test_what_is_written(suite, tiny_collection, tmp_path):
    (result,) = run_suite(suite(), tmp_path / "out", cache=EmbeddingCache(tmp_path / "cache"))
    assert list(result.report.systems) == ["words", "vectors", "both"]
    assert read_report(result.folder / "report.json").systems.keys() == result.report.systems.keys()
    assert result.report.reference == "words"
    assert {(it.a, it.b) for it in result.report.comparisons} == {("words", "vectors"), ("words", "both")}
    assert not result.report.overlap_measured
    found = read_result(result.folder / "mteb" / "words" / f"{result.task}.json")
    assert found.scores["test"]["ndcg@10"] == pytest.approx(means(result)["words"], abs=1e-6)


def test_written_runs_score_the_same(suite, tiny_collection, tmp_path):
    (result,) = run_suite(suite(), tmp_path / "out")
    collection = read_beir(tiny_collection, name="tiny")
    write_qrels_file(tmp_path / "test.qrels", NamedQrels.of(collection, "test"))
    files = [result.folder / "runs" / f"{name}.run.gz" for name in result.report.systems]
    scores = score_files(tmp_path / "test.qrels", files, ["ndcg@10"], rounds=200)
    for system in scores.systems:
        name = system.name.removesuffix(".run")
        assert system.estimates["ndcg@10"].mean == pytest.approx(means(result)[name], abs=1e-6)


def test_an_unchanged_model_encodes_nothing(suite, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache")
    (first,) = run_suite(suite(), tmp_path / "one", cache=cache)
    (second,) = run_suite(suite(), tmp_path / "two", cache=cache)
    assert first.report.provenance["texts_encoded"] == 52  # 40 documents, 12 queries
    assert second.report.provenance["texts_encoded"] == 0
    assert means(first) == means(second)


@pytest.mark.parametrize(
    "index",
    [
        {"kind": "exact"},
        {"kind": "hnsw"},
        {"kind": "ivf", "params": {"lists": 1, "probes": 1}},
        {"kind": "sq", "params": {"number": "fp16"}},
    ],
)
def test_other_indexes(suite, tiny_model, tmp_path, index):
    systems = {
        "flat": {"kind": "dense", "model": str(tiny_model)},
        "other": {"kind": "dense", "model": str(tiny_model), "index": index},
    }
    (result,) = run_suite(suite(systems, depth=20), tmp_path / "out")
    assert means(result)["other"] == pytest.approx(means(result)["flat"], abs=1e-3)
    loss = result.report.costs["other"].get("exact_loss")
    assert (loss is None) == (index["kind"] == "exact")
    if loss is not None:
        assert loss["ndcg@10"] == pytest.approx(0, abs=1e-3)
        assert loss["exact top 10"] <= 0.2


def index_suite(suite, tiny_model, folder, *, kind="hnsw", params=None, **changes):
    settings = {"links": 8, **(params or {})} if kind == "hnsw" else {}
    index = {"kind": kind, "params": settings, "save": str(folder / "{task}")}
    return suite({"vectors": {"kind": "dense", "model": str(tiny_model), "index": index, **changes}})


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_a_kept_index_is_mapped_instead_of_built(suite, tiny_model, tmp_path, monkeypatch, kind):
    spec = index_suite(suite, tiny_model, tmp_path / "kept", kind=kind)
    (first,) = run_suite(spec, tmp_path / "one")
    assert (tmp_path / "kept" / first.folder.name / "COMPLETE.json").is_file()
    monkeypatch.setattr(systems, "open_index", lambda *_: pytest.fail("built again"))
    (second,) = run_suite(spec, tmp_path / "two")
    assert means(second) == means(first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"document_prompt": "passage: "}, "another encoder or other documents"),
        ({"max_tokens": 9}, "another encoder or other documents"),
        ({"params": {"links": 9}}, r"keeps the index hnsw\(links=8.*, and hnsw\(links=9.* is asked for; name another"),
        ({"kind": "exact"}, r"keeps the index hnsw\(links=8.*, and exact is asked for; name another folder"),
    ],
)
def test_a_kept_index_of_something_else_is_refused(suite, tiny_model, tmp_path, changes, message):
    run_suite(index_suite(suite, tiny_model, tmp_path / "kept"), tmp_path / "one")
    with pytest.raises(ArtifactError, match=message):
        run_suite(index_suite(suite, tiny_model, tmp_path / "kept", **changes), tmp_path / "two")


def test_a_kept_index_that_is_damaged_is_refused(suite, tiny_model, tmp_path):
    spec = index_suite(suite, tiny_model, tmp_path / "kept")
    (result,) = run_suite(spec, tmp_path / "one")
    with (tmp_path / "kept" / result.folder.name / "index.faiss").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"index\.faiss: \d+ bytes where"):
        run_suite(spec, tmp_path / "two")


@pytest.mark.processor
def test_precision_is_the_suites_to_choose(suite, tiny_model, tmp_path):
    vectors = {"kind": "dense", "model": str(tiny_model)}
    cache = EmbeddingCache(tmp_path / "cache")
    both = {name: {**vectors, "precision": name} for name in ("fp32", "bf16")}
    (result,) = run_suite(suite(both), tmp_path / "out", cache=cache)
    assert result.report.provenance["texts_encoded"] == 2 * 52  # each in its own precision
    assert means(result)["bf16"] == pytest.approx(means(result)["fp32"], abs=0.05)


def test_the_headline_reaches_the_report(suite, tmp_path):
    spec = suite({"words": {"kind": "bm25"}}, metrics=["map", "recall@10"], headline="map")
    (result,) = run_suite(spec, tmp_path / "out")
    assert (result.report.headline_metric, result.report.metrics) == ("map", ["map", "recall@10"])
    found = read_result(result.folder / "mteb" / "words" / f"{result.task}.json")
    assert found.main_metric == "recall@10"  # the first one that MTEB has a name for
    (bare,) = run_suite(suite({"words": {"kind": "bm25"}}, metrics=["rprec"], headline="rprec"), tmp_path / "bare")
    assert (bare.folder / "runs" / "words.run.gz").is_file()
    assert not (bare.folder / "mteb").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"kind": "ivf"}, "index ivf needs lists"),
        ({"kind": "hnsw", "params": {"link": 3}}, r"index hnsw has no setting 'link' .*did you mean 'links'"),
        ({"kind": "exact", "params": {"link": 3}}, "index exact has no setting 'link'"),
    ],
)
def test_settings_that_an_index_does_not_have(suite, tiny_model, tmp_path, index, message):
    systems = {"vectors": {"kind": "dense", "model": str(tiny_model), "index": index}}
    with pytest.raises(ConfigError, match=message):
        run_suite(suite(systems), tmp_path / "out")


def test_an_adapter_is_measured_for_memory(suite, finished, tiny_model, tmp_path):
    systems = {
        "base": {"kind": "dense", "model": str(tiny_model), "max_tokens": 64},
        "tuned": {"kind": "dense", "model": str(finished.folder)},
    }
    (result,) = run_suite(suite(systems), tmp_path / "out")
    assert result.report.tuned == ["tuned"]
    assert {name: part.n for name, part in result.report.slices.items()} == {"unseen": 6, "seen": 6, "residual": 6}
    trained = finished.report.systems["tuned"].metrics["ndcg@10"].mean
    assert means(result)["tuned"] == pytest.approx(trained, abs=5e-3)  # bf16 or float32


def test_weights_fitted_on_dev(suite, tmp_path):
    systems = {**suite().model_dump()["systems"]}
    systems["both"] = {"kind": "fusion", "of": ["words", "vectors"], "method": "combsum", "weights": "dev"}
    (result,) = run_suite(suite(systems, split="dev"), tmp_path / "out")
    assert means(result)["both"] >= max(means(result)["words"], means(result)["vectors"]) - 1e-9


def test_a_run_from_elsewhere(suite, tmp_path):
    (result,) = run_suite(suite(), tmp_path / "out")
    pattern = str(result.folder.parent / "{task}" / "runs" / "words.run.gz")
    systems = {"words": {"kind": "bm25"}, "theirs": {"kind": "run", "file": pattern}}
    (again,) = run_suite(suite(systems), tmp_path / "again")
    assert means(again)["theirs"] == means(again)["words"]


@pytest.fixture(scope="module")
def tiny_cross_encoder(tiny_model, tmp_path_factory):
    """The tiny model with a head for ranking."""
    folder = tmp_path_factory.mktemp("cross-encoder")
    AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def test_a_run_with_unknown_documents(suite, tmp_path):
    file = tmp_path / "bad.run"
    file.write_text(f"q48 Q0 nowhere 1 3.5 theirs\nq48 Q0 {DOCUMENT} 2 3 theirs\n", encoding="utf-8")
    system = {"kind": "run", "file": str(file)}
    with pytest.raises(DataError, match="nowhere"):
        run_suite(suite({"theirs": system}), tmp_path / "out")
    said = support.Notes()
    run_suite(suite({"theirs": {**system, "unknown_documents": "skip"}}), tmp_path / "skip", progress=said)
    assert (
        f"{file}: ranks 1 of 12 queries, the rest are empty rankings; left out: 1 ranked documents that"
        in said.notes[-1]
    )


def run_lines(result):
    return gzip.decompress((result.folder / "runs" / "words.run.gz").read_bytes()).decode().splitlines()


def fitting_systems(file, tiny_cross_encoder):
    """Every kind of system that stands behind a run file."""
    return {
        "words": {"kind": "bm25"},
        "theirs": {"kind": "run", "file": str(file)},
        "rrf": {"kind": "fusion", "of": ["words", "theirs"]},
        "sum": {"kind": "fusion", "of": ["theirs", "words"], "method": "combsum", "normalisation": "z-score"},
        "fitted": {"kind": "fusion", "of": ["words", "theirs"], "method": "combsum", "weights": "dev"},
        "reranked": {"kind": "rerank", "of": "theirs", "model": str(tiny_cross_encoder), "depth": 5, "sweep": [2]},
    }


def test_a_run_that_lacks_queries_is_an_empty_ranking_everywhere(suite, tiny_cross_encoder, tmp_path):
    """Fewer queries, fewer documents than the depth, and queries that are not judged or not the collection's."""
    (whole,) = run_suite(suite({"words": {"kind": "bm25"}}), tmp_path / "one")
    rows = run_lines(whole)
    asked = list(dict.fromkeys(row.split()[0] for row in rows))
    kept = [row for row in rows if row.split()[0] not in asked[:2] and int(row.split()[3]) <= 7]
    (dev,) = run_suite(suite({"words": {"kind": "bm25"}}, split="dev"), tmp_path / "dev")
    kept += run_lines(dev)
    kept += [f"elsewhere Q0 {DOCUMENT} 1 2.0 words"]
    file = tmp_path / "theirs.run"
    file.write_text("\n".join(kept) + "\n", encoding="utf-8")
    said = support.Notes()
    (result,) = run_suite(suite(fitting_systems(file, tiny_cross_encoder)), tmp_path / "out", progress=said)
    assert any("ranks 10 of 12 queries, the rest are empty rankings; left out: 1 queries" in one for one in said.notes)
    for name in ("rrf", "sum", "fitted"):
        for query in asked[:2]:  # where one ranking is empty, a fusion is the other
            assert result.report.by_query("ndcg@10", name)[query] == result.report.by_query("ndcg@10", "words")[query]
    assert all(result.report.by_query("ndcg@10", "theirs")[query] == 0 for query in asked[:2])
    assert all(result.report.by_query("ndcg@10", "reranked")[query] == 0 for query in asked[:2])


def test_weights_are_not_fitted_on_queries_that_a_run_lacks(suite, tmp_path):
    (whole,) = run_suite(suite({"words": {"kind": "bm25"}}), tmp_path / "one")
    systems = fitting_systems(whole.folder / "runs" / "words.run.gz", tmp_path)
    with pytest.raises(DataError, match="run 2 of 2 ranks nothing for the 12 queries that weights are fitted on"):
        run_suite(suite({name: systems[name] for name in ("words", "theirs", "fitted")}), tmp_path / "out")


def test_a_run_of_another_task(suite, tmp_path):
    file = tmp_path / "other.run"
    file.write_text(f"elsewhere Q0 {DOCUMENT} 1 2.0 words\n", encoding="utf-8")
    with pytest.raises(DataError, match="ranks none of .*'s queries, but others such as 'elsewhere'"):
        run_suite(suite({"theirs": {"kind": "run", "file": str(file)}}), tmp_path / "out")


def test_duplicates_as_one(suite, tiny_collection, tmp_path):
    rows = (tiny_collection / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    copies = [json.dumps({**json.loads(row), "_id": f"copy-{i}"}) for i, row in enumerate(rows)]
    (tiny_collection / "corpus.jsonl").write_text("\n".join([*rows, *copies, ""]), encoding="utf-8")
    systems = {"words": {"kind": "bm25"}}
    (apart,) = run_suite(suite(systems), tmp_path / "apart")
    (as_one,) = run_suite(suite(systems, duplicates="as one"), tmp_path / "one")
    assert means(as_one)["words"] > means(apart)["words"]


def test_no_such_split(suite, tmp_path):
    with pytest.raises(DataError, match="has no split 'tset'; did you mean 'test'"):
        run_suite(suite(split="tset"), tmp_path / "out")


def test_out_is_there_already(suite, tmp_path):
    run_suite(suite({"words": {"kind": "bm25"}}), tmp_path / "out")
    with pytest.raises(OutputExistsError):
        run_suite(suite({"words": {"kind": "bm25"}}), tmp_path / "out")
    run_suite(suite({"words": {"kind": "bm25"}}), tmp_path / "out", policy="overwrite")


def test_a_resumed_suite_measures_what_is_missing(suite, tiny_collection, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_collection, other)
    spec = suite({"words": {"kind": "bm25"}}, tasks=[str(tiny_collection), str(other)])
    first, second = run_suite(spec, tmp_path / "out")
    (second.folder / "report.json").unlink()
    before = (first.folder / "report.json").stat().st_mtime_ns
    again = run_suite(spec, tmp_path / "out", policy="resume")
    assert [it.task for it in again] == [first.task, second.task]
    assert (first.folder / "report.json").stat().st_mtime_ns == before
    assert means(again[1]) == means(second)
    with pytest.raises(ConfigError, match="started with another suite"):
        run_suite(spec.model_copy(update={"depth": 7}), tmp_path / "out", policy="resume")


def test_two_tasks_of_one_name(suite, tiny_collection, tmp_path):
    shutil.copytree(tiny_collection, tmp_path / "elsewhere" / tiny_collection.name)
    tasks = [str(tiny_collection), str(tmp_path / "elsewhere" / tiny_collection.name)]
    with pytest.raises(ConfigError, match="two of its tasks"):
        run_suite(suite({"words": {"kind": "bm25"}}, tasks=tasks), tmp_path / "out")


def test_ids_that_no_run_file_can_hold(suite, tiny_collection, tmp_path):
    for file in (tiny_collection / "corpus.jsonl", *(tiny_collection / "qrels").iterdir()):
        file.write_text(file.read_text(encoding="utf-8").replace("sea-0", "sea 0"), encoding="utf-8")
    (result,) = run_suite(suite({"words": {"kind": "bm25"}}), tmp_path / "out")
    assert result.report.n == 12
    assert (result.folder / "report.json").is_file()


def test_runs_have_every_rank_once(suite, tmp_path):
    (result,) = run_suite(suite(depth=7), tmp_path / "out")
    for file in (result.folder / "runs").iterdir():
        named = read_trec_run(file)
        assert named.run.depth == 7
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            ranks = np.array([int(line.split()[3]) for line in lines])
        assert ranks.max() == 7


def test_packaged_suites_and_changes():
    assert load_suite("pystdlib").tasks == ["pystdlib"]
    assert load_suite("pystdlib", ["split=dev"]).split == "dev"
    with pytest.raises(ConfigError, match="did you mean 'pystdlib'"):
        load_suite("pystdlb")


def test_a_second_evaluation_opens_no_torch(suite, tmp_path, monkeypatch):
    """Vectors, words and weights' hashes are all read without it; seconds of imports are the most of a small suite."""
    monkeypatch.setattr("searchtune.models.precision._bf16_pays", lambda device: False)
    monkeypatch.setattr("searchtune.models.precision.device_type", lambda: "cpu")
    (first,) = run_suite(suite(), tmp_path / "one", cache=EmbeddingCache(tmp_path / "cache" / "embeddings"))
    code = """
import json, sys
from searchtune.models import precision
precision._bf16_pays = lambda device: False
precision.device_type = lambda: "cpu"
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.suite import SuiteSpec
from searchtune.workflows.evaluate import run_suite
suite, out, cache = json.loads(sys.argv[1]), *sys.argv[2:]
(result,) = run_suite(SuiteSpec.model_validate(suite), out, cache=EmbeddingCache(cache))
heavy = sorted({"torch", "transformers", "sentence_transformers", "peft"} & set(sys.modules))
print(json.dumps({"heavy": heavy, "encoded": result.report.provenance["texts_encoded"]}))
"""
    words = [json.dumps(suite().model_dump(mode="json")), str(tmp_path / "two"), str(tmp_path / "cache" / "embeddings")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"heavy": [], "encoded": 0}
    again = read_report(tmp_path / "two" / first.task / "report.json")
    assert {name: it.metrics["ndcg@10"].mean for name, it in again.systems.items()} == means(first)
    assert len(list((tmp_path / "cache" / "bm25").iterdir())) == 1
