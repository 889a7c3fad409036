"""Tokens as features: those of the folder's tokenizer, the first of them, each text by itself."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from hybridmu.core.adapters.token_codes import NONE, digits_of, to_numbers
from hybridmu.core.features.value_encoders import digest_of, make_encoder
from hybridmu.errors import ConfigError
from tests.scenes.tiny_transformer import PLACES, VOCABULARY, write_tokenizer, write_transformer

LENGTH = 8
TEXTS = [
    "soft warm blue",
    "",
    " \n\t ",
    "never " * 40,
    "🧥👗 love",
    "x" * 100_000,
    "soft " * 20_000,
    "\0\u200b e\u0301",
    "é漢字 אב",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_transformer(tmp_path_factory.mktemp("models") / "bert")


def encoder(folder, length=LENGTH):
    return make_encoder("text", "tokens", {"folder": str(folder), "length": length})


def numbers_of(made):
    return to_numbers(torch.from_numpy(made.astype(np.float32)) / 127, digits_of(len(VOCABULARY))).tolist()


def test_they_are_the_first_tokens_between_both_marks(folder):
    from tokenizers import Tokenizer

    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made = encoder(folder).encode(TEXTS)
    assert (made.shape, made.dtype) == ((len(TEXTS), 2 * LENGTH), np.int8)
    for text, found in zip(TEXTS, numbers_of(made), strict=True):
        every = whole.encode(text).ids
        kept = every if len(every) <= LENGTH else [*every[: LENGTH - 1], every[-1]]
        assert found == kept + [NONE] * (LENGTH - len(kept)), text[:20]
    assert encoder(folder).encode([]).shape == (0, 2 * LENGTH)


def test_a_text_has_the_same_tokens_beside_any_others(folder):
    made = encoder(folder).encode(TEXTS)
    for row, text in enumerate(TEXTS):
        assert np.array_equal(encoder(folder).encode([text])[0], made[row])
    assert np.array_equal(encoder(folder).encode(TEXTS[::-1])[::-1], made)


def test_the_digest_covers_length_tokenizer_and_weights(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    first = digest_of("x", encoder(folder))
    assert digest_of("x", encoder(moved)) == first
    assert digest_of("x", encoder(moved, LENGTH + 1)) != first
    weights = moved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    assert digest_of("x", encoder(moved)) != first


def test_a_tokenizer_that_was_replaced_is_read_again(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    before = encoder(moved).encode(["soft warm"])
    words = [*VOCABULARY[:4], "warm", "soft", *VOCABULARY[6:]]
    write_tokenizer(moved, words)
    assert not np.array_equal(encoder(moved).encode(["soft warm"]), before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "does not take these options"),
        ({"folder": "/nowhere", "length": 8}, "is not there"),
        ({"folder": None, "length": 8}, "is not there"),
        ({"length": 8}, "does not take these options"),
        ({"folder": "FOLDER", "length": 3}, "length of tokens"),
        ({"folder": "FOLDER", "length": PLACES + 1}, f"at most {PLACES}"),
        ({"folder": "FOLDER", "length": True}, "length of tokens"),
        ({"folder": "FOLDER", "length": "8"}, "length of tokens"),
    ],
)
def test_options_that_are_wrong(folder, options, says):
    given = {name: str(folder) if value == "FOLDER" else value for name, value in options.items()}
    with pytest.raises(ConfigError, match=says):
        make_encoder("text", "tokens", given)


def test_a_tokenizer_that_is_damaged_or_of_another_model(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ConfigError, match=r"damaged tokenizer\.json"):
        encoder(damaged)
    larger = shutil.copytree(folder, tmp_path / "larger")
    write_tokenizer(larger, [*VOCABULARY, "more"])
    with pytest.raises(ConfigError, match="tokenizer of another model"):
        encoder(larger)
