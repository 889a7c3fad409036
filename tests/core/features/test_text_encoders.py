"""The text encoders of this package, against plain counts of their own definition."""

import hashlib
import json
import math
import re
import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import wordllama
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hybridmu.core.features import wordllama as ours
from hybridmu.core.features.ngrams import NGrams
from hybridmu.core.features.wordllama import WordLlama
from hybridmu.errors import MissingExtraError

TEXTS = [
    "I love this dress!",
    "",
    "   ",
    "so so SO soft",
    "naïve 👗 größer",
    "zip " * 3000,
    "a",
]


def test_ngrams_are_signed_roots_of_counts_of_unit_length():
    found = NGrams(width=32, shortest=2, longest=3).encode(TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        counts = Counter()
        for word in re.findall(r"\w+", text.lower()):
            marked = f"<{word}>"
            counts.update(marked[at : at + size] for size in (2, 3) for at in range(len(marked) - size + 1))
        total = np.zeros(32)
        for run, count in counts.items():
            number = int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "little")
            total[number % 32] += math.sqrt(count) * (-1 if number >> 63 else 1)
        expected = total / (np.linalg.norm(total) or 1) / 0.3 * 127
        assert (abs(row - expected.clip(-127, 127)) <= 0.501).all()


def test_a_word_of_a_megabyte_takes_no_longer_than_a_text_of_that_length():
    encoder = NGrams()
    long = encoder.encode(["a" * 1_000_000, "a" * 100])
    assert np.array_equal(long[0], long[1])


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
@settings(max_examples=30)
@pytest.mark.parametrize("encoder", [NGrams(width=64), WordLlama()], ids=["ngrams", "wordllama"])
def test_a_text_has_the_same_features_in_any_company(encoder, texts):
    together = encoder.encode(texts)
    assert together.dtype == np.int8
    assert together.shape == (len(texts), encoder.width)
    assert np.array_equal(together, np.concatenate([encoder.encode([text]) for text in texts]))


def test_wordllama_is_the_direction_of_the_sum_of_its_table():
    folder = Path(wordllama.__file__).parent
    data = (folder / ours._WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    [(_, entry)] = [each for each in json.loads(data[8 : 8 + size]).items() if each[0] != "__metadata__"]
    assert entry["dtype"] == "F16"
    table = np.frombuffer(data, "<f2", offset=8 + size + entry["data_offsets"][0]).reshape(entry["shape"])
    tokenizer = Tokenizer.from_file(str(folder / ours._TOKENIZER))
    texts = [text for text in TEXTS if len(text) < 100]
    for text, row in zip(texts, WordLlama().encode(texts), strict=True):
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        total = [sum((Fraction(float(table[token, at])) for token in tokens), Fraction(0)) for at in range(256)]
        square = sum(part * part for part in total)
        for value, part in zip(row.tolist(), total, strict=True):
            exact = math.copysign(math.sqrt(part * part / square), part) / 0.35 * 127 if part else 0
            assert abs(value - max(-127, min(127, exact))) <= 0.5 + 1e-9


def test_wordllama_says_which_extra_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="wordllama") as caught:
        _ = WordLlama().digest
    assert "hybridmu[text]" in caught.value.remedy
