"""The rules of a recipe for the vocabulary of a merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from weft.settings import StrictModel

BASE, UNION, ROWS = "base", "union", "rows"


class _Block(StrictModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenOf(_Block):
    """A row of one model: that of a token, or the one with a number."""

    kind: Literal["model_token"] = "model_token"
    model: str = Field(min_length=1)
    token: str | None = None
    token_id: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> TokenOf:
        if (self.token is None) == (self.token_id is None):
            raise ValueError("say token or token_id, one of them")
        return self


class Zero(_Block):
    """A row of zeros."""

    kind: Literal["zero"]


class TokenRule(_Block):
    """The row of one token in the models that lack it; with `force`, in all of them."""

    source: str | TokenOf | Zero | None = Field(
        default=None, description="a model: its row of that token"
    )
    force: bool = False


class TokenizerRules(_Block):
    """Whose vocabulary the output has: the base's, the union of all, a part's; or `rows`: row i
    of one model is merged with row i of the others, whatever their tokenizers say."""

    source: str = Field(default=UNION, min_length=1)
    base: str | None = Field(
        default=None,
        description="the model whose row goes to those that lack a token, where several have it, "
        "and whose tokenizer base and union start from: by default the merge's base",
    )
    tokens: dict[str, TokenRule] = {}
    pad_to_multiple_of: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _source_alone(cls, values: Any) -> Any:
        return {"source": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _rows_as_they_are(self) -> TokenizerRules:
        if self.source == ROWS and (self.tokens or self.pad_to_multiple_of or self.base):
            raise ValueError("source 'rows' leaves every row where it is: say base or union")
        return self

    def renamed(self, name: Callable[[str], str]) -> TokenizerRules:
        """The rules with other names for the models that they mention."""

        def of(rule: TokenRule) -> TokenRule:
            source = rule.source
            if isinstance(source, str):
                source = name(source)
            elif isinstance(source, TokenOf):
                source = source.model_copy(update={"model": name(source.model)})
            return rule.model_copy(update={"source": source})

        source = self.source if self.source in (BASE, UNION, ROWS) else name(self.source)
        base = None if self.base is None else name(self.base)
        tokens = {token: of(rule) for token, rule in self.tokens.items()}
        return self.model_copy(update={"source": source, "base": base, "tokens": tokens})

    def plain(self) -> str | dict[str, Any]:
        """As a recipe has it, as short as it can be."""
        stated: Mapping[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        return self.source if not set(stated) - {"source"} else dict(stated)
