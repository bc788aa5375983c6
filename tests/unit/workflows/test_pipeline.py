"""Whole pipelines: opened from a file with every language model on one base, run, served, attributed."""

import http.client
import json
import threading

import pytest
from typer.testing import CliRunner

from searchtune.cli.main import app
from searchtune.errors import ArtifactError, ConfigError, DataError, StorageError
from searchtune.specs.base import parse_spec
from searchtune.specs.pipeline import PipelineSpec
from searchtune.storage.fingerprint import sha256_json
from searchtune.types import Turn
from searchtune.workflows.encode import open_encoder
from searchtune.workflows.open_pipeline import load_pipeline, open_pipeline
from searchtune.workflows.pipeline_run import read_turns, run_pipeline, spent, switched
from searchtune.workflows.pipeline_serve import MOST_BYTES, make_server
from searchtune.workflows.progress import SILENT
from searchtune.workflows.retriever_identity import dense_identity, fused_identity, words_identity
from unit.workflows.pipelines import write_adapter, write_base, write_pipeline
from unit.workflows.rewriting import Notes, held_rule
from unit.workflows.test_attribute import pipeline


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    home = tmp_path_factory.mktemp("pipeline")
    base = write_base(home / "base")
    roles = {
        kind: write_adapter(home / kind, base, kind, seed) for seed, kind in enumerate(("rewrite", "answer", "judge"))
    }
    return {"base": base, **roles}


@pytest.fixture
def config(adapters, tiny_collection, tmp_path):
    return write_pipeline(tmp_path / "tiny.yaml", tiny_collection, adapters)


def test_one_base_serves_every_role(config, adapters):
    from searchtune.workflows.open_answerer import open_answerer
    from searchtune.workflows.open_rewriter import open_rewriter

    opened = open_pipeline(load_pipeline(str(config)))
    assert len(opened.models.banks) == 1
    (bank,) = opened.models.banks.values()
    assert set(bank.cards) == {"rewrite", "answer", "judge"}
    turns = [Turn("tide reef", (("user", "sail and anchor"),)), Turn("soil seed")]
    found = opened.chain.ask(turns)
    assert [one.query for one in found] == open_rewriter(str(adapters["rewrite"]), precision="fp32").rewrite(turns)
    plain = opened.chain.ask(turns, stages={"rewrite": False})
    passages = [[opened.chain.documents[hit.document] for hit in one.hits[:2]] for one in plain]
    said = [turn.utterance for turn in turns]
    alone = open_answerer(str(adapters["answer"]), precision="fp32", max_new_tokens=8)
    assert [one.answer.text for one in plain] == [one.text for one in alone.answer(said, passages)]
    base = opened.chain.ask(turns, stages={"rewrite": False, "answer": False})
    untuned = open_answerer(str(adapters["base"]), precision="fp32", max_new_tokens=8)
    assert [one.answer.text for one in base] == [one.text for one in untuned.answer(said, passages)]
    assert [len(one.grades) for one in plain] == [min(2, len(one.hits)) for one in plain] and plain[0].grades
    costs = spent(opened)
    assert costs["rewrite"]["tokens"] > 0 and costs["answer"]["tokens"] > 0 and costs["judge"]["tokens"] > 0
    assert costs["retrieve"]["tokens"] == 0


def test_a_rewriter_abstains_as_its_card_says(config, adapters, tmp_path):
    turns = [Turn("tide reef", (("user", "sail and anchor"),)), Turn("soil seed")]

    def opened(held, *overrides, progress=SILENT):
        folder = tmp_path / sha256_json(held)
        if not folder.exists():
            write_adapter(folder, adapters["base"], "rewrite", 0, abstention=held)
        changes = [f"rewrite.adapter={folder}", "answer=null", "judge=null", *overrides]
        return open_pipeline(load_pipeline(str(config), overrides=changes), progress=progress)

    never, notes = held_rule("never", mode="append"), Notes()
    found = opened(never, progress=notes)
    assert found.chain.mode == "append" and found.chain.abstention.on.use == found.chain.abstention.off.use == "never"
    assert not found.models.banks, "a model that is never asked is not loaded"
    plain = found.chain.ask(turns, stages={"rewrite": False})
    asked = found.chain.ask(turns)
    assert [(one.query, one.hits) for one in asked] == [(one.query, one.hits) for one in plain]
    assert spent(found).keys() == {"retrieve"} and notes.said == ["rewrite: as dev says: never"]
    every = opened(never, "rewrite.abstain=false", "rewrite.mode=append")
    assert (
        len(every.models.banks) == 1
        and every.chain.abstention is None
        and any(one.rewrite.used for one in every.chain.ask(turns))
    )
    assert every.identity != found.identity
    sure = opened(held_rule(above=-1.0), "rewrite.abstain=true")
    whole = opened(held_rule(above=-1.0), "rewrite.abstain=false")
    assert sure.chain.ask(turns) == whole.chain.ask(turns)
    with pytest.raises(ConfigError, match="rewrite: abstain is true, and .* has no rule"):
        opened(None, "rewrite.abstain=true")
    with pytest.raises(ConfigError, match="rewrite: .* for another retriever"):
        opened(held_rule(retriever={"what": "dense"}), "rewrite.abstain=true")
    with pytest.raises(ConfigError, match="for the mode append, not fuse"):
        opened(never, "rewrite.abstain=true", "rewrite.mode=fuse")
    other = opened(held_rule(retriever={"what": "dense"}), progress=notes)
    assert other.chain.abstention.on.use == "never" and "no rewrite is used" in notes.said[-1]


@pytest.mark.processor
def test_a_rule_for_one_setting_of_the_retriever(config, adapters, tiny_model, tmp_path):
    encoder = open_encoder(str(tiny_model), precision="bf16")
    held = held_rule("never", retriever=fused_identity([dense_identity(encoder), words_identity()]))
    folder = write_adapter(tmp_path / "held", adapters["base"], "rewrite", 0, abstention=held)
    changes = [f"rewrite.adapter={folder}", "answer=null", "judge=null", f"retrieve.base={tiny_model}"]
    found = open_pipeline(load_pipeline(str(config), overrides=changes))
    assert found.chain.abstention.on.use == "never", "words and vectors, in another order and precision"
    assert found.identity["retrieve"]["on"]["what"] == "rrf"


def test_an_adapter_in_the_wrong_place(config, adapters):
    for stage, wrong in (("rewrite", "answer"), ("answer", "judge"), ("judge", "rewrite")):
        with pytest.raises(ArtifactError, match=f"kind '{wrong}' in the place of the stage '{stage}'"):
            open_pipeline(load_pipeline(str(config), overrides=[f"{stage}.adapter={adapters[wrong]}"]))


def test_the_command_runs_queries_and_switches_stages_off(config, tmp_path):
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"id": "x", "query": "tide", "history": [{"role": "user", "text": "reef"}]}\nsoil seed\n')
    done = CliRunner().invoke(app, ["pipeline", "run", str(config), str(queries), "--off", "rewrite", "--no-cache"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["x", "2"]
    assert rows[0]["query"] == "tide" and rows[0]["stages"]["rewrite"] is False
    assert 1 <= len(rows[0]["hits"]) <= 3 and "text" in rows[0]["answer"]
    for args, message in (
        (["--off", "rewriter"], "did you mean 'rewrite'"),
        (["--off", "answer", "--on", "answer"], "on and off"),
        (["--off", "rerank"], "no stage 'rerank' in this pipeline"),
    ):
        done = CliRunner().invoke(app, ["pipeline", "run", str(config), "-q", "tide", *args])
        assert done.exit_code == 2 and message in done.output


def test_the_command_attributes(config, tmp_path):
    args = ["eval", "attribute", str(config), "--max-queries", "4", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    assert "citation hit" in done.stdout and (tmp_path / "out" / "attribution.html").is_file()
    assert CliRunner().invoke(app, args).exit_code == 2  # it is there
    again = CliRunner().invoke(app, [*args, "--resume", "--json"])
    assert again.exit_code == 0 and set(json.loads(again.stdout)["stages"]) == {"rewrite", "answer"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrieve": {}}, "neither adapter nor base, nor words"),
        ({"rewrite": {}}, "rewrite names neither adapter nor base"),
        ({"rerank": {}}, "rerank names neither adapter nor base"),
        ({"rerank": {"base": "x", "depth": 11}}, "rerank looks at 11 documents, and retrieve hands on 10"),
        ({"answer": {"passages": 11}}, "answer looks at 11"),
        ({"top": 11}, "top 11 is beyond"),
        ({"anwser": {}}, "did you mean 'answer'"),
    ],
)
def test_stages_that_do_not_fit_together(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_spec(PipelineSpec, {"task": "t", "retrieve": {"words": True, "depth": 10}, **changes}, "test")


def test_what_has_something_to_earn():
    whole = {
        "task": "t",
        "retrieve": {"adapter": "e"},
        "rewrite": {"base": "b"},
        "answer": {},
        "judge": {"adapter": "j"},
    }
    spec = parse_spec(PipelineSpec, whole, "test")
    assert spec.present == ("rewrite", "retrieve", "answer", "judge")
    assert spec.tuned == ("rewrite", "retrieve")
    assert parse_spec(PipelineSpec, {"task": "t", "retrieve": {"words": True}}, "test").tuned == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no query in it"),
        ('{"query": "a"', "queries.jsonl:1: cannot be read as JSON"),
        ('ok\n{"query": " "}', "queries.jsonl:2: query is ' '"),
        ('{"query": "a", "histroy": []}', "did you mean 'history'"),
        ('{"query": "a", "history": "b"}', "give a list of objects"),
        ('{"query": "a", "history": [{"role": "bot", "text": "b"}]}', "give `role`"),
    ],
)
def test_files_of_turns_that_are_none(tmp_path, text, message):
    file = tmp_path / "queries.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_turns(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_turns(tmp_path / "none")


def test_a_run_gives_each_turn_its_line(tiny_collection, tmp_path):
    file = tmp_path / "queries.txt"
    file.write_text("\n".join(["tide reef", "", *["soil"] * 20]))
    opened = pipeline(tiny_collection)
    rows = list(run_pipeline(opened, read_turns(file), top=2))
    assert [row["id"] for row in rows[:2]] == ["1", "3"] and len(rows) == 21
    assert all(len(row["hits"]) <= 2 for row in rows)
    assert switched(["rewrite"], ["answer"]) == {"rewrite": False, "answer": True}


@pytest.fixture
def server(tiny_collection):
    found = make_server(pipeline(tiny_collection), port=0)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def ask(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    sent = {"Content-Type": "application/json"} | (headers or {})
    connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body), sent)
    reply = connection.getresponse()
    found = json.loads(reply.read())
    connection.close()
    return reply.status, found


def test_the_server_answers_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    status, found = ask(server, "GET", "/health")
    assert status == 200 and found["status"] == "ok" and found["stages"]["rewrite"] is True
    history = [{"role": "user", "text": "before"}]
    status, found = ask(server, "POST", "/search", {"query": "tide", "history": history, "top": 2})
    assert status == 200 and found["query"] == "sea tide" and len(found["hits"]) == 2
    status, found = ask(server, "POST", "/search", {"query": "tide", "history": history, "stages": {"rewrite": False}})
    assert status == 200 and found["query"] == "tide"
    assert ask(server, "GET", "/health")[1]["costs"]["retrieve"]["queries"] == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "message"),
    [
        ("GET", "/", None, {}, 404, "nothing at /"),
        ("GET", "/search", None, {}, 405, "/search takes POST"),
        ("POST", "/health", {}, {}, 405, "/health takes GET"),
        ("POST", "/other", {}, {}, 404, "nothing at /other"),
        ("POST", "/search", b"{", {}, 400, "no JSON"),
        ("POST", "/search", b"\xff", {}, 400, "no JSON"),
        ("POST", "/search", b"[" * 50_000, {}, 400, "no JSON"),
        ("POST", "/search", [1], {}, 400, "no JSON object"),
        ("POST", "/search", {}, {}, 400, "query is None"),
        ("POST", "/search", {"query": "a", "q": 1}, {}, 400, "unknown key 'q'"),
        ("POST", "/search", {"query": "a", "stages": ["rewrite"]}, {}, 400, "stages is"),
        ("POST", "/search", {"query": "a", "stages": {"rewriter": True}}, {}, 400, "no stage 'rewriter'"),
        ("POST", "/search", {"query": "a", "stages": {"rewrite": "no"}}, {}, 400, "say true or false"),
        ("POST", "/search", {"query": "a", "top": 99}, {}, 400, "top 99"),
        ("POST", "/search", {"query": "a", "top": True}, {}, 400, "top is True"),
        ("POST", "/search", {"query": "a"}, {"Content-Type": "text/plain"}, 415, "application/json"),
        ("POST", "/search", {"query": "a"}, {"Host": "evil.example"}, 403, "localhost alone"),
        ("POST", "/search", b" " * (MOST_BYTES + 1), {}, 413, "bytes"),
        ("POST", "/search", b'{"query": "\\ud800"}', {}, 400, "half a surrogate pair"),
        ("POST", "/search", b'{"\\udc00": 1, "query": "a"}', {}, 400, "half a surrogate pair"),
        ("POST", "/search", b'{"query": "a", "top": ' + b"9" * 5000 + b"}", {}, 400, "no JSON"),
        ("POST", "/search", b'{"query": "a", "top": NaN}', {}, 400, "no JSON"),
        ("POST", "/search", b"{}", {"Content-Length": "\xb2"}, 411, "plain digits"),
        ("POST", "/search", b"{}", {"Content-Length": "+2"}, 411, "plain digits"),
        ("POST", "/search", b"{}", {"Content-Length": "9" * 5000}, 413, "at most"),
    ],
)
def test_what_the_server_refuses(server, method, path, body, headers, status, message):
    found, told = ask(server, method, path, body, headers)
    assert (found, message in told["error"]) == (status, True), told
    assert ask(server, "GET", "/health")[0] == 200


def test_a_taken_port(server, tiny_collection):
    with pytest.raises(StorageError, match="choose another --port"):
        make_server(pipeline(tiny_collection), port=server.server_address[1])
