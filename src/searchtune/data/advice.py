"""What makes a collection that can be read misleading all the same: rules not applied, copies, splits that share.

None of it keeps anybody from measuring, so all findings are warnings or notes; training asks about leaks by itself.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from searchtune.data.duplicates import find_duplicates
from searchtune.data.leakage import find_leaks
from searchtune.data.near import NEAR_THRESHOLD, near_groups, shingles
from searchtune.data.problems import Problem, Severity
from searchtune.types import Collection
from searchtune.words import has_search_word

FEW_QUERIES = 10
"""Below so many judged queries a split can choose nothing and show little."""
_WORDLESS = 0.01
"""Share of texts without a word from which a search by words is in doubt."""
_ORDER = ("train", "dev", "test")


def advise(collection: Collection) -> list[Problem]:
    """Everything of this kind, for `data check`: what `rules` gives, small splits, copies, and leaks between splits."""
    return [*rules(collection), *_small_splits(collection), *_copies(collection), *_leaks(collection)]


def rules(collection: Collection) -> list[Problem]:
    """What any measurement or training on the collection should know: self-matches, and texts without a word."""
    return [*_self_matches(collection), *_wordless(collection)]


def _self_matches(c: Collection) -> list[Problem]:
    """Documents that bear a query's id: with its text they are what BEIR leaves out of rankings (ArguAna, Quora)."""
    known = c.doc_index
    pairs = [(query, known[name]) for query, name in enumerate(c.query_ids) if name in known]
    if not pairs:
        return []
    relevant = {
        (int(query), int(doc))
        for labels in c.qrels.values()
        for query, doc, grade in zip(labels.label_queries, labels.docs, labels.grades, strict=True)
        if grade >= c.min_grade
    }
    alike = {pair for pair in pairs if pair not in relevant and _same_text(c, *pair)}
    same = [pair for pair in pairs if pair in alike]
    if same and not c.drop_self:
        example = c.query_ids[same[0][0]]
        message = (
            f"{len(same):,} of {len(c.query_ids):,} queries, such as {example!r}, are documents too, with the same id "
            "and text: each finds itself first, and figures are not those of BEIR, which leaves it out"
        )
        return [
            _finding("self-match", example, message, "set `drop_self: true` in the task's YAML (source: the folder)")
        ]
    others = [pair for pair in pairs if pair not in alike]
    if others and c.drop_self:
        example = c.query_ids[others[0][0]]
        message = (
            f"drop_self leaves out documents of other texts, or relevant ones, that merely bear a query's id: "
            f"{len(others):,}, such as {example!r}"
        )
        return [
            _finding("self-match", example, message, "set `drop_self: false` in the task's YAML, or rename the ids")
        ]
    return []


def _same_text(c: Collection, query: int, doc: int) -> bool:
    """Whether a document's text, with or without its title, is the query's; of other lengths it is not looked at, since
    where ids are mere numbers (MS MARCO) every query has a namesake.
    """
    text = c.query_texts[query]
    near = [own for own in (c.texts[doc], c.documents[doc]) if len(text) <= 2 * len(own) and len(own) <= 2 * len(text)]
    asked = shingles(text) if near else frozenset()
    return any(len(asked & own) >= NEAR_THRESHOLD * max(1, len(asked | own)) for own in map(shingles, near))


def _wordless(c: Collection) -> list[Problem]:
    """Texts in which BM25 finds no word at all."""
    found = []
    for file, what, ids, texts in (
        ("corpus.jsonl", "documents", c.doc_ids, c.documents),
        ("queries.jsonl", "queries", c.query_ids, c.query_texts),
    ):
        empty = [i for i, text in enumerate(texts) if not has_search_word(text) and text.strip()]
        if len(empty) > _WORDLESS * len(texts):
            example = ids[empty[0]]
            message = (
                f"{len(empty):,} of {len(texts):,} {what}, such as {example!r} {texts[empty[0]][:40]!r}, hold no word "
                "of two letters: BM25, overlaps and the search for copies cannot see them"
            )
            remedy = "check the encoding; where the texts are meant, search by vectors"
            found.append(_finding("no-words", example, message, remedy, file=file))
    return found


def _small_splits(c: Collection) -> list[Problem]:
    remedies = {"train": "label more pairs, or measure only", "dev": "move queries of train here, or delete the file"}
    return [
        _finding(
            "few-queries",
            str(len(labels)),
            f"split {split!r} has {len(labels)} judged {'query' if len(labels) == 1 else 'queries'}: "
            f"fewer than {FEW_QUERIES} choose nothing and show little",
            remedies.get(split, "label more queries"),
            file="qrels",
            severity="note",
        )
        for split, labels in sorted(c.qrels.items())
        if len(labels) < FEW_QUERIES
    ]


def _copies(c: Collection) -> list[Problem]:
    """Documents that repeat others, and queries of one split that do."""
    found = []
    report = find_duplicates(c)
    if report.groups:
        head, first = report.describe()[:2]
        remedy = "keep one of each, or score with copies folded (find_duplicates, fold_run)"
        example = c.doc_ids[report.groups[0].docs[0]]
        found.append(_finding("duplicate-documents", example, f"{head}, such as {first}", remedy, file="corpus.jsonl"))
    for split in _ordered(c):
        queries = c.qrels[split].queries.tolist()
        sizes = Counter(near_groups([[c.query_texts[query] for query in queries]], NEAR_THRESHOLD))
        group, most = sizes.most_common(1)[0]
        if most > 1:
            again = len(queries) - len(sizes)
            example = c.query_ids[queries[group]]
            message = f"{again:,} of {len(queries):,} {split} queries repeat another one, such as {example!r}"
            remedy = "keep one of each, or they count several times"
            found.append(_finding("duplicate-queries", example, message, remedy, severity="note"))
    return found


def _leaks(c: Collection) -> list[Problem]:
    """Near-equal queries of two splits, and answers of the later one that the earlier one has under another id."""
    found = []
    for first, second in combinations(_ordered(c), 2):
        report = find_leaks(c, c.qrels[first], c.qrels[second], splits=(first, second))
        remedy = f"keep it in one of {first} and {second}; training asks: --leaks drop | allow"
        for leak in report.leaks:
            if leak.kind != "same id":  # which reading the labels has told already
                name = c.query_ids[leak.test]
                found.append(_finding("leak", name, report.describe(leak), remedy, file=f"qrels/{second}.tsv"))
        for copy in report.documents:
            name = c.doc_ids[copy.test]
            text = report.describe_document(copy)
            found.append(_finding("copied-answer", name, text, remedy, file=f"qrels/{second}.tsv"))
    return found


def _ordered(c: Collection) -> list[str]:
    """The splits, train first, then dev and test, then others by name; those without labels are left out."""
    rank = {name: place for place, name in enumerate(_ORDER)}
    return sorted(
        (split for split in c.qrels if len(c.qrels[split])), key=lambda split: (rank.get(split, len(rank)), split)
    )


def _finding(
    kind: str, value: str, message: str, remedy: str, *, file: str = "queries.jsonl", severity: Severity = "warning"
) -> Problem:
    return Problem(file, 0, kind, value, message, remedy, severity=severity)
