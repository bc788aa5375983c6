"""Replies are read as meant, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchtune.prompts.replies import parse_grade
from searchtune.prompts.rubrics import BINARY, UMBRELA, Rubric

READ = {
    "2": 2,
    "0": 0,
    " 2.\n": 2,
    "**2**": 2,
    '"2"': 2,
    "２": 2,
    "- 2": 2,
    "2\n2": 2,
    "Grade: 2": 2,
    "Grade 2": 2,
    "Grade: 2.0": 2,
    "Grade -> 2": 2,
    "Final grade: 0": 0,
    "Score: **3**.": 3,
    "##final score: 2": 2,
    "M: 2\nT: 1\n##final score: 1": 1,
    "Topic score: 3\n##final score: 1": 1,
    "Grade (0, 1, 2 or 3): 1": 1,
    "relevance is 2/3": 2,
    "Relevance score: 2 out of 3": 2,
    "Grade: 2, because 3 dogs are seen": 2,
    "The answer is in the passage. Grade: 2": 2,
    "2 - it holds some answer": 2,
    "2: it holds some answer": 2,
    "I think so.\n\n2": 2,
    "Grade: 3\nReason: the exact answer": 3,
    "<think>3? or 2</think>\n1": 1,
    '{"grade": 2}': 2,
    '{"grade": "2", "confidence": 0.9}': 2,
    '{"grade": 2': 2,
    '{"M":2,"T":1,"O":1}': 1,
    '{"result":[{"grade":1}]}': 1,
    '```json\n{"final_score": "3", "topic_score": 1}\n```': 3,
}
UNREAD = {
    "": "empty reply",
    " \n": "empty reply",
    "2 or 3": "no single grade in the reply: 2 or 3",
    "2-3": "no single grade",
    "2,3": "grade '2,3' is not one of",
    "2 to 3": "no single grade",
    "2\n3": "no single grade",
    "0 1 2 3": "grade",
    "Grade: 1\nGrade: 2": "no single grade",
    '{"grade":1,"grade":2}': "no single grade",
    'Grade: 3\n{"grade": 2}': "no single grade",
    '{"grade": null}': "no single grade",
    "the answer is 3 dogs": "no single grade",
    "3 dogs are mentioned": "no grade in the reply: 3 dogs are mentioned",
    "I cannot say": "no grade",
    "Grade: high": "no grade",
    "Grades 0-3: pick": "no grade",
    "NaN": "no grade",
    "5": "grade '5' is not one of 0, 1, 2, 3",
    "-1": "grade '-1' is not one of",
    "22": "grade '22' is not one of",
    "1/2": "grade '1/2' is not one of",
    "Grade: 2.5": "grade '2.5' is not one of",
    "Grade: 7/10": "grade '7/10' is not one of",
    '{"grade": true}': "grade 'yes' is not one of",
    '{"grade": 2.5}': "grade '2.5'",
    '{"grade": 99999999999999999999999}': "grade '9999",
    "2%": "no single grade",
    "٢": "",
    "<think>2": "ends within its reasoning",
    "2" * 60_000: "a reply of 60,000 characters",
    "{" * 9_000: "no grade",
}


@pytest.mark.parametrize("text", READ)
def test_read(text):
    assert parse_grade(text, UMBRELA) == (READ[text], None)


@pytest.mark.parametrize("text", UNREAD, ids=lambda text: text[:30])
def test_unreadable_with_a_reason(text):
    grade, reason = parse_grade(text, UMBRELA)
    assert grade is None
    assert UNREAD[text] in reason
    assert len(reason) < 200


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("yes", 1),
        ("No.", 0),
        ("YES", 1),
        ("No, the passage is about dogs", 0),
        ("Answer: yes", 1),
        ("Verdict: **No**", 0),
        ("Grade (no or yes): yes", 1),
        ('{"relevance": false}', 0),
        ("Yes and no", None),
        ("yes or no", None),
        ("Yes, no, maybe", None),
        ("no idea", None),
        ("nope", None),
        ("not yes", None),
        ("the answer is no longer known", None),
        ("1", None),
    ],
)
def test_words_as_labels(text, grade):
    assert parse_grade(text, BINARY).grade == grade


@given(st.text(max_size=60) | st.text("0123456789.,-/: {}\"'gradeGyesno\n", max_size=40))
def test_any_text_gives_a_grade_or_a_reason(text):
    for rubric in (UMBRELA, BINARY):
        grade, reason = parse_grade(text, rubric)
        assert (grade is None) != (reason is None)
        assert grade is None or rubric.labels[grade] in text.casefold() or "false" in text or not text.isascii()


@given(
    st.integers(0, 3), st.sampled_from(["{}", "Grade: {}", "##final score: {}", '{{"grade": {}}}', "{}: so", "ok\n{}"])
)
def test_every_grade_is_read_in_every_form(grade, form):
    assert parse_grade(form.format(grade), UMBRELA).grade == grade
    assert parse_grade(form.format(grade + 4), UMBRELA).grade is None


def test_labels_of_an_own_rubric():
    rubric = Rubric("parts", 1, ("a", "b", "c"), ("x", "y", "z"))
    assert [parse_grade(text, rubric).grade for text in ("B", "Label: c", "a or b", "d")] == [1, 2, None, None]
