"""Integrating frozen adapters at run time: their activations combined per layer and per input."""

from weft.integration.integrator import Integrator, IntegratorSettings
from weft.integration.kinds import IntegratorSpec, integrator_settings, make_integrator

__all__ = [
    "Integrator",
    "IntegratorSettings",
    "IntegratorSpec",
    "integrator_settings",
    "make_integrator",
]
