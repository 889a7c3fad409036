"""Transformers of two layers with random weights and a tokenizer of their own, in folders; nothing is fetched."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

LENGTH, WIDTH, PLACES = 12, 32, 64
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["soft", "warm", "blue", "dress", "shirt", "zip", "torn", "love", "never", "again"]
_LETTERS = list(string.ascii_lowercase + string.digits)
VOCABULARY = [*MARKS, *WORDS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]


def write_tokenizer(folder: Path, words: list[str] = VOCABULARY) -> None:
    """Write a tokenizer of words and letters, which marks both ends of a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(mark, numbers[mark]) for mark in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made.save(str(folder / "tokenizer.json"))


def write_transformer(folder: Path, *, kind: str = "bert", seed: int = 0) -> Path:
    """Write a transformer 32 wide.

    Args:
        folder: It is made.
        kind: `bert`, or `roberta`.
        seed: Draws its weights.

    Returns:
        The folder.
    """
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True)
    write_tokenizer(folder)
    sizes = {"vocab_size": len(VOCABULARY), "max_position_embeddings": PLACES, "pad_token_id": 0}
    sizes |= {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoModel.from_config(AutoConfig.for_model(kind, **sizes))
        for name, tensor in made.named_parameters():  # far from 0, so that layers do something
            if tensor.dim() > 1 and "embeddings" not in name:
                torch.nn.init.normal_(tensor, std=0.2)
        made.save_pretrained(folder)
    return folder


def texts_of(rows: int, seed: int = 0) -> list[str]:
    """Return texts of words that the tokenizer knows, each with a number of its own at its end."""
    draw = np.random.default_rng(seed)
    return [f"{' '.join(draw.choice(WORDS, 4))} {row:03d}" for row in range(rows)]


def write_table(path: Path, texts: list[str], start: int = 0) -> Path:
    """Write rows of these texts, which are of class `yes` where they speak of warmth or love."""
    draw = np.random.default_rng(start)
    columns = {
        "id": range(start, start + len(texts)),
        "size": draw.normal(size=len(texts)).astype(np.float32),
        "note": texts,
        "label": ["yes" if "love" in text or "warm" in text else "no" for text in texts],
    }
    pq.write_table(pa.table(columns), path)
    return path
