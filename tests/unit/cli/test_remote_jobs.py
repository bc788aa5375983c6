"""Rows that get no result: hostile, cut, filtered and empty replies from afar, and what is too long for a model here."""

import json
import math
import re
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from searchtune.cli.main import app
from searchtune.evaluation.judging import build_judge_report
from searchtune.storage.journal import Journal, JournalView
from searchtune.workflows import judge_agree
from searchtune.workflows.judge_session import pair_key
from unit.models.causal import write_byte_causal
from unit.models.test_remote import KEY, Server, first_token, reply
from unit.workflows.answering import write_asked
from unit.workflows.judging import write_rows

pytest.importorskip("httpx")
STEERING = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202eright\x00"
FILTERED = (400, {}, b'{"error": {"message": "The prompt triggered the content filter", "code": "content_filter"}}')


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OUR_KEY", KEY)
    write_rows(Path("pairs.jsonl"), queries=5, docs=4)
    write_asked(Path("asked.jsonl"), 4)
    Path("turns.jsonl").write_text(
        "".join(json.dumps({"query_id": q, "utterance": f"tide {q}"}) + "\n" for q in "abcd")
    )
    found = Server()
    yield found
    found.close()


def invoked(server, command, *options):
    source = {"judge": "--pairs=pairs.jsonl", "rewrite": "--turns=turns.jsonl", "answer": "--questions=asked.jsonl"}
    args = [command, "run", "m", "--endpoint", server.url, "--key-variable", "OUR_KEY", source[command], *options]
    args += ["--out", "out.jsonl" if command == "rewrite" else f"out-{command}"]
    return CliRunner().invoke(app, args + ["--canaries", "0"] * (command == "judge"), prog_name="searchtune")


@pytest.fixture
def run(server):
    return partial(invoked, server)


@contextmanager
def one_job(folder):
    """A server and a working directory for a job whose rows are looked at one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("OUR_KEY", KEY)
        found = Server()
        try:
            yield found
        finally:
            found.close()


def by_place():
    """The judgments of one query by the number of their document."""
    return {int(row["doc_id"].partition("-")[2]): row for row in rows()}


def number_of(request):
    """Which row a request is about, by the first number in its last message that our rows hold."""
    text = request["messages"][-1]["content"]
    return int(re.search(r"(?:passage|tide) (\d+)", text)[1])


def told(done):
    return " ".join(done.stderr.split())


def rows(name="out-judge/judgments.jsonl"):
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def thinking(answer="**3**"):
    """A first token that leaves next to nothing to the labels."""
    return reply(answer, **first_token(**{"**": 0.97, "The": 0.02, "0": 0.002, "1": 0.001}))


TEXTS = [
    ("**3**", 3), ("Grade: 3", 3), ('{"grade": 3}', 3), ("3/3", 3), ("\\boxed{3}", 3), ("Three.", 3), ("\uff13", 3),
    ("<think>0? or 1</think>\n3", 3), ("<thinking>0</thinking>**Grade:** 3", 3), ("so, 0 or 1 </think> 3", 3),
    ("<|channel|>analysis<|message|>0?<|end|><|start|>assistant<|channel|>final<|message|>3<|return|>", 3),
    ("<answer>3</answer>", 3), ("2 or 3", None), ("Grade: 2\nGrade: 3", None), ("3\n\nGrade: 2", None),
    ("<think>3", None), ("I cannot say", None), ("", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A judgment and what the journal kept for each of `TEXTS`, and what the job told."""
    with one_job(tmp_path_factory.mktemp("texts")) as server:
        write_rows(Path("pairs.jsonl"), queries=1, docs=len(TEXTS))
        server.script = lambda request, number: thinking(TEXTS[number_of(request)][0])
        done = invoked(server, "judge", "--max-unreadable", "1")
        assert done.exit_code == 0, done.output
        view = JournalView(Path("out-judge"))
        kept = [view.get(pair_key("question 0", f"passage {place} of 0")) for place in range(len(TEXTS))]
        return by_place(), kept, done, json.loads(Path("out-judge/job.json").read_text())


@pytest.mark.parametrize("place, grade", [(place, grade) for place, (_, grade) in enumerate(TEXTS)])
def test_what_the_labels_hold_too_little_of_is_read_from_words_or_not_at_all(graded, place, grade):
    judged, kept, _, _ = graded
    assert judged[place]["grade"] == grade
    assert kept[place]["source"] == ("text" if grade else None)
    assert grade is not None or judged[place]["reason"]


def test_how_many_grades_are_read_from_words_is_told(graded):
    _, _, done, facts = graded
    read = sum(grade is not None for _, grade in TEXTS)
    assert f"{len(TEXTS) - read} without a grade" in done.stdout and f"grades read: {read} from text" in done.stderr
    assert facts["read_from"] == {"text": read}


def test_what_the_labels_hold_most_of_is_read_from_probabilities(run, server):
    server.script = lambda request, number: reply(
        "２", **first_token(**{"２": 0.5, "\u01202": 0.1, "3": 0.2, "Grade": 0.2})
    )
    assert run("judge").exit_code == 0
    assert rows()[0]["probabilities"] == pytest.approx([0, 0, 0.75, 0.25])
    value = next(iter(JournalView(Path("out-judge")).items()))[1]
    assert (value["source"], value["outside"]) == ("probabilities", pytest.approx(0.2))


NO_GRADES = [
    (reply("2 or 3", **first_token(**{"2": 0.9})), "no single grade in the reply: 2 or 3"),
    (reply("22", **first_token(**{"2": 0.9})), "grade '22' is not one of"),
    (reply("3", **first_token(**{"2": 0.9})), "begins with '2' and says '3'"),
    (reply("2", logprobs={"content": [{"token": "2", "top_logprobs": [{"token": "2", "logprob": 0.7}]}]}),
     "the log-probability of '2' is 0.7, which is no probability"),
    (reply("2", logprobs={"content": [{"token": "2", "top_logprobs": [{"token": "2", "logprob": math.nan}]}]}),
     "is nan, which is no probability"),
    (reply("2", logprobs={"content": [{"top_logprobs": [{"token": t, "logprob": -0.1} for t in "23"]}]}), "sum to 1.81"),
    (reply("The passage says", finish="length"), "the reply was cut off"),
    (reply("2", finish="content_filter", **first_token(**{"2": 0.9})), "refused: content filter"),
    (reply(None, finish="tool_calls"), "the reply is a call of a tool"),
    (reply("", **first_token(**{"2": 0.9})), "empty reply"),
    ({"model": "m", "choices": [{"message": {"content": None, "reasoning_content": "2"}, "finish_reason": "stop"}]},
     "the reply is nothing but reasoning"),
]  # fmt: skip


@pytest.fixture(scope="module")
def ungraded(tmp_path_factory):
    """The judgments of a job that gets each of `NO_GRADES`, started twice."""
    with one_job(tmp_path_factory.mktemp("no-grades")) as server:
        write_rows(Path("pairs.jsonl"), queries=1, docs=len(NO_GRADES))
        server.script = lambda request, number: NO_GRADES[number_of(request)][0]
        done = invoked(server, "judge")
        count = len(NO_GRADES)
        assert done.exit_code == 1 and f"{count} of {count} pairs have no grade" in told(done), done.output
        assert not Path("out-judge/qrels.txt").exists()
        asked = len(server.requests)
        invoked(server, "judge")
        assert len(server.requests) == asked, "a reply that was paid for is not asked for again"
        return by_place()


@pytest.mark.parametrize("place, words", [(place, words) for place, (_, words) in enumerate(NO_GRADES)])
def test_no_grade_with_its_reason(ungraded, place, words):
    assert ungraded[place]["grade"] is None and words in ungraded[place]["reason"]


def test_a_thought_in_a_field_of_its_own_is_no_grade(run, server):
    answer = reply("3", **first_token(**{"1": 0.9}))
    answer["choices"][0]["message"]["reasoning"] = "1 or 2, hm"
    server.script = lambda request, number: answer
    assert run("judge").exit_code == 0
    assert {row["grade"] for row in rows()} == {3}


def test_the_key_and_what_steers_a_terminal_are_written_nowhere(run, server):
    server.script = lambda request, number: reply(f"You sent {KEY} {STEERING} \ud800", model=f"m {KEY}")
    for command in ("judge", "rewrite", "answer"):
        done = run(command)
        assert done.exit_code == (1 if command == "judge" else 0), done.output
        assert KEY not in done.output and not set("\x1b\x9b\u202e\x00\x07\ud800") & set(done.output)
    written = [path for path in Path().rglob("*") if path.is_file()]
    assert len(written) > 7
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert KEY not in text and not set("\x1b\x9b\u202e\x00\x07\ud800") & set(text), path
        assert "\\u001b" not in text and "\\ud800" not in text, path
    assert "You sent *** redright" in Path("out.jsonl").read_text()


@pytest.mark.parametrize("status", [401, 500, 302])
def test_the_key_is_in_no_error(run, server, status):
    body = json.dumps({"error": {"message": f"{' ' * 280}key {KEY} {STEERING}"}}).encode()
    server.script = lambda request, number: (
        status,
        {"Location": f"http://me:{KEY}@h/?k={KEY}", "Retry-After": "0"},
        body,
    )
    done = run("judge")
    assert done.exit_code == 2 and "***" in done.stderr
    assert KEY not in done.output and KEY[:9] not in done.output and not set("\x1b\x9b\u202e") & set(done.stderr)


def spoil(path, **changes):
    """Write other values into the first row of a journal, as an earlier version might have."""
    view = JournalView(path)
    found = dict(view.items())
    header = view.header
    view.path.unlink()
    with Journal(path, header) as journal:
        for place, (key, value) in enumerate(found.items()):
            journal.append(key, value if place else {**value, **changes})


def test_journals_with_halves_of_surrogate_pairs_are_read(run, server, monkeypatch):
    monkeypatch.setattr(judge_agree, "build_judge_report", partial(build_judge_report, rounds=100))
    server.script = lambda request, number: reply("2", **first_token(**{"2": 0.9}))
    for command in ("judge", "rewrite", "answer"):
        assert run(command).exit_code == 0
    spoil(Path("out-judge"), p=None, reason="no grade in the reply: \ud800")
    spoil(Path("out.jsonl.journal.jsonl"), query="tide \ud800")
    spoil(Path("out-answer"), text="It is \ud800 [1].")
    for command in ("judge", "rewrite", "answer"):
        done = run(command)
        assert done.exit_code == 0, done.output
    agreed = CliRunner().invoke(app, ["judge", "agree", "out-judge", "--out", "report"], prog_name="searchtune")
    assert agreed.exit_code == 0, agreed.output
    assert "\ufffd" in Path("report/judge.html").read_text(encoding="utf-8")
    assert "It is \ufffd [1]." in {row["answer"] for row in rows("out-answer/answers.jsonl")}


def test_one_pair_that_is_turned_down_has_its_reason_and_the_others_are_judged(run, server):
    def script(request, number):
        if "passage 3 of 2" in request["messages"][-1]["content"]:
            return FILTERED
        return reply("2", **first_token(**{"2": 0.9}))

    server.script = script
    done = run("judge")
    assert done.exit_code == 0 and "1 without a grade" in done.stdout, done.output
    assert "1 pairs were turned down and have no grade: 1 x (" in told(done) and "content filter" in told(done)
    (bad,) = [row for row in rows() if row["grade"] is None]
    assert (bad["query_id"], bad["doc_id"]) == ("q2", "d2-3") and "status 400" in bad["reason"]
    asked = len(server.requests)
    assert asked == 20
    assert run("judge").exit_code == 0 and len(server.requests) == asked, "not asked again"
    assert run("judge", "--max-unreadable", "0.01").exit_code == 1


def test_a_query_that_is_turned_down_twelve_times_in_a_row_ends_nothing(run, server):
    write_rows(Path("pairs.jsonl"), queries=3, docs=12)

    def script(request, number):
        return FILTERED if "question 0" in str(request) else reply("2", **first_token(**{"2": 0.9}))

    server.script = script
    done = run("judge", "--max-unreadable", "0.5")
    assert done.exit_code == 0 and "12 without a grade" in done.stdout, done.output


@pytest.mark.parametrize("command, answer", [
    ("judge", FILTERED), ("judge", (422, {}, b"unknown field")), ("judge", (401, {}, b"no")),
    ("rewrite", FILTERED), ("answer", FILTERED), ("answer", (404, {}, b"no model")),
])  # fmt: skip
def test_where_all_are_turned_down_nothing_is_kept_and_little_is_asked(run, server, answer, command):
    write_rows(Path("pairs.jsonl"), queries=10, docs=10)
    server.script = lambda request, number: answer
    done = run(command)
    assert done.exit_code == 2 and f"status {answer[0]}" in told(done), done.output
    assert len(server.requests) <= 20
    assert (
        len(list(JournalView(Path("out.jsonl.journal.jsonl" if command == "rewrite" else f"out-{command}")).items()))
        == 0
    )
    server.script = lambda request, number: reply("2", **first_token(**{"2": 0.9}))
    assert run(command).exit_code == 0, "and the next start asks all of them"


def test_a_server_that_changes_its_mind_spoils_no_row(run, server):
    server.script = lambda request, number: reply("2", **first_token(**{"2": 0.9})) if number < 10 else FILTERED
    done = run("judge")
    assert done.exit_code == 2 and "and a harmless one too" in told(done)
    kept = [value for _, value in JournalView(Path("out-judge")).items()]
    assert sum(value["p"] is not None for value in kept) == 10
    assert len(kept) < 10 + 8, "no more than were under way at that moment"


NO_REPLIES = [
    (reply("so it is [2] because", finish="length"), "cut off"),
    (reply(""), "empty reply"),
    (reply("<think>see [2]"), "ends within its reasoning"),
    (reply("<think>see [2]</think>"), "nothing but reasoning"),
    (reply("x", finish="content_filter"), "content filter"),
    ({"model": "m", "choices": [{"message": {"content": "", "reasoning_content": "see [2]"}}]}, "nothing but reasoning"),
]  # fmt: skip


@pytest.fixture(scope="module")
def unsaid(tmp_path_factory):
    """What a rewriter and an answerer made of each of `NO_REPLIES` and of two good ones, each started twice."""
    with one_job(tmp_path_factory.mktemp("no-replies")) as server:
        good = reply("<think>[2]</think>The tide [1].")
        server.script = lambda request, number: [*(answer for answer, _ in NO_REPLIES), good, good][number_of(request)]
        count, bad = len(NO_REPLIES) + 2, len(NO_REPLIES)
        names = [f"q{place}" for place in range(count)]
        turns = [{"query_id": name, "utterance": f"tide {place}"} for place, name in enumerate(names)]
        asked = [
            {
                "id": name,
                "question": f"tide {place}?",
                "passages": [{"id": "p", "text": "so"}, {"id": "x", "text": "other"}],
            }
            for place, name in enumerate(names)
        ]
        for file, made in (("turns.jsonl", turns), ("asked.jsonl", asked)):
            Path(file).write_text("".join(json.dumps(row) + "\n" for row in made))
        rewritten, answered = invoked(server, "rewrite"), invoked(server, "answer")
        assert rewritten.exit_code == answered.exit_code == 0, rewritten.output + answered.output
        assert f"{bad} of {count} turns have no rewrite and stay as they are: " in told(rewritten)
        assert "- rewriting" in rewritten.stderr
        assert f"0 abstained, 0 cut off, {bad} without an answer" in answered.stdout
        first = len(server.requests)
        assert f"{bad} without an answer" in invoked(server, "answer").stdout
        assert f"{bad} of {count} turns" in told(invoked(server, "rewrite"))
        assert len(server.requests) == first == 2 * count, "what would come again is not asked again"
        return rows("out.jsonl"), rows("out-answer/answers.jsonl"), answered


@pytest.mark.parametrize("place, words", [(place, words) for place, (_, words) in enumerate(NO_REPLIES)])
def test_no_reply_is_neither_rewrite_nor_answer(unsaid, place, words):
    rewrites, answers, told_of = unsaid
    assert rewrites[place]["rewrite"] == f"tide {place}"
    assert answers[place]["answer"] is None and "abstained" not in answers[place]
    assert words in answers[place]["reason"] and words in told_of.stderr
    assert rewrites[-1]["rewrite"] == answers[-1]["answer"] == "The tide [1]."


def test_a_folder_where_rewrites_go_is_told_before_anything_is_asked(run, server):
    Path("out.jsonl").mkdir()
    done = run("rewrite")
    assert done.exit_code == 2 and "out.jsonl is a folder" in told(done) and not server.requests


def test_room_for_replies_is_an_option(run, server):
    server.script = lambda request, number: reply("2", **first_token(**{"2": 0.9}))
    for command in ("judge", "rewrite", "answer"):
        assert run(command, "--max-new-tokens", "777").exit_code == 0
        assert server.requests[-1]["max_tokens"] == 777


@pytest.mark.parametrize("id_", ["q 1", "q\u00a01"])
def test_ids_that_no_labels_file_can_hold_are_told_before_anything_is_asked(run, server, id_):
    row = {"query_id": id_, "query": "x", "doc_id": "d", "passage": "y", "human": 1}
    Path("pairs.jsonl").write_text(json.dumps(row) + "\n")
    done = run("judge")
    assert done.exit_code == 2 and "holds white space" in told(done)
    assert not server.requests and not Path("out-judge").exists()


def test_one_query_that_is_too_long_for_a_model_here_has_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = write_byte_causal(tmp_path / "model", max_position_embeddings=8192)
    rows_ = [
        {"query_id": f"q{i}", "query": "tide " * (3000 if i == 1 else 1), "doc_id": "d", "passage": "sea"}
        for i in range(3)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_))
    args = ["judge", "run", str(base), "--pairs=pairs.jsonl", "--grade-field=", "--canaries=0", "--out=out-judge"]
    done = CliRunner().invoke(app, args, prog_name="searchtune")
    assert done.exit_code == 1 and "1 of 3 pairs have no grade" in told(done) and "too long: 1" in told(done), (
        done.output
    )
    assert [row["grade"] is None for row in rows()] == [False, True, False]
    assert "1 of 1 grades are read from labels that hold less than 50% of the model's probability" in told(done)
    again = CliRunner().invoke(app, [*args, "--max-unreadable=0.4"], prog_name="searchtune")
    assert again.exit_code == 0 and "1 without a grade" in again.stdout
