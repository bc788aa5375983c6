"""`searchtune judge`: what it prints where, what it refuses with which words and exit code, and the way around."""

import csv
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from searchtune.cli.main import app
from searchtune.evaluation.judging import build_judge_report
from searchtune.workflows import judge as judge_module
from searchtune.workflows import judge_agree, open_judge
from unit.models.test_remote import Server, first_token, reply
from unit.workflows.judging import Oracle, write_rows


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_rows(Path("pairs.jsonl"), others=True)
    return lambda *args: CliRunner().invoke(app, ["judge", *map(str, args)], prog_name="searchtune")


@pytest.fixture
def oracle(monkeypatch):
    found = Oracle()
    monkeypatch.setattr(open_judge, "open_judge", lambda *_, **__: found.opened())
    monkeypatch.setattr(judge_agree, "build_judge_report", partial(build_judge_report, rounds=100))
    return found


@pytest.fixture
def server():
    found = Server()
    found.script = lambda request, number: reply("2", **first_token(**{"2": 0.6, "1": 0.2, "0": 0.1}))
    yield found
    found.close()


def job(run, out="job", *options):
    return run("run", "some-model", "--pairs", "pairs.jsonl", "--judges-field", "judges", "--out", out, *options)


def test_a_job_says_what_it_did(run, oracle):
    done = job(run)
    assert done.exit_code == 0, done.output
    first, *rest = done.stdout.splitlines()
    assert first == "48 pairs judged by oracle (100.0 labels a second), 0 without a grade"
    assert rest == ["judgments  job/judgments.jsonl", "qrels      job/qrels.txt"]
    assert "judging canaries" in done.stderr and "judging" not in done.stdout
    facts = json.loads(job(run, "job", "--json").stdout)
    assert (facts["folder"], facts["pairs"], facts["asked_now"], facts["unreadable"]) == ("job", 48, 0, {})


def test_a_job_with_too_many_unreadable_replies_exits_1(run, oracle):
    oracle.unreadable = "passage 3"
    done = job(run)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "6 of 48 pairs have no grade" in done.stderr.replace("\n", " ")
    done = job(run, "job", "--max-unreadable", "0.5")
    assert done.exit_code == 0 and "  6  no label in the reply 'hm'" in done.stderr


def test_from_shards_to_a_report(run, oracle):
    for part in (1, 2):
        assert job(run, f"part{part}", "--shard", f"{part}/2").exit_code == 0
    done = run("merge", "part1", "part2", "--out", "whole")
    assert done.exit_code == 0 and done.stdout.startswith("48 pairs judged by oracle")
    done = run("agree", "whole", "two=whole", "--against", "two", "--other", "llm:2", "--average", "--out", "report")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[:5]] == ["judge", "whole", "two", "average", "llm"]
    assert done.stdout.splitlines()[-2:] == ["report   report/judge.html", "review   report/review.html"]
    assert set(json.loads(run("agree", "whole", "--out", "report", "--json").stdout)["judges"]) == {"whole"}
    done = run("calibrate", "whole", "--out", "c.json")
    assert done.exit_code == 0 and done.stdout.startswith("fitted on 48 pairs: relevant from a probability of ")
    assert json.loads(run("calibrate", "whole", "--out", "c.json", "--json").stdout)["pairs"] == 48
    assert job(run, "whole", "--calibration", "c.json").exit_code == 0
    assert run("merge", "part1", "part2", "--out", "whole").exit_code == 2


def test_pairs_go_to_people_and_come_back(run, oracle):
    assert job(run).exit_code == 0
    assert run("export", "job", "hand.csv").stdout == "48 pairs -> hand.csv\n"
    assert "grades" not in Path("hand.csv").read_text().splitlines()[0]
    with Path("hand.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["judge"] == "" for row in rows), "nobody sees the judge's grade unless asked for"
    for number, row in enumerate(rows):
        row["grade"] = str(number % 4) if number else ""
    with Path("back.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = run("agree", "job", "--human", "back.csv", "--out", "report", "--json")
    assert done.exit_code == 0, done.output
    assert "note: 1 pairs in back.csv have no label yet" in done.stderr
    assert sum(map(sum, json.loads(done.stdout)["judges"]["job"]["confusion"])) == 48
    assert run("calibrate", "job", "--human", "back.csv", "--out", "c.json").exit_code == 0
    again = run("export", "job", "hand.csv")
    assert again.exit_code == 2 and "hand.csv is there and may hold labels" in again.stderr
    assert "-> tasks.xml" in run("export", "job", "tasks.json", "--prefill").stdout
    assert json.loads(Path("tasks.json").read_text())[0]["predictions"]
    assert "<Choices" in Path("tasks.xml").read_text()
    assert run("export", "job", "hand.pdf").exit_code == 2
    Path("strange.csv").write_text("query_id,doc_id,grade\nq0,d0-0,7\n")
    done = run("agree", "job", "--human", "strange.csv", "--out", "report")
    assert done.exit_code == 2 and "strange.csv:2: label " in done.stderr
    Path("strange.csv").write_text("query_id,doc_id,grade\nq0,nowhere,1\n")
    done = run("agree", "job", "--human", "strange.csv", "--out", "report")
    assert done.exit_code == 2 and "strange.csv:2: " in done.stderr and "'nowhere'" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shard", "3/2"), "'3/2' is no part of a job; write 1/4 for the first of four"),
        (("--shard", "0/2"), "'0/2' is no part of a job"),
        (("--shard", "½"), "is no part of a job"),
        (("--rubric", "umbrella"), "no rubric 'umbrella'; did you mean 'umbrela'?"),
        (("--style", "long"), "'long' is not one of"),
        (("--quantise", "int8"), "'int8' is not one of"),
        (("--task", "pystdlib"), "name either a `file` of pairs or a `task`"),
        (("--holes",), "belong to a `task`"),
        (("--max-tokens", "5"), "--max-tokens: for a model behind an address; give --endpoint too"),
        (("--no-logprobs", "--prices", "1", "2"), "--no-logprobs, --prices: for a model behind an address"),
        (("--endpoint", "http://localhost:1/v1", "--base", "x"), "--base: for a model in this process"),
        (("--endpoint", "http://localhost:1/v1", "--max-cost", "1"), "--max-cost takes --prices"),
        (("--endpoint", "localhost"), "url 'localhost' is no address"),
        (("--calibration", "none.json"), "none.json"),
        (("--made-by", "nowhere"), "nowhere: no such folder"),
        (("--judges-field", "said"), "'said'"),
        (("--canaries", "-1"), "--canaries"),
    ],
)
def test_a_mistake_exits_2_before_anything_is_judged(run, monkeypatch, options, words):
    oracle = Oracle()
    monkeypatch.setattr(open_judge, "open_judge", lambda *_, **__: oracle.opened())
    done = job(run, "job", *options)
    assert (done.exit_code, done.stdout, oracle.asked) == (2, "", [])
    told = " ".join(done.stderr.replace("│", " ").split())
    assert words in told, told
    assert not Path("job").exists()


def test_what_is_not_there_is_named(run, oracle):
    for args, words in (
        (("run", "m", "--pairs", "none.jsonl", "--out", "x"), "no file of pairs 'none.jsonl'"),
        (("run", "m", "--out", "x"), "name either a `file` of pairs or a `task`"),
        (("run", "m", "--pairs", "pairs.jsonl"), "--out"),
        (("agree", "nowhere", "--out", "x"), "nowhere/job.json: cannot be read"),
        (("agree", "a/x", "b/x", "--out", "x"), "each job needs a name of its own: write NAME=FOLDER"),
        (("agree", "=x", "--out", "x"), "each job needs a name of its own"),
        (("calibrate", "nowhere", "--out", "x"), "name the folder of a finished `searchtune judge run`"),
        (("export", "nowhere", "x.csv"), "nowhere/job.json"),
        (("merge", "nowhere", "--out", "x"), "nowhere/job.json"),
        (("train", "nowhere"), "'nowhere' is neither a file nor a name under configs/"),
        (("train", "smollm2-pystdlib-smoke", "--set", "rubrik=binary"), "did you mean 'rubric'?"),
    ):
        done = run(*args)
        told = " ".join(done.stderr.replace("│", " ").split())
        assert done.exit_code == 2 and words in told, (args, told)
        assert done.stdout == "" and not Path("x").exists()


def test_a_file_in_the_way_of_a_folder_is_named(run, oracle):
    Path("taken").write_text("words")
    for args in (("--out", "taken"), ("--out", "taken/job")):
        done = run("run", "m", "--pairs", "pairs.jsonl", *args)
        assert done.exit_code == 2 and "taken" in done.stderr
    assert job(run).exit_code == 0
    done = run("agree", "job", "--out", "taken")
    assert done.exit_code == 2 and "taken" in done.stderr
    assert Path("taken").read_text() == "words"


def test_people_may_have_graded_nothing(run, oracle):
    write_rows(Path("pairs.jsonl"), graded=False, others=True)
    assert job(run, "job", "--grade-field", "").exit_code == 0
    done = run("agree", "job", "--out", "report")
    assert (
        done.exit_code == 2 and "no pair has a grade of a person; give labels to compare with (--human)" in done.stderr
    )


def test_a_judge_that_made_what_it_judges_is_refused(run, oracle, monkeypatch):
    from searchtune.specs.circularity import ModelFacts

    itself = {"reranker": [ModelFacts("mine", "base of oracle")]}
    monkeypatch.setattr(open_judge, "makers", lambda names: itself if names else {})
    done = job(run, "job", "--made-by", "mine")
    assert done.exit_code == 2 and "the judge 'oracle' is also the reranker 'mine'" in done.stderr
    assert oracle.asked == []
    done = job(run, "job", "--made-by", "mine", "--allow-circular")
    assert done.exit_code == 0 and "note: the judge 'oracle' is also" in done.stderr
    done = run("agree", "job", "--made-by", "mine", "--out", "report")
    assert done.exit_code == 2 and "figures from it are no evidence" in done.stderr


def test_a_remote_judge_stops_at_its_budget_and_goes_on(run, server):
    pytest.importorskip("httpx")
    options = ("--endpoint", server.url, "--canaries", "0")
    done = job(run, "far", *options, "--max-tokens", "240")
    assert done.exit_code == 2 and "the budget of 240 tokens is spent" in done.stderr
    asked = len(server.requests)
    assert 20 <= asked < 48
    done = job(run, "far", *options, "--prices", "1000", "0", "--json")
    facts = json.loads(done.stdout)
    assert len(server.requests) == 48 == facts["asked"], "what was paid for is not asked again"
    assert facts["cost"] == pytest.approx((48 - asked) * 10 / 1000), "of the sitting whose prices were known"
    assert facts["identity"]["what"] == "remote" and server.url not in json.dumps(facts["identity"])
    assert {line.split()[3] for line in Path("far/qrels.txt").read_text().splitlines()} == {"2"}


def test_a_remote_judge_without_log_probabilities_is_read_by_its_words(run, server):
    pytest.importorskip("httpx")
    server.script = lambda request, number: reply("Grade: 3" if number % 12 else "I would rather not say")
    done = job(run, "far", "--endpoint", server.url, "--no-logprobs", "--max-unreadable", "0.2", "--canaries", "0")
    assert done.exit_code == 0, done.output
    assert "4 without a grade" in done.stdout and "no grade in the reply: I would rather not say" in done.stderr
    assert all(line.endswith(" 3") for line in Path("far/qrels.txt").read_text().splitlines())
    assert "logprobs" not in server.requests[0]


def test_training_is_handed_on(run, monkeypatch):
    asked = {}

    def train(recipe, out, **options):
        asked.update(recipe=recipe, out=out, **options)
        return SimpleNamespace(folder=out, adapter=out / "adapter", report=None, summary=lambda: {"folder": str(out)})

    monkeypatch.setattr(judge_module, "train_judge", train)
    done = run("train", "smollm2-pystdlib-smoke", "--leaks", "drop", "--set", "seed=5", "--resume")
    assert done.stdout == "adapter  runs/judge-smollm2-pystdlib-smoke/adapter\n"
    assert (asked["recipe"].seed, asked["policy"], asked["leaks"]) == (5, "resume", "drop")
    assert json.loads(run("train", "smollm2-pystdlib-smoke", "--out", "x", "--json").stdout) == {"folder": "x"}
    monkeypatch.setattr(judge_module, "train_judge", lambda *_, **__: None)
    assert run("train", "smollm2-pystdlib-smoke").stdout == ""
