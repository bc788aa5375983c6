"""Jobs against people: several judges, their average, others' labels, runs, people's files; calibration."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from searchtune.data.human_labels import read_human_labels, write_for_labelling
from searchtune.data.judging import PairFields, read_pairs
from searchtune.errors import ArtifactError, ConfigError, DataError
from searchtune.evaluation.judge_report import read_judge_report
from searchtune.evaluation.judge_table import judge_table
from searchtune.evaluation.judging import build_judge_report
from searchtune.prompts.rubrics import BINARY, UMBRELA
from searchtune.specs.circularity import ModelFacts
from searchtune.types import Judgment
from searchtune.workflows import judge_agree
from searchtune.workflows.judge_agree import AgreementPlan, agree, check_circular
from searchtune.workflows.judge_calibrate import calibrate, read_calibration
from searchtune.workflows.judge_job import JobPlan, run_job
from unit.workflows.judging import Oracle, write_rows


class Good(Oracle):
    """Agrees with people, whose grade is in the passage's and query's numbers, most of the time."""

    def shares(self, query, passage):
        words = passage.split()
        plain = len(words) == 4 and words[0] == "passage" and words[2] == "of"
        grade = (int(words[1]) + int(query.split()[1])) % 4 if plain else 3
        raw = super().shares(query, passage)
        raw[min(grade, len(raw) - 1)] += 0.6
        return raw / raw.sum()


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_agree, "build_judge_report", partial(build_judge_report, rounds=200))
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", queries=12, others=True)
    return read_pairs(file, PairFields(others="judges"))


@pytest.fixture(scope="module")
def jobs(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    judges = {"good": Good(name="good"), "random": Oracle(name="random")}
    return {name: run_job(one.opened(), pairs, folder / name, JobPlan(canaries=20)) for name, one in judges.items()}


def write_run(path, tag, order):
    lines = []
    for query in range(12):
        for rank, doc in enumerate(order(query)):
            lines.append(f"q{query} Q0 d{query}-{doc} {rank + 1} {10 - rank} {tag}\n")
    path.write_text("".join(lines))
    return path


def systems(folder, tags=("best", "middle", "worst")):
    """Three runs of falling quality by people's grades, which are (doc + query) % 4."""
    orders = (
        lambda query: sorted(range(8), key=lambda doc: -((doc + query) % 4)),
        lambda query: list(range(8)),
        lambda query: sorted(range(8), key=lambda doc: (doc + query) % 4),
    )
    return [write_run(folder / f"{name}.run", tag, order) for name, tag, order in zip("abc", tags, orders, strict=True)]


def test_all_judges_are_measured_on_the_same_pairs(jobs, tmp_path):
    plan = AgreementPlan("good", "random", others={"llm": 2}, average=True, runs=systems(tmp_path))
    report = agree(jobs, tmp_path / "report", plan)
    assert list(report.judges) == ["good", "random", "average", "llm"]
    kappas = {name: judge.figure("kappa").mean for name, judge in report.judges.items()}
    assert kappas["good"] > 0.5 > kappas["random"]
    assert [one.a for one in report.comparisons] == ["random", "average", "llm"]
    tau = report.judges["good"].ranking
    assert (tau.metric, list(tau.systems)) == ("ndcg@10", ["best", "middle", "worst"])
    assert tau.tau.mean == 1.0
    assert tau.systems["best"].human.mean > tau.systems["middle"].human.mean > tau.systems["worst"].human.mean
    assert report.judges["good"].canaries and not report.judges["llm"].canaries
    again = read_judge_report(tmp_path / "report" / "judge.json")
    assert again.judges["good"].figure("kappa") == report.judges["good"].figure("kappa")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"judge.json", "judge.html", "review.html"}
    table = judge_table(report)
    assert len(table) == 5 and table[0].split()[0] == "judge" and "fooled" in table[0]
    assert len({line.index("  ") for line in table[:1]}) == 1 and table[4].endswith("-")


def test_a_file_of_people_replaces_what_came_with_the_job(jobs, pairs, tmp_path):
    write_for_labelling(tmp_path / "out.jsonl", pairs, UMBRELA.labels)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, grade in zip(rows, jobs["good"].grades.tolist(), strict=True):
        row["grade"] = str(grade)
    rows[0]["grade"] = None
    (tmp_path / "back.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = read_human_labels(tmp_path / "back.jsonl", UMBRELA.labels)
    assert labels.unlabelled == 1
    report = agree({"good": jobs["good"]}, tmp_path / "report", AgreementPlan("good", human=labels.judgments))
    assert report.judges["good"].figure("kappa_graded").mean > 0.97
    assert report.pairs == len(pairs), "a pair without a label keeps the grade that it had"


def test_a_judge_of_two_grades_is_compared_with_peoples_four(pairs, tmp_path):
    job = run_job(Oracle(BINARY, name="two").opened(style=None), pairs, tmp_path / "two")
    for human_from in (2, None):
        plan = AgreementPlan("two", human_from=human_from)
        figures = agree({"two": job}, tmp_path / "report", plan).judges["two"]
        assert not figures.graded and "kappa_graded" not in figures.figures
        assert figures.min_grade == 1
    with pytest.raises(ConfigError, match=r"people's grades go up to 3 and the judge has two.*--human-from"):
        calibrate(job, tmp_path / "c.json")
    assert calibrate(job, tmp_path / "c.json", human_from=2).pairs == len(pairs)
    assert read_calibration(tmp_path / "c.json").min_grade == 1


def test_only_the_same_pairs_are_compared(jobs, pairs, tmp_path):
    other = run_job(Oracle().opened(), pairs.select(np.arange(10)), tmp_path / "few")
    with pytest.raises(DataError, match="judged different pairs"):
        agree({"good": jobs["good"], "few": other}, tmp_path / "report", AgreementPlan("good"))
    ungraded = replace(pairs, grades=np.full(len(pairs), -1))
    job = run_job(Oracle().opened(), ungraded, tmp_path / "none")
    with pytest.raises(DataError, match="no pair has a grade of a person; give labels to compare with"):
        agree({"none": job}, tmp_path / "report", AgreementPlan("none"))
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"headline": "god"}, "did you mean 'good'"),
        ({"reference": "rando"}, "did you mean 'random'"),
        ({"reference": "good"}, "compared with itself"),
        ({"others": {"lm": 1}}, "did you mean 'llm'"),
        ({"others": {"good": 1}}, "two judges are called 'good'"),
        ({"human": [Judgment("q0", "nowhere", 1)]}, "of other pairs"),
    ],
)
def test_a_plan_that_makes_no_sense_is_named(jobs, tmp_path, changes, words):
    with pytest.raises((ConfigError, DataError), match=words):
        agree(jobs, tmp_path / "report", AgreementPlan(**{"headline": "good", **changes}))
    assert not (tmp_path / "report").exists()


def test_runs_of_one_tag_go_by_their_files(jobs, tmp_path):
    runs = systems(tmp_path, tags=("x", "x", "x"))
    report = agree({"good": jobs["good"]}, tmp_path / "report", AgreementPlan("good", runs=runs))
    assert list(report.judges["good"].ranking.systems) == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="two have the same name"):
        agree({"good": jobs["good"]}, tmp_path / "report", AgreementPlan("good", runs=[runs[0], runs[0]]))
    with pytest.raises(DataError, match=r"nowhere\.run: cannot be read"):
        agree({"good": jobs["good"]}, tmp_path / "report", AgreementPlan("good", runs=[tmp_path / "nowhere.run"]))


def test_unreadable_replies_are_counted_by_reason(pairs, tmp_path):
    job = run_job(Oracle(unreadable="passage 3").opened(), pairs, tmp_path / "job", JobPlan(max_unreadable=1))
    report = agree({"job": job}, tmp_path / "report", AgreementPlan("job", average=True))
    assert report.judges["job"].unreadable == {"no label in the reply 'hm'": 12}
    assert report.judges["average"].unreadable == {"not read by all": 12}


def test_the_average_lies_between(jobs, tmp_path):
    alone = agree({"good": jobs["good"]}, tmp_path / "alone", AgreementPlan("good", average=True, others={"llm": 2}))
    good = alone.judges["good"].figure("kappa").mean
    assert alone.judges["average"].figure("kappa").mean == pytest.approx(good), "the mean of one is that one"


def test_a_judge_of_itself_is_refused(jobs):
    itself, cousin = ModelFacts("ranker", "base of good"), ModelFacts("cousin", "base of good", "another")
    with pytest.raises(ConfigError, match="the judge 'good' is also the reranker 'ranker'"):
        check_circular(jobs["good"], {"reranker": [itself]})
    assert "agree with itself" in check_circular(jobs["good"], {"reranker": [itself]}, allow=True)[0]
    assert "share a base" in check_circular(jobs["good"], {"reranker": [cousin]})[0]
    assert check_circular(jobs["random"], {"reranker": [itself]}) == ()


def test_calibration_is_fitted_written_and_used(jobs, pairs, tmp_path):
    done = calibrate(jobs["random"], tmp_path / "new" / "calibration.json")
    assert (done.pairs, done.error_after < done.error_before) == (len(pairs), True)
    fitted = read_calibration(tmp_path / "new" / "calibration.json")
    assert fitted == done.calibration
    job = run_job(Oracle(name="random").opened(), pairs, jobs["random"].folder, JobPlan(20, calibration=fitted))
    assert job.calibration == fitted and job.facts["asked_now"] == 0


@pytest.mark.parametrize(
    "text", ["{}", "scale: x", "[1, 2]", '{"scale": 1, "shifts": [0, 0], "min_grade": 5, "threshold": 1}']
)
def test_what_is_no_calibration_is_named(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises((ArtifactError, ConfigError), match=r"calibration|c\.json"):
        read_calibration(tmp_path / "c.json")
    with pytest.raises(ConfigError, match=r"none\.json"):
        read_calibration(tmp_path / "none.json")


def test_there_must_be_something_to_calibrate_on(pairs, tmp_path):
    same = replace(pairs, grades=np.zeros(len(pairs), dtype=np.int64))
    job = run_job(Oracle().opened(), same, tmp_path / "job")
    with pytest.raises(DataError, match="all 96 pairs are not relevant"):
        calibrate(job, tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()
