"""Reading a label, such as a judge's grade, from what was written. What cannot be read without a guess is no label.

Read are: the label alone (`2`, `**Yes.**`, `three`); the label with a reason behind it (`2: it says ...`) or on a last
line of its own; `Grade: 2`, `##final score: 2`, `relevance is 2/3`, `<grade>2</grade>`, a box of TeX; JSON with such a
key. Reasoning is left out (see `reply_text.spoken`). A reply that names two labels, a number that is none, or no label
at all is unreadable, with the reason, and never grade 0.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from searchtune.prompts.reply_text import spoken
from searchtune.prompts.rubrics import Rubric

MIN_LABEL_SHARE = 0.5
"""A label is read off a model's probabilities where all labels together hold at least this share of them as the next
token: from there on a label is what the model would rather say than anything else. Less is what other replies, such as
`**2**` or a thought, leave over, and says little once it is scaled up to 1."""
_LONGEST = 50_000
"""Characters: a longer reply was asked for a grade and gave a book."""
_MOST_OBJECTS = 20
_SHOWN = 60
_KEYS = {"grade", "score", "rating", "relevance", "label", "answer", "verdict", "judgment", "judgement", "o"}
"""Last words of keys that hold a grade: `final score` does. `O` is the overall score of UMBRELA's forerunner."""
_WORD = r"(?:grade|score|rating|relevance|label|answer|verdict|judge?ment)"
_VALUE = r"[-+]?\d+(?:[.,]\d+)?|[^\W\d_]+"
_DRESS = r"[\s*_~`$\"'(\[#]*"
"""What may stand before a value: quotes, stars of Markdown, brackets, signs of TeX."""
_MARKED = re.compile(
    rf"(?P<final>\b(?:final|overall)[\s_]+)?\b{_WORD}(?:\s*\([^)\n]{{0,40}}\))?[\s*_`\"')]*(?:\b(?:is|of)\b|[:=|]|->|=>|\u2192)"
    rf"{_DRESS}(?P<value>{_VALUE})(?=(?P<rest>[^\n]{{0,24}}))",
    re.IGNORECASE,
)
_FIRST = re.compile(
    rf"(?:[-*\u2022]\s+)?{_DRESS}(?:{_WORD}\s+)?(?P<value>{_VALUE})(?=(?P<rest>[^\n]{{0,24}}))", re.IGNORECASE
)
_CLOSED = re.compile(r"[*_~`$\"')\]]*\s*(?:[.,;:!|})(<]|[-\u2013\u2014]+\s|because\b|since\b|$)", re.IGNORECASE)
"""What follows a value that is meant as one: the end, a mark, or a reason."""
_RANGE = re.compile(r"[*_~`$\"')\]]*\s*(?:%|\.\.|(?:[-\u2013,.&~]|or\b|to\b|and\b)\s*[-+]?\d)", re.IGNORECASE)
_NEXT = re.compile(r"\W*(?:(?:or|and|to)\b\W*)?(\w+)", re.IGNORECASE)
_OUT_OF = re.compile(r"[*_~`$\"')\]]*\s*(?:/|out\s+of\b|of\b)\s*(\d+)", re.IGNORECASE)
_TAG = re.compile(
    rf"<(?P<tag>(?P<final>final[_-]?)?(?:\w{{1,20}}[_-])?{_WORD})>(?P<value>[^<]{{0,80}})</(?P=tag)>", re.IGNORECASE
)
_BOXED = re.compile(r"\\boxed\s*\{(?:\s*\\(?:text|mathrm|mathbf)\s*\{)?(?P<value>[^{}]{0,80})\}")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class ReadLabel(NamedTuple):
    """A label, or why there is none: one of the two is None."""

    label: str | None
    reason: str | None
    other: bool = False
    """Whether there is none because the reply says something else: several, a number that is none, one unclear."""


class ReadGrade(NamedTuple):
    """A grade, or why there is none: one of the two is None."""

    grade: int | None
    reason: str | None


def parse_grade(text: str, rubric: Rubric) -> ReadGrade:
    """The grade that a reply gives, by the module's rules.

    >>> from searchtune.prompts.rubrics import UMBRELA
    >>> parse_grade("##final score: 2", UMBRELA).grade
    2
    >>> parse_grade("2 or 3", UMBRELA).reason
    'no single grade in the reply: 2 or 3'
    """
    label, reason, _ = parse_label(text, rubric.labels)
    return ReadGrade(None if label is None else rubric.labels.index(label), reason)


def parse_label(text: str, labels: Sequence[str]) -> ReadLabel:
    """The label that a reply gives; grades from 0 up may be in words (`three`) and out of the highest (`3/3`)."""
    if len(text) > _LONGEST:
        return ReadLabel(None, f"a reply of {len(text):,} characters instead of a grade")
    said, reason = spoken(text)
    plain = unicodedata.normalize("NFKC", said or "").strip()
    if not plain:
        return ReadLabel(None, reason or "empty reply")
    scale = _Scale(labels)
    objects, rest = _cut_objects(plain)
    found = [*_in_json(objects, scale), *_marked(rest, scale)]
    finals = [one for one in found if one.final]
    found = finals or [*found, *_alone(plain, scale, whole=bool(found))]
    values = {scale.written(one.value) for one in found}
    if not values:
        return ReadLabel(None, f"no grade in the reply: {_short(plain)}")
    value = values.pop()
    if values or value is None:
        return ReadLabel(None, f"no single grade in the reply: {_short(plain)}", other=True)
    if value not in scale.labels:
        known = ", ".join(labels)
        return ReadLabel(None, f"grade {value!r} is not one of {known}: {_short(plain)}", other=True)
    return ReadLabel(scale.labels[value], None)


class _Scale:
    """The labels as replies may write them: in any case, and digits from 0 up also as words."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = {label.casefold(): label for label in labels}
        self.top = str(len(labels) - 1)
        digits = list(self.labels) == [str(i) for i in range(len(labels))]
        self._words = dict(zip(_NUMBERS, map(str, range(len(labels))), strict=False)) if digits else {}

    def written(self, value: str | None) -> str | None:
        """A value with number words as digits."""
        return value if value is None else self._words.get(value, value)

    def __contains__(self, value: str) -> bool:
        return self.written(value) in self.labels


class _Candidate(NamedTuple):
    """A value that stands where a label may; None for one of unclear meaning."""

    value: str | None
    final: bool = False


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}..."


def _cut_objects(text: str) -> tuple[list[Any], str]:
    """The JSON objects in a text, each as pairs of key and value so that no repeated key is lost, and all else."""
    decoder = json.JSONDecoder(object_pairs_hook=tuple)
    objects, rest, place = [], "", 0
    for _ in range(_MOST_OBJECTS):
        start = text.find("{", place)
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
            objects.append(value)
        except (ValueError, RecursionError):
            rest += text[place : start + 1]
            place = start + 1
            continue
        rest += text[place:start]
        place = end
    return objects, rest + text[place:]


def _in_json(objects: list[Any], scale: _Scale) -> list[_Candidate]:
    """The values of keys that hold a grade."""
    found = []
    for words, value in (pair for one in objects for pair in _pairs(one)):
        said = _inner(value, scale).value if isinstance(value, str) else None
        found.append(_Candidate(said or _plain_value(value), words[0] in ("final", "overall")))
    return found


def _pairs(value: Any) -> Iterator[tuple[list[str], Any]]:
    """Words of the key, and value, of every entry at any depth whose key holds a grade."""
    if isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)
    elif isinstance(value, tuple):
        for key, inner in value:
            words = re.findall(r"[a-z]+", key.casefold())
            if words and words[-1] in _KEYS and not isinstance(inner, tuple | list):
                yield words, inner
            else:
                yield from _pairs(inner)


def _plain_value(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(str(value).strip().casefold()) if isinstance(value, int | float | str) else None


def _marked(text: str, scale: _Scale) -> list[_Candidate]:
    """The values behind words such as `grade:`, in tags of such names, and in boxes."""
    found = []
    for mark in _MARKED.finditer(text):
        if value := _value(mark, scale):
            found.append(_Candidate(value[0], bool(mark["final"])))
    for mark in _TAG.finditer(text):
        inner = _inner(mark["value"], scale)
        found.append(inner._replace(final=bool(mark["final"]) or mark["tag"].casefold() == "answer"))
    return [*found, *(_inner(mark["value"], scale)._replace(final=True) for mark in _BOXED.finditer(text))]


def _inner(text: str, scale: _Scale) -> _Candidate:
    """What stands in a tag or a box: a value alone, or something unclear."""
    alone = _FIRST.match(text.strip())
    value = _value(alone, scale) if alone else None
    return _Candidate(None if value is None else value[0])


def _alone(text: str, scale: _Scale, *, whole: bool) -> list[_Candidate]:
    """The label that begins the reply, and the one that is its last line; only those that are a line if `whole`."""
    lines = [line for line in text.splitlines() if line.strip()]
    found: list[_Candidate] = []
    for place in (0, -1) if len(lines) > 1 else (0,):
        line = lines[place]
        match = _FIRST.fullmatch(line.rstrip(" *_`\"')].!")) if whole or place else _FIRST.match(line)
        if match and (value := _value(match, scale)):
            found.append(_Candidate(value[0]))
    return found


def _value(match: re.Match[str], scale: _Scale) -> tuple[str | None] | None:
    """The value of a match, (None,) where it is a number of unclear meaning; None where it is just a word."""
    rest = match["rest"]
    value = _number(match["value"].casefold())
    if value not in scale and not value[-1].isdigit():
        return None
    if over := _OUT_OF.match(rest):
        return (value if over[1] == scale.top and value in scale else f"{value}/{over[1]}",)
    following = _NEXT.match(rest)
    after = None if following is None else following[1].casefold()
    other = after is not None and after in scale and scale.written(after) != scale.written(value)
    if other or (value[-1].isdigit() and _RANGE.match(rest)):
        return (None,)
    if _CLOSED.match(rest):
        return (value,)
    return (None,) if value[-1].isdigit() and match.re is _MARKED else None


def _number(value: str) -> str:
    """A number without its empty decimals."""
    return re.sub(r"(?<=\d)[.,]0+$", "", value)
