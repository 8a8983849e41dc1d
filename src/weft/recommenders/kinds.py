"""The kinds of recommenders there are, and how settings become one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from torch import nn

from weft.adapters import Adapter, LoraSettings
from weft.backbones import Precision, load_backbone
from weft.backbones.load import Head, dtype_of
from weft.data.domain import Catalogue
from weft.data.source import checked
from weft.errors import WeftError
from weft.recommenders.bi_encoder import BiEncoder, BiEncoderSettings
from weft.recommenders.cross_encoder import CrossEncoder, CrossEncoderSettings, whole_modules
from weft.recommenders.listwise import Listwise, ListwiseSettings
from weft.recommenders.yes_no import YesNo, YesNoSettings

AnySettings = BiEncoderSettings | CrossEncoderSettings | ListwiseSettings | YesNoSettings
AnyRecommender = BiEncoder | CrossEncoder | Listwise | YesNo

KINDS: dict[str, type[AnySettings]] = {
    "bi_encoder": BiEncoderSettings,
    "cross_encoder": CrossEncoderSettings,
    "listwise": ListwiseSettings,
    "yes_no": YesNoSettings,
}


def recommender_settings(values: Mapping[str, Any]) -> AnySettings:
    """The settings of a `recommender:` block; `kind` is bi_encoder unless it says otherwise."""
    kind = values.get("kind", "bi_encoder")
    if not isinstance(kind, str) or kind not in KINDS:
        raise WeftError(f"kind: '{kind}' is not known; there are {', '.join(KINDS)}")
    return checked(KINDS[kind], values)


def _in_recipe(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    try:
        return recommender_settings(value)
    except WeftError as error:
        raise ValueError(str(error)) from None


RecommenderSettings = Annotated[AnySettings, BeforeValidator(_in_recipe)]
"""For a recipe: any kind's settings; what is wrong is said in the words of the chosen kind."""


def ranks_catalogues_by_default(settings: AnySettings) -> bool:
    """Whether whole catalogues are ranked unless something else is asked for: a cross-encoder can,
    but reads a prompt for each item and user."""
    return settings.ranks_catalogues and settings.kind != "cross_encoder"


def store(model: nn.Module, dtype: torch.dtype, kept: Mapping[str, nn.Module]) -> None:
    """Round a model's parameters, but for the heads `kept`: rounded scores would tie. Not the
    buffers either: rotations stay in float32."""
    heads = {id(p) for module in kept.values() for p in module.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in heads:
            parameter.data = parameter.data.to(dtype)


def make_recommender(
    backbone: str,
    settings: AnySettings,
    catalogue: Catalogue | None = None,
    *,
    adapter: Adapter | None = None,
    lora: LoraSettings | None = None,
    lora_seed: int = 0,
    train_all: bool = False,
    precision: Precision = "auto",
    device: str = "cpu",
    cache: Path | None = None,
    light: bool = False,
) -> AnyRecommender:
    """A recommender on a freshly loaded backbone: for use, or with `lora` or `train_all` for
    training.

    For use, deltas are folded in float32 and the result is stored in the asked precision. All
    parameters are trained in float32, with products in the asked precision. With `light`, a
    bi-encoder for use starts sooner where it can, and gives the same bits.
    """
    encoders = BiEncoderSettings | CrossEncoderSettings
    head: Head = "none" if isinstance(settings, encoders) else "causal"
    first = precision if lora is not None else "float32"
    light = light and isinstance(settings, BiEncoderSettings) and lora is None and not train_all
    loaded = load_backbone(backbone, precision=first, device=device, head=head, light=light)
    made: AnyRecommender
    if train_all:
        if not isinstance(settings, BiEncoderSettings):
            raise WeftError(f"all parameters can be trained of a bi_encoder, not a {settings.kind}")
        mixed = dtype_of(precision) is torch.bfloat16
        return BiEncoder(loaded, settings, catalogue, train_all=True, mixed=mixed)
    how: dict[str, Any] = {"adapter": adapter, "lora": lora, "lora_seed": lora_seed, "cache": cache}
    match settings:
        case BiEncoderSettings():
            made = BiEncoder(loaded, settings, catalogue, **how)
        case CrossEncoderSettings():
            made = CrossEncoder(loaded, settings, catalogue, **how)
        case ListwiseSettings():
            made = Listwise(loaded, settings, catalogue, **how)
        case YesNoSettings():
            made = YesNo(loaded, settings, catalogue, **how)
    if lora is None:
        store(made.model, dtype_of(precision), whole_modules(made))
    return made
