"""Reading a grade from what a judge wrote. What cannot be read without a guess is no grade, and never grade 0.

Read are: the label alone (`2`, `**Yes.**`); the label with a reason behind it (`2: it says ...`) or on a last line of
its own; `Grade: 2`, `##final score: 2`, `relevance is 2/3`; JSON with such a key. A reply that names two grades, a
number that is no grade, or none, is unreadable, with the reason. A part in `<think>` tags is left out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from searchtune.prompts.rubrics import Rubric

_LONGEST = 50_000
"""Characters: a longer reply was asked for a grade and gave a book."""
_MOST_OBJECTS = 20
_SHOWN = 60
_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_KEYS = {"grade", "score", "rating", "relevance", "label", "answer", "verdict", "judgment", "judgement", "o"}
"""Last words of keys that hold a grade: `final score` does. `O` is the overall score of UMBRELA's forerunner."""
_WORD = r"(?:grade|score|rating|relevance|label|answer|verdict|judge?ment)"
_VALUE = r"[-+]?\d+(?:[.,]\d+)?|[^\W\d_]+"
_DRESS = r"[\s*_`\"'(\[#]*"
"""What may stand before a value: quotes, stars of Markdown, brackets."""
_MARKED = re.compile(
    rf"(?P<final>\b(?:final|overall)[\s_]+)?\b{_WORD}(?:\s*\([^)\n]{{0,40}}\))?[\s*_`\"')]*(?:\b(?:is|of)\b|[:=]|->)"
    rf"{_DRESS}(?P<value>{_VALUE})(?=(?P<rest>[^\n]{{0,24}}))",
    re.IGNORECASE,
)
_FIRST = re.compile(
    rf"(?:[-*\u2022]\s+)?{_DRESS}(?:{_WORD}\s+)?(?P<value>{_VALUE})(?=(?P<rest>[^\n]{{0,24}}))", re.IGNORECASE
)
_CLOSED = re.compile(r"[*_`\"')\]]*\s*(?:[.,;:!|})]|[-\u2013\u2014]+\s|because\b|since\b|$)", re.IGNORECASE)
"""What follows a value that is meant as one: the end, a mark, or a reason."""
_RANGE = re.compile(r"[*_`\"')\]]*\s*(?:%|\.\.|(?:[-\u2013,.&~]|or\b|to\b|and\b)\s*[-+]?\d)", re.IGNORECASE)
_NEXT = re.compile(r"\W*(?:(?:or|and|to)\b\W*)?(\w+)", re.IGNORECASE)
_OUT_OF = re.compile(r"[*_`\"')\]]*\s*(?:/|out\s+of\b|of\b)\s*(\d+)", re.IGNORECASE)


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
    plain = _THOUGHT.sub(" ", unicodedata.normalize("NFKC", text[: _LONGEST + 1])).strip()
    if unread := _unread(text, plain):
        return ReadGrade(None, unread)
    objects, rest = _cut_objects(plain)
    found = [*_in_json(objects), *_marked(rest, rubric)] or _alone(plain, rubric)
    if not found:
        return ReadGrade(None, f"no grade in the reply: {_short(plain)}")
    if len(set(found)) > 1 or found[0] is None:
        return ReadGrade(None, f"no single grade in the reply: {_short(plain)}")
    grade = _grades(rubric).get(found[0])
    if grade is None:
        return ReadGrade(None, f"grade {found[0]!r} is not one of {', '.join(rubric.labels)}: {_short(plain)}")
    return ReadGrade(grade, None)


def _unread(text: str, plain: str) -> str | None:
    """Why a reply needs no reading, or None."""
    if len(text) > _LONGEST:
        return f"a reply of {len(text):,} characters instead of a grade"
    if re.search(r"</?think", plain, re.IGNORECASE):
        return "the reply ends within its reasoning"
    return None if plain else "empty reply"


def _grades(rubric: Rubric) -> dict[str, int]:
    return {label.casefold(): grade for grade, label in enumerate(rubric.labels)}


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
            end = start + 1
            rest += text[start:end]
        rest += text[place:start]
        place = end
    return objects, rest + text[place:]


def _in_json(objects: list[Any]) -> list[str | None]:
    """The values of keys that hold a grade; of keys that name a final one alone, where there are any."""
    named = [pair for value in objects for pair in _pairs(value)]
    final = [value for words, value in named if words[0] in ("final", "overall")]
    return [_plain_value(value) for value in final or [value for _, value in named]]


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


def _marked(text: str, rubric: Rubric) -> list[str | None]:
    """The values behind words such as `grade:`; of final ones alone, where there are any. None for an unclear one."""
    marks = list(_MARKED.finditer(text))
    read = [(bool(mark["final"]), _value(mark, rubric)) for mark in marks]
    known = [(final, value[0]) for final, value in read if value]
    final_ones = [value for final, value in known if final]
    return final_ones or [value for _, value in known]


def _alone(text: str, rubric: Rubric) -> list[str | None]:
    """The label that begins the reply, and the one that is its last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    found: list[str | None] = []
    if (first := _FIRST.match(lines[0])) and (value := _value(first, rubric)):
        found.append(value[0])
    last = _FIRST.fullmatch(lines[-1].rstrip(" *_`\"')].!"))
    if last and len(lines) > 1 and (value := _value(last, rubric)):
        found.append(value[0])
    return found


def _value(match: re.Match[str], rubric: Rubric) -> tuple[str | None] | None:
    """The value of a match, (None,) where it is a number of unclear meaning; None where it is just a word."""
    grades, rest = _grades(rubric), match["rest"]
    value = _number(match["value"].casefold())
    if value not in grades and not value[-1].isdigit():
        return None
    if over := _OUT_OF.match(rest):
        return (value if over[1] == str(rubric.top) and value in grades else f"{value}/{over[1]}",)
    following = _NEXT.match(rest)
    other = following is not None and following[1].casefold() in grades and following[1].casefold() != value
    if other or (value[-1].isdigit() and _RANGE.match(rest)):
        return (None,)
    if _CLOSED.match(rest):
        return (value,)
    return (None,) if value[-1].isdigit() and match.re is _MARKED else None


def _number(value: str) -> str:
    """A number without its empty decimals."""
    return re.sub(r"(?<=\d)[.,]0+$", "", value)
