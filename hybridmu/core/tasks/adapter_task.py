"""Built-in task `adapter`: a frozen transformer that all sub-models share, and small tensors that each trains itself.

What it is made of is in `core/adapters/`; it is learned as networks are, slice after slice.
"""

from __future__ import annotations

from functools import cached_property

from torch import nn

from hybridmu.core.adapters import backbone_files
from hybridmu.core.adapters.adapter_model import AdapterModel
from hybridmu.core.adapters.frozen_backbone import HEAD, IA3, LORA, Form, skeleton_of
from hybridmu.core.adapters.token_codes import digits_of
from hybridmu.core.tasks.base import CrossEntropyTask
from hybridmu.errors import ConfigError

_METHODS = (IA3, LORA, HEAD)
_RANK, _WIDEST = 8, 1024


class AdapterTask(CrossEntropyTask):
    """Classes of texts whose tokens are features of a row (the text encoder `tokens`).

    Args:
        backbone: Folder of the transformer on this machine, as `tokens` names it; every process has to find it.
        length: Tokens of a text, as `tokens` has them.
        method: `ia3` trains factors of keys, values and inner activations, `lora` products of low rank on queries and
            values, `head` neither; a linear head is trained by all three.
        rank: Of `lora`; 8 by default.
        dropout: Share of activations that training leaves out.
    """

    def __init__(
        self, backbone: str, length: int, method: str = IA3, rank: int | None = None, dropout: float = 0.0
    ) -> None:
        if not isinstance(backbone, str) or not backbone.strip():
            raise _wrong("backbone", "a local folder", backbone)
        _refuse_wrong_whole("length", length, backbone_files.SHORTEST, backbone_files.LONGEST)
        if method not in _METHODS:
            raise _wrong("method", f"one of {', '.join(_METHODS)}", method)
        if rank is not None:
            if method != LORA:
                raise _wrong("rank", f"nothing: {method} has none, {LORA} has", rank)
            _refuse_wrong_whole("rank", rank, 1, _WIDEST)
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise _wrong("dropout", "a number from 0, below 1", dropout)
        self._backbone, self._length, self._method = backbone, length, method
        self._rank = (rank or _RANK) if method == LORA else 0
        self._dropout = float(dropout)

    @cached_property
    def backbone_digest(self) -> str:
        """Return the hash of the backbone's files, as they were when it was first asked for.

        Raises:
            ConfigError: The folder is not there, or is no backbone.
        """
        return backbone_files.digest_of_files(self._backbone)

    def model(self, features: int, classes: int) -> nn.Module:
        """Return an adapter and a head on the shared backbone.

        Raises:
            ConfigError: The folder is no backbone, or its tokens are not the last features of a row.
        """  # noqa: DOC501 - a function makes it
        shape = backbone_files.shape_of(self._backbone)
        if self._length > shape.longest:
            raise _wrong("length", f"at most {shape.longest}, which the backbone has places for", self._length)
        if (width := self._length * digits_of(shape.vocabulary)) > features:
            raise ConfigError(
                "task.length does not match the features",
                expected=f"at least {width} features, for {self._length} tokens",
                got=str(features),
                remedy="let features.text name the encoder of tokens, with the task's folder and length",
            )
        form = Form(self._backbone, self.backbone_digest, self._method, self._rank, self._dropout)
        return AdapterModel(skeleton_of(form), features, self._length, classes)


def _refuse_wrong_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _wrong(name, f"a whole number from {least} to {most:,}", value)


def _wrong(name: str, expected: str, got: object) -> ConfigError:
    return ConfigError(f"task.{name} is wrong", expected=expected, got=repr(got)[:100])
