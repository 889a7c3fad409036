"""Settings of features: what makes numbers of the columns of a row."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hybridmu.config.one_of import OneOf
from hybridmu.config.section import Section, check_options
from hybridmu.kinds import FEATURES


class EncoderSettings(Section):
    """Encoder, with the keyword arguments of its constructor beside its name.

    Attributes:
        name: A registered encoder, or `package.module:Class`.
    """

    model_config = ConfigDict(extra="allow")
    name: str

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema of a mapping, or of the name alone."""
        return {"anyOf": [{"type": "string"}, super().__get_pydantic_json_schema__(schema, handler)]}

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _plain(self) -> EncoderSettings:
        check_options(self.options)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return dict(self.model_extra or {})


class FeatureSettings(Section):
    """How a row becomes numbers.

    Attributes:
        name: A registered feature source, of the feature columns.
        text: Column of text → an encoder, or several. Each makes features of a text once, when the row comes in; they
            are stored beside the row, and are feature columns like others.
        image: Column of pictures → the same. PNG, JPEG or WebP as bytes or in base64, or lists of 8-bit pixels.
    """

    name: Annotated[str, OneOf(FEATURES.names)] = FEATURES.default
    text: dict[str, tuple[EncoderSettings, ...]] = Field(default_factory=dict)
    image: dict[str, tuple[EncoderSettings, ...]] = Field(default_factory=dict)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema; of a column, one encoder may stand by itself."""
        found = super().__get_pydantic_json_schema__(schema, handler)
        for key in ("text", "image"):
            column = handler.resolve_ref_schema(found)["properties"][key]
            several = column["additionalProperties"]
            column["additionalProperties"] = {"anyOf": [several["items"], several | {"minItems": 1}]}
        return found

    @field_validator("*", mode="before")
    @classmethod
    def _sound(cls, value: Any, info: ValidationInfo) -> Any:
        """Return what was given; of columns, each with a list of encoders where one may stand by itself."""  # noqa: DOC501
        if info.field_name == "name":
            return value
        if not isinstance(value, dict):
            raise ValueError("expected COLUMN: ENCODER, such as `text: {review: wordllama}`")
        found = {column: each if isinstance(each, (list, tuple)) else (each,) for column, each in value.items()}
        check_options({"columns": dict.fromkeys(found)})
        return found

    @field_validator("text", "image")
    @classmethod
    def _each_once(cls, value: dict[str, tuple[EncoderSettings, ...]]) -> dict[str, tuple[EncoderSettings, ...]]:
        for column, encoders in value.items():
            names = [encoder.name for encoder in encoders]
            if not names:
                raise ValueError(f"column {column} has no encoder; leave it out instead")
            if len({*names}) < len(names):
                raise ValueError(f"column {column} names an encoder twice")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> FeatureSettings:
        if both := sorted(self.text.keys() & self.image.keys()):
            raise ValueError(f"column {both[0]} is under text and under image")
        return self
