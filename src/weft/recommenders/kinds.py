"""The kinds of recommenders there are, and how settings become one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from weft.adapters import Adapter, LoraSettings
from weft.backbones import Precision, load_backbone
from weft.backbones.load import Head, dtype_of
from weft.data.domain import Catalogue
from weft.data.source import checked
from weft.errors import WeftError
from weft.recommenders.bi_encoder import BiEncoder, BiEncoderSettings
from weft.recommenders.listwise import Listwise, ListwiseSettings
from weft.recommenders.yes_no import YesNo, YesNoSettings

AnySettings = BiEncoderSettings | ListwiseSettings | YesNoSettings
AnyRecommender = BiEncoder | Listwise | YesNo

KINDS: dict[str, type[BiEncoderSettings] | type[ListwiseSettings] | type[YesNoSettings]] = {
    "bi_encoder": BiEncoderSettings,
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


def make_recommender(
    backbone: str,
    settings: AnySettings,
    catalogue: Catalogue | None = None,
    *,
    adapter: Adapter | None = None,
    lora: LoraSettings | None = None,
    lora_seed: int = 0,
    precision: Precision = "auto",
    device: str = "cpu",
    cache: Path | None = None,
) -> AnyRecommender:
    """A recommender on a freshly loaded backbone: for use, or with `lora` for training.

    For use, deltas are folded in float32 and the result is stored in the asked precision.
    """
    head: Head = "none" if isinstance(settings, BiEncoderSettings) else "causal"
    first = precision if lora is not None else "float32"
    loaded = load_backbone(backbone, precision=first, device=device, head=head)
    made: AnyRecommender
    how: dict[str, Any] = {"adapter": adapter, "lora": lora, "lora_seed": lora_seed, "cache": cache}
    match settings:
        case BiEncoderSettings():
            made = BiEncoder(loaded, settings, catalogue, **how)
        case ListwiseSettings():
            made = Listwise(loaded, settings, catalogue, **how)
        case YesNoSettings():
            made = YesNo(loaded, settings, catalogue, **how)
    if lora is None:
        for parameter in made.model.parameters():  # not the buffers: rotations stay in float32
            parameter.data = parameter.data.to(dtype_of(precision))
    return made
