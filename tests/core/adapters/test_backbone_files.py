"""Folders of backbones: what they say, and what is refused before anything of them is loaded."""

import json
import shutil

import pytest

from hybridmu.core.adapters.backbone_files import digest_of_files, shape_of
from hybridmu.errors import ConfigError
from tests.scenes.tiny_transformer import PLACES, VOCABULARY, WIDTH, write_transformer


@pytest.fixture
def folder(tmp_path):
    return write_transformer(tmp_path / "bert")


def said(folder, **changes):
    found = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def test_a_shape_is_read(folder, tmp_path):
    found = shape_of(str(folder))
    assert (found.kind, found.width, found.vocabulary, found.longest) == ("bert", WIDTH, len(VOCABULARY), PLACES)
    other = shape_of(str(write_transformer(tmp_path / "roberta", kind="roberta")))
    assert other.longest == PLACES - 1, "its first places are no token's"


def test_the_digest_is_of_the_files_and_not_of_their_place(folder, tmp_path):
    before = digest_of_files(str(folder))
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    (moved / "README.md").write_text("words")
    assert digest_of_files(str(moved)) == before
    weights = moved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    assert digest_of_files(str(moved)) != before


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "is not there"),
        (pickled, "has no weights as safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"lacks tokenizer\.json"),
        (lambda folder: (folder / "config.json").unlink(), r"lacks config\.json"),
        (lambda folder: (folder / "config.json").write_text("{]"), r"damaged config\.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"damaged config\.json"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), r"damaged config\.json"),
        (lambda folder: said(folder, vocab_size=None), r"damaged config\.json"),
        (lambda folder: said(folder, hidden_size="wide"), r"damaged config\.json"),
        (lambda folder: said(folder, pad_token_id=10**6), r"damaged config\.json"),
        (lambda folder: said(folder, auto_map={"AutoModel": "own.Model"}), "needs code of its own"),
        (lambda folder: said(folder, model_type="gpt2"), "an architecture that adapters do not fit"),
        (lambda folder: said(folder, model_type=["bert"]), "an architecture that adapters do not fit"),
    ],
)
def test_what_is_no_backbone(folder, change, says):
    change(folder)
    with pytest.raises(ConfigError, match=says) as refused:
        shape_of(str(folder))
    assert "save_pretrained" in refused.value.remedy


@pytest.mark.parametrize("folder_", ["", " ", None, 3, "bert-base-uncased"])
def test_names_of_hubs_are_no_folders(folder_):
    with pytest.raises(ConfigError, match="is not there"):
        shape_of(folder_)


def test_pickles_are_named(folder):
    pickled(folder)
    with pytest.raises(ConfigError) as refused:
        shape_of(str(folder))
    assert "pytorch_model.bin" in refused.value.got
