"""A task that reads tokens, its encoder, and the rest of a configuration agree before anything is read."""

import pytest

from hybridmu.config import Settings
from hybridmu.errors import ConfigError

ENCODER = {"name": "tokens", "folder": "models/minilm", "length": 32}
TASK = {"name": "adapter", "backbone": "models/minilm", "length": 32}
RAW = {
    "data": {"train": "t.csv"},
    "features": {"text": {"note": ENCODER}},
    "task": TASK,
    "storage_url": "/tmp/x",
}


def test_what_agrees_is_taken():
    found = Settings.parse(RAW)
    assert found.learner.name == "sliced_sgd"
    assert found.identity()["task"] == {"name": "adapter", "backbone": "models/minilm", "length": 32}
    assert Settings.model_validate(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": {}}, "reads the tokens of one text"),
        ({"features": {"text": {"note": "ngrams"}}}, "reads the tokens of one text"),
        ({"features": {"text": {"note": [ENCODER, "ngrams"]}}}, "no other encoder"),
        ({"features": {"text": {"note": ENCODER, "title": ENCODER}}}, "no other encoder"),
        ({"features": {"text": {"note": ENCODER}, "image": {"p": "efficientnet-lite0"}}}, "no other encoder"),
        ({"features": {"text": {"note": ENCODER | {"length": 16}}}}, r"task\.length is 32, but length of tokens is 16"),
        ({"task": TASK | {"backbone": "other"}}, r"task\.backbone is 'other'"),
        ({"task": {"name": "adapter", "backbone": "models/minilm"}}, r"task\.length is None"),
        ({"data": {"train": "t.csv", "standardize": True}}, "would change the numbers of tokens"),
        ({"compute": {"compile": True}}, r"compute\.compile does not go with"),
        ({"compute": {"parts": 2}, "cluster": {"wide": "fsdp2"}}, "use ddp"),
        ({"serving": {"aggregation": "merge"}}, "merge is for"),
    ],
)
def test_what_does_not_agree_is_told(change, says):
    with pytest.raises(ConfigError, match=says):
        Settings.parse(RAW | change)
