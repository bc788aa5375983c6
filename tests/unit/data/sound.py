"""A sound collection, as the bytes of its files, to be broken one line at a time."""

SOUND: dict[str, bytes] = {
    "corpus.jsonl": b'{"_id": "d1", "title": "Cats", "text": "purr"}\n{"_id": "d2", "title": "", "text": "dogs bark"}\n',
    "queries.jsonl": b'{"_id": "q1", "text": "who purrs"}\n{"_id": "q2", "text": "who barks"}\n',
    "qrels/train.tsv": b"query-id\tcorpus-id\tscore\nq1\td1\t1\n",
    "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq2\td2\t2\nq2\td1\t0\n",
}
