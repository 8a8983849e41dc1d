"""The kinds of integrators there are, and how settings become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from weft.adapters import Adapter
from weft.backbones.blocks import Blocks
from weft.errors import SettingError
from weft.integration.head_only import HeadSettings
from weft.integration.integrator import Integrator, IntegratorSettings
from weft.integration.mixtures import MeteoraSettings, XLoraSettings
from weft.integration.x_cross import XCrossSettings
from weft.settings import as_written, field_errors, validate

INTEGRATORS: dict[str, type[IntegratorSettings]] = {
    settings.model_fields["kind"].default: settings
    for settings in (XCrossSettings, XLoraSettings, MeteoraSettings, HeadSettings)
}
"""Kind -> its settings."""


def integrator_settings(values: Mapping[str, Any] | str) -> IntegratorSettings:
    """The settings of an integrator: of a kind by its name, or of a block of settings, whose `kind`
    is x_cross by default. Raises a `SettingError` for another kind or setting.

    >>> integrator_settings("meteora")
    MeteoraSettings(kind='meteora', top_k=2)
    >>> integrator_settings({"layers": 6}).kind
    'x_cross'
    """
    if not isinstance(values, Mapping | str):
        raise SettingError(f"an integrator is a kind or a block with one, not {as_written(values)}")
    block = {"kind": values} if isinstance(values, str) else dict(values)
    kind = block.get("kind", "x_cross")
    if not isinstance(kind, str) or kind not in INTEGRATORS:
        raise SettingError(
            f"kind: {as_written(kind)} is no integrator; there are {', '.join(INTEGRATORS)}"
        )
    return validate(INTEGRATORS[kind], block)


def _in_recipe(value: Any) -> Any:
    if not isinstance(value, Mapping | str):
        return value
    with field_errors():
        return integrator_settings(value)


IntegratorSpec = Annotated[SerializeAsAny[IntegratorSettings], BeforeValidator(_in_recipe)]
"""For a recipe: the settings of any kind; errors are in the words of the chosen kind."""


def make_integrator(
    blocks: Blocks, adapters: Sequence[Adapter], settings: IntegratorSettings, seed: int
) -> Integrator:
    """Put the adapters on the model, in place, and an integrator over them, random from `seed`.

    The adapters must be of the model's backbone; the caller checks that. Raises a `SettingError` for
    too few adapters and for more integrated blocks than the backbone has, and a `MismatchError` for
    adapters that can't be put on the model.
    """
    return settings.build(blocks, adapters, seed)
