"""Sentence embeddings: a real model of a few parts in a local folder, made by the library that reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hybridmu.core.features.value_encoders import digest_of, make_encoder
from hybridmu.errors import ConfigError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "warm", "wool", "sweater", "blue", "jeans", "of", "denim"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A sentence transformer of two layers with random weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = tmp_path_factory.mktemp("bert")
    (base / "vocab.txt").write_text("\n".join(WORDS))
    shape = BertConfig(
        vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    BertModel(shape).save_pretrained(base)
    BertTokenizerFast(vocab_file=str(base / "vocab.txt")).save_pretrained(base)
    found = base.parent / "model"
    SentenceTransformer(modules=[Transformer(str(base)), Pooling(24)], device="cpu").save(str(found))
    return found


def encoder(folder: Path):
    return make_encoder("text", "sentences", {"folder": str(folder)})


def test_features_are_the_directions_of_embeddings(folder):
    from sentence_transformers import SentenceTransformer

    texts = ["a warm wool sweater", "blue jeans of denim", "", "a"]
    made = encoder(folder).encode(texts)
    assert (made.shape, made.dtype) == ((4, 24), np.int8)
    expected = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts).astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(made / 127 * 6 / np.sqrt(24), expected, atol=6 / np.sqrt(24) / 127)
    assert encoder(folder).encode([]).shape == (0, 24)


def test_the_digest_is_of_the_files_and_not_of_their_place(folder, tmp_path):
    first = digest_of("x", encoder(folder))
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert digest_of("x", encoder(moved)) == first
    (moved / "README.md").write_text("another word")
    assert digest_of("x", encoder(moved)) == first
    pooling = next(moved.glob("*Pooling*")) / "config.json"
    pooling.write_text(pooling.read_text() + "\n")
    assert digest_of("x", encoder(moved)) != first


@pytest.mark.parametrize("wrong", [{}, {"folder": 3}, {"folder": "/nowhere"}, {"folder": "all-MiniLM-L6-v2"}])
def test_what_is_no_folder_of_a_model(wrong):
    with pytest.raises(ConfigError, match="sentences"):
        make_encoder("text", "sentences", wrong)


def test_damaged_models_and_models_with_code_of_their_own(folder, tmp_path):
    def changed(name: str) -> Path:
        shutil.copytree(folder, tmp_path / name)
        return tmp_path / name

    (changed("list") / "modules.json").write_text("{}{")
    with pytest.raises(ConfigError, match=r"modules.json in folder of sentences is damaged"):
        encoder(tmp_path / "list")
    own = changed("own") / "modules.json"
    modules = json.loads(own.read_text())
    modules[0]["type"] = "os.path.Transformer"
    own.write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="needs code of its own"):
        encoder(tmp_path / "own")
    weights = next(changed("cut").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ConfigError, match="can't be loaded"):
        encoder(tmp_path / "cut")
    weights = next(changed("pickled").rglob("*.safetensors"))
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ConfigError, match="can't be loaded"):
        encoder(tmp_path / "pickled")
