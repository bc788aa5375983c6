"""A judging job: nothing asked twice, nothing lost, shards that make the whole, words for what goes wrong."""

import dataclasses
import errno
import json
import os
import threading

import numpy as np
import pytest

from searchtune.data.judging import PairFields, read_pairs
from searchtune.data.judgments import read_judgments
from searchtune.errors import ConfigError, DataError, OutputBusyError, OutputExistsError, StorageError
from searchtune.metrics.grade_calibration import GradeCalibration, plain_calibration
from searchtune.models.remote import BudgetError
from searchtune.prompts.rubrics import BINARY
from searchtune.storage.journal import JournalView
from searchtune.storage.lock import sole_writer
from searchtune.workflows.judge_job import JobPlan, UnreadableError, merge_jobs, open_job, run_job
from searchtune.workflows.progress import Progress
from unit.workflows.judging import Oracle, some_pairs


@pytest.fixture
def pairs(tmp_path):
    return some_pairs(tmp_path)


def files(folder, *names):
    return {name: (folder / name).read_bytes() for name in names or ("judgments.jsonl", "qrels.txt", "pairs.jsonl")}


def test_every_pair_gets_the_grade_that_its_distribution_says(pairs, tmp_path):
    oracle = Oracle()
    job = run_job(oracle.opened(), pairs, tmp_path / "job")
    expected = np.stack([oracle.shares(*pairs.texts(i)) for i in range(len(pairs))])
    assert np.allclose(job.probabilities, expected, atol=1e-7)
    assert job.grades.tolist() == plain_calibration(4, 2).grades(expected).tolist()
    assert len(oracle.asked) == len(set(oracle.asked)) == job.facts["asked"] == job.facts["asked_now"] == 48
    assert (job.facts["tokens"], job.facts["seconds"], job.facts["cost"]) == (48 * 11, pytest.approx(0.48), None)
    assert job.facts["labels_per_second"] == 100
    judgments = read_judgments(tmp_path / "job" / "judgments.jsonl")
    assert [one.grade for one in judgments] == job.grades.tolist()
    qrels = [line.split() for line in (tmp_path / "job" / "qrels.txt").read_text().splitlines()]
    assert [int(row[3]) for row in qrels] == job.grades.tolist()
    again = open_job(tmp_path / "job")
    assert again.grades.tolist() == job.grades.tolist() and again.facts == job.facts


@pytest.mark.parametrize("key", ["judge", "prompt", "of", "calibration"])
def test_a_jobs_file_that_lacks_something_is_named(pairs, tmp_path, key):
    file = run_job(Oracle().opened(), pairs.select(np.arange(4)), tmp_path / "job").folder / "job.json"
    file.write_text(json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != key}))
    with pytest.raises(DataError, match=f"job.json: cannot be read .*{key}.*judge run"):
        open_job(tmp_path / "job")


def test_a_job_that_is_done_asks_nothing_and_writes_the_same(pairs, tmp_path):
    run_job(Oracle().opened(), pairs, tmp_path / "job", JobPlan(canaries=5))
    before = files(tmp_path / "job")
    oracle = Oracle()
    job = run_job(oracle.opened(), pairs, tmp_path / "job", JobPlan(canaries=5))
    assert (oracle.asked, job.facts["asked_now"], job.facts["asked"]) == ([], 0, 53)
    assert files(tmp_path / "job") == before


@pytest.mark.parametrize("error", [BudgetError("the budget is spent"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_what_was_read_before_a_failure_is_kept_and_not_asked_again(pairs, tmp_path, error):
    first = Oracle(fail_after=20, error=error)
    with pytest.raises(type(error)):
        run_job(first.opened(), pairs, tmp_path / "job", JobPlan(canaries=4))
    assert len(JournalView(tmp_path / "job")) == 20
    assert not (tmp_path / "job" / "job.json").exists()
    second = Oracle(fail_after=30, error=error)
    with pytest.raises(type(error)):
        run_job(second.opened(), pairs, tmp_path / "job", JobPlan(canaries=4))
    third = Oracle()
    job = run_job(third.opened(), pairs, tmp_path / "job", JobPlan(canaries=4))
    asked = first.asked + second.asked + third.asked
    assert len(asked) == len(set(asked)) == 52
    assert job.facts["seconds"] == pytest.approx(0.52), "of all sittings"
    run_job(Oracle().opened(), pairs, tmp_path / "whole", JobPlan(canaries=4))
    assert files(tmp_path / "job") == files(tmp_path / "whole")


def test_a_torn_last_line_is_healed(pairs, tmp_path):
    with pytest.raises(RuntimeError):
        run_job(Oracle(fail_after=10, error=RuntimeError()).opened(), pairs, tmp_path / "job")
    journal = tmp_path / "job" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    oracle = Oracle()
    job = run_job(oracle.opened(), pairs, tmp_path / "job")
    assert len(oracle.asked) == 48 - 9
    assert job.facts["asked"] == 48 and not job.unreadable


def test_pairs_with_equal_texts_are_asked_once(tmp_path):
    rows = [("q1", "a", "d1", "x"), ("q2", "a", "d1", "x"), ("q1", "a", "d2", "x"), ("q2", "a", "d3", "y")]
    text = "".join(
        json.dumps({"query_id": q, "query": query, "doc_id": d, "passage": p}) + "\n" for q, query, d, p in rows
    )
    (tmp_path / "twins.jsonl").write_text(text)
    pairs = read_pairs(tmp_path / "twins.jsonl", PairFields(grade=None))
    oracle = Oracle()
    job = run_job(oracle.opened(), pairs, tmp_path / "job")
    assert sorted(oracle.asked) == [("a", "x"), ("a", "y")]
    assert len(job.pairs) == 4 and not job.unreadable
    assert len(read_judgments(tmp_path / "job" / "judgments.jsonl")) == 4


@pytest.mark.parametrize(
    ("other", "words"), [(Oracle(name="another"), "judge.what"), (Oracle(rubric=BINARY), "prompt.rubric.labels")]
)
def test_another_judge_is_refused_the_folder(pairs, tmp_path, other, words):
    run_job(Oracle().opened(), pairs, tmp_path / "job")
    before = files(tmp_path / "job", "journal.jsonl", "job.json")
    with pytest.raises(ConfigError, match=words):
        run_job(other.opened(), pairs, tmp_path / "job")
    assert other.asked == []
    assert files(tmp_path / "job", "journal.jsonl", "job.json") == before


def test_other_pairs_or_another_seed_are_refused_the_folder(pairs, tmp_path):
    run_job(Oracle().opened(), pairs, tmp_path / "job")
    with pytest.raises(ConfigError, match="pairs is"):
        run_job(Oracle().opened(), pairs.select(np.arange(10)), tmp_path / "job")
    with pytest.raises(ConfigError, match=r"prompt\.nonce"):
        run_job(Oracle().opened(), pairs, tmp_path / "job", JobPlan(seed=14))


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("count", [2, 3])
def test_shards_make_the_whole_job(tmp_path, graded, count):
    pairs = some_pairs(tmp_path, graded=graded)
    run_job(Oracle().opened(), pairs, tmp_path / "whole", JobPlan(canaries=6))
    asked, parts = [], []
    for index in range(count):
        oracle = Oracle()
        parts.append(tmp_path / f"part-{index}")
        job = run_job(oracle.opened(), pairs, parts[-1], JobPlan(canaries=6, shard=(index, count)))
        assert 0 < len(job.pairs) < job.facts["of"] == 48
        asked += oracle.asked
    assert len(asked) == len(set(asked))
    merged = merge_jobs(parts[::-1], tmp_path / "merged")
    whole = open_job(tmp_path / "whole")
    assert files(tmp_path / "merged") == files(tmp_path / "whole")
    assert merged.facts["asked"] == len(asked) and merged.facts["pairs"] == 48
    if graded:
        assert len(asked) == 54
        assert merged.facts["canaries"] == whole.facts["canaries"]
        for kind, column in whole.planted.items():
            assert np.array_equal(merged.planted[kind], column, equal_nan=True)
    else:
        assert merged.planted
    again = Oracle()
    with pytest.raises(OutputExistsError):
        merge_jobs(parts, tmp_path / "merged")
    run_job(again.opened(), pairs, tmp_path / "merged", JobPlan())
    assert again.asked == [], "a merged job goes on like any other"


def test_what_is_no_whole_is_not_merged(pairs, tmp_path):
    for index in range(3):
        run_job(Oracle().opened(), pairs, tmp_path / f"p{index}", JobPlan(shard=(index, 3)))
    with pytest.raises(ConfigError, match=r"the shards 1/3, 3/3 have \d+ of the job's 48 pairs; name the others too"):
        merge_jobs([tmp_path / "p0", tmp_path / "p2"], tmp_path / "out")
    with pytest.raises(DataError, match="is in two of the sets"):
        merge_jobs([tmp_path / "p0", tmp_path / "p0", tmp_path / "p1"], tmp_path / "out")
    run_job(Oracle().opened(), pairs.select(np.arange(9)), tmp_path / "other")
    with pytest.raises(ConfigError, match="another fingerprint"):
        merge_jobs([tmp_path / "p0", tmp_path / "other"], tmp_path / "out")
    with pytest.raises(DataError, match=r"p9/job\.json: cannot be read"):
        merge_jobs([tmp_path / "p9"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_part_is_named(pairs, tmp_path):
    with pytest.raises(ConfigError, match=r"part \d+ of 5000 has no pair"):
        for index in range(3):
            run_job(Oracle().opened(), pairs.select(np.arange(2)), tmp_path / str(index), JobPlan(shard=(index, 5000)))


def test_too_many_unreadable_replies_fail_after_everything_is_written(pairs, tmp_path):
    oracle = Oracle(unreadable="passage 3")
    with pytest.raises(UnreadableError, match="6 of 48 pairs have no grade, more than 5%.*no label in the reply"):
        run_job(oracle.opened(), pairs, tmp_path / "job")
    job = open_job(tmp_path / "job")
    assert job.unreadable == {"no label in the reply 'hm'": 6}
    assert (job.grades == -1).sum() == 6
    assert len((tmp_path / "job" / "qrels.txt").read_text().splitlines()) == 42, "no grade is no label, never 0"
    reasons = [one.reason for one in read_judgments(tmp_path / "job" / "judgments.jsonl") if one.grade is None]
    assert reasons == ["no label in the reply 'hm'"] * 6
    again = Oracle()
    assert run_job(again.opened(), pairs, tmp_path / "job", JobPlan(max_unreadable=0.5)).unreadable
    assert again.asked == [], "a reply that was paid for is not asked for again"


def test_what_had_no_answer_is_asked_again(pairs, tmp_path):
    notes = []

    class Told(Progress):
        def note(self, text):
            notes.append(text)

    oracle = Oracle(unanswered="passage 3 of 1")
    job = run_job(oracle.opened(), pairs, tmp_path / "job", progress=Told())
    assert job.unreadable == {"no answer came; run the job again to ask it again": 1}
    assert notes == ["1 pairs had no answer (the last: no answer in 6 attempts); run the job again to ask them again"]
    again = Oracle()
    job = run_job(again.opened(), pairs, tmp_path / "job")
    assert again.asked == [("question 1", "passage 3 of 1")] and not job.unreadable


def test_no_grade_at_all_writes_no_qrels(pairs, tmp_path):
    with pytest.raises(UnreadableError, match="48 of 48"):
        run_job(Oracle(unreadable="passage").opened(), pairs, tmp_path / "job", JobPlan(canaries=3))
    assert not (tmp_path / "job" / "qrels.txt").exists()
    assert (open_job(tmp_path / "job").grades == -1).all()


def test_canaries_go_into_what_people_call_not_relevant(pairs, tmp_path):
    oracle = Oracle()
    job = run_job(oracle.opened(), pairs, tmp_path / "job", JobPlan(canaries=100))
    low = np.flatnonzero(pairs.grades == 0)
    tried = np.flatnonzero(~np.isnan(np.stack(list(job.planted.values()))).all(axis=0))
    assert tried.tolist() == low.tolist()
    assert len(oracle.asked) == 48 + len(low)
    again = Oracle()
    run_job(again.opened(), pairs, tmp_path / "again", JobPlan(canaries=100))
    assert again.asked == oracle.asked, "the same seed plants the same"


def test_a_price_is_summed_over_all_sittings(pairs, tmp_path):
    price = lambda into, out: (into * 3 + out * 15) / 1e6  # noqa: E731
    first = Oracle(fail_after=10, error=BudgetError("spent"))
    with pytest.raises(BudgetError):
        run_job(first.opened(price=price), pairs, tmp_path / "job")
    job = run_job(Oracle().opened(price=price), pairs, tmp_path / "job")
    assert job.facts["cost"] == pytest.approx(48 * 45 / 1e6)


def test_a_calibration_moves_the_grades_and_not_the_readings(pairs, tmp_path):
    plain = run_job(Oracle().opened(), pairs, tmp_path / "job")
    strict = GradeCalibration(1.0, (0.0, -1.0, -2.0, -3.0), 2, threshold=0.4)
    oracle = Oracle()
    moved = run_job(oracle.opened(), pairs, tmp_path / "job", JobPlan(calibration=strict))
    assert oracle.asked == []
    assert np.array_equal(moved.probabilities, plain.probabilities)
    assert moved.grades.sum() < plain.grades.sum()
    own = run_job(Oracle().opened(calibration=strict), pairs, tmp_path / "own")
    assert own.grades.tolist() == moved.grades.tolist()


@pytest.mark.parametrize("wrong", [plain_calibration(2, 1), plain_calibration(4, 1)])
def test_a_calibration_of_other_grades_is_refused_before_anything_is_asked(pairs, tmp_path, wrong):
    oracle = Oracle()
    with pytest.raises(
        ConfigError, match=r"calibration of \d grades.*for the rubric 'umbrela' of 4, relevant from 2 on"
    ):
        run_job(oracle.opened(), pairs, tmp_path / "job", JobPlan(calibration=wrong))
    assert oracle.asked == [] and not (tmp_path / "job").exists()


def test_a_full_disk_says_so_and_keeps_what_was_there(pairs, tmp_path, monkeypatch):
    oracle = Oracle()
    write = os.write

    def full(handle, data):
        if len(oracle.asked) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="journal.jsonl: the disk is full: free some space"):
        run_job(oracle.opened(), pairs, tmp_path / "job")
    monkeypatch.undo()
    assert len(JournalView(tmp_path / "job")) == 12
    again = Oracle()
    run_job(again.opened(), pairs, tmp_path / "job")
    assert len(again.asked) == 36


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "job.json").write_text("{"),
        lambda folder: (folder / "job.json").write_text("{}"),
        lambda folder: (folder / "job.json").unlink(),
        lambda folder: (folder / "pairs.jsonl").unlink(),
        lambda folder: (folder / "journal.jsonl").unlink(),
    ],
)
def test_a_broken_job_is_named(pairs, tmp_path, change):
    run_job(Oracle().opened(), pairs, tmp_path / "job")
    change(tmp_path / "job")
    with pytest.raises((DataError, ConfigError), match=r"job/(job\.json|pairs\.jsonl|journal\.jsonl)"):
        open_job(tmp_path / "job")


def test_a_question_may_be_put_in_other_words(tmp_path):
    oracle = Oracle()
    opened = oracle.opened(calibration=plain_calibration(4, 2))
    assert opened.under(None, None) is opened
    assert opened.under(opened.rubric, "short") is opened
    changed = opened.under(BINARY, None)
    assert (changed.rubric, changed.calibration) == (BINARY, None)
    with pytest.raises(ConfigError, match="is a reranker"):
        dataclasses.replace(opened, style=None).under(BINARY, None)


def test_two_processes_are_not_at_one_job(tmp_path):
    pairs, judge = some_pairs(tmp_path), Oracle().opened()
    refused = []

    def second():
        with pytest.raises(OutputBusyError, match="is being written by process"):
            run_job(judge, pairs, tmp_path / "job")
        refused.append(True)

    with sole_writer(tmp_path / "job"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused and not (tmp_path / "job").exists()
    run_job(judge, pairs, tmp_path / "job")
    assert not list(tmp_path.glob(".job*"))
