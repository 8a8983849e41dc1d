"""The kinds of integrators there are, and how settings become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from weft.adapters import Adapter
from weft.backbones.blocks import Blocks
from weft.data.source import checked
from weft.errors import WeftError
from weft.integration.head_only import HeadOnly, HeadSettings
from weft.integration.integrator import Integrator
from weft.integration.mixtures import Meteora, MeteoraSettings, XLora, XLoraSettings
from weft.integration.x_cross import XCross, XCrossSettings

AnyIntegratorSettings = XCrossSettings | XLoraSettings | MeteoraSettings | HeadSettings

INTEGRATORS: dict[str, type[AnyIntegratorSettings]] = {
    "x_cross": XCrossSettings,
    "x_lora": XLoraSettings,
    "meteora": MeteoraSettings,
    "head": HeadSettings,
}


def integrator_settings(values: Mapping[str, Any] | str) -> AnyIntegratorSettings:
    """The settings of an integrator: a kind, or a block whose `kind` is x_cross unless it says one."""
    block = {"kind": values} if isinstance(values, str) else dict(values)
    kind = block.get("kind", "x_cross")
    if not isinstance(kind, str) or kind not in INTEGRATORS:
        raise WeftError(f"kind: '{kind}' is no integrator; there are {', '.join(INTEGRATORS)}")
    return checked(INTEGRATORS[kind], block)


def _in_recipe(value: Any) -> Any:
    if not isinstance(value, Mapping | str):
        return value
    try:
        return integrator_settings(value)
    except WeftError as error:
        raise ValueError(str(error)) from None


IntegratorSettings = Annotated[AnyIntegratorSettings, BeforeValidator(_in_recipe)]
"""For a recipe: any kind's settings; what is wrong is said in the words of the chosen kind."""


def make_integrator(
    blocks: Blocks, adapters: Sequence[Adapter], settings: AnyIntegratorSettings, seed: int
) -> Integrator:
    """Put the adapters on the model, in place, and an integrator over them, random from `seed`.

    The adapters must be of the model's backbone; the caller checks that. One adapter only, or more
    integrated blocks than there are, is a `WeftError`.
    """
    match settings:
        case XCrossSettings():
            return XCross(blocks, adapters, settings, seed)
        case XLoraSettings():
            return XLora(blocks, adapters, settings, seed)
        case MeteoraSettings():
            return Meteora(blocks, adapters, settings, seed)
        case HeadSettings():
            return HeadOnly(blocks, adapters, settings, seed)
