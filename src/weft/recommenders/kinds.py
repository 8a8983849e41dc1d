"""The kinds of recommenders there are, one line each, and how settings become one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from weft.data.domain import Catalogue
from weft.errors import SettingError
from weft.recommenders.contract import BackboneRecommender, Recommender, RecommenderSettings
from weft.settings import as_written, field_errors, validate

if TYPE_CHECKING:
    from weft.adapters import Adapter, LoraSettings
    from weft.backbones import Precision
    from weft.recommenders.equipped import EquippedBackbone

KINDS: dict[str, str | type[Recommender]] = {
    "bi_encoder": "weft.recommenders.text.bi_encoder.BiEncoder",
    "cross_encoder": "weft.recommenders.text.cross_encoder.CrossEncoder",
    "listwise": "weft.recommenders.text.listwise.Listwise",
    "yes_no": "weft.recommenders.text.yes_no.YesNo",
    "popularity": "weft.recommenders.sequential.popularity.Popularity",
}
"""Kind -> its recommender's class, or where that stands, so that it is imported when it is used."""


def register_recommender(recommender: type[Recommender]) -> None:
    """Make a class of another package known under the `kind` of its settings."""
    KINDS[recommender.settings_type.model_fields["kind"].default] = recommender


def recommender_class(kind: object) -> type[Recommender]:
    """The class of a kind; an unknown one is a `SettingError` that lists those there are."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise SettingError(f"kind: {as_written(kind)} is not known; there are {', '.join(KINDS)}")
    entry = KINDS[kind]
    if isinstance(entry, str):
        module, _, name = entry.rpartition(".")
        recommender: type[Recommender] = getattr(import_module(module), name)
        return recommender
    return entry


def recommender_settings(values: Mapping[str, Any]) -> RecommenderSettings:
    """The settings of a `recommender:` block; without a `kind` those of a bi_encoder."""
    if not isinstance(values, Mapping):
        raise SettingError(
            f"a recommender's settings are a block with its kind, not {as_written(values)}"
        )
    return validate(recommender_class(values.get("kind", "bi_encoder")).settings_type, values)


def _in_recipe(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    with field_errors():
        settings = recommender_settings(value)
    if not recommender_class(settings.kind).needs_backbone:
        raise ValueError(
            f"kind: a {settings.kind} recommender has no backbone, so it has no branches to train"
        )
    return settings


RecommenderBlock = Annotated[SerializeAsAny[RecommenderSettings], BeforeValidator(_in_recipe)]
"""For a recipe: any kind's settings; errors name the fields of the chosen kind."""


def make_recommender(
    backbone: str | None,
    settings: RecommenderSettings,
    catalogue: Catalogue | None = None,
    *,
    adapter: Adapter | None = None,
    precision: Precision = "auto",
    device: str = "cpu",
    light: bool = False,
) -> Recommender:
    """A recommender for use, on a freshly loaded backbone if it needs one.

    An adapter's delta is folded in float32 and the result is stored in the asked precision. With
    `light` it starts sooner where its kind can, and gives the same bits.
    """
    kind = recommender_class(settings.kind)
    if not kind.needs_backbone:
        return _without_backbone(kind, settings, catalogue, 0, device)
    from weft.backbones import load_backbone
    from weft.backbones.load import dtype_of
    from weft.recommenders.equipped import FoldedBackbone, PlainBackbone, store_in

    assert issubclass(kind, BackboneRecommender)
    loaded = load_backbone(
        backbone_needed(backbone, settings),
        precision="float32",
        device=device,
        head=kind.backbone_head,
        light=light and kind.opens_light,
    )
    equipped: EquippedBackbone
    equipped = PlainBackbone(loaded) if adapter is None else FoldedBackbone(loaded, adapter)
    recommender = kind(equipped, settings, catalogue)
    store_in(dtype_of(precision), recommender.model, recommender.whole_modules())
    return recommender


def new_recommender(
    backbone: str | None,
    settings: RecommenderSettings,
    catalogue: Catalogue | None = None,
    *,
    lora: LoraSettings | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    device: str = "cpu",
) -> Recommender:
    """A recommender to be trained, on a freshly loaded backbone if it needs one.

    With `lora` factors are attached to a frozen backbone in the asked precision; without, all of its
    parameters are trained in float32, with products in the asked precision. `seed` is of new
    weights.
    """
    kind = recommender_class(settings.kind)
    if not kind.needs_backbone:
        return _without_backbone(kind, settings, catalogue, seed, device)
    import torch

    from weft.backbones import load_backbone
    from weft.backbones.load import dtype_of
    from weft.recommenders.equipped import LoraBackbone, WholeBackbone

    assert issubclass(kind, BackboneRecommender)
    if lora is None and not kind.trains_whole:
        raise SettingError(f"all parameters can be trained of a bi_encoder, not a {settings.kind}")
    loaded = load_backbone(
        backbone_needed(backbone, settings),
        precision="float32" if lora is None else precision,
        device=device,
        head=kind.backbone_head,
    )
    if lora is not None:
        return kind(LoraBackbone(loaded, lora, seed), settings, catalogue)
    mixed = dtype_of(precision) is torch.bfloat16
    return kind(WholeBackbone(loaded, mixed=mixed), settings, catalogue)


def _without_backbone(
    kind: type[Recommender],
    settings: RecommenderSettings,
    catalogue: Catalogue | None,
    seed: int,
    device: str,
) -> Recommender:
    recommender = kind(settings, catalogue)
    recommender.seed, recommender.device = seed, device
    return recommender


def backbone_needed(backbone: str | None, settings: RecommenderSettings) -> str:
    """The backbone's name; a `SettingError` where there is none."""
    if backbone is None:
        raise SettingError(f"a {settings.kind} recommender needs a backbone")
    return backbone
