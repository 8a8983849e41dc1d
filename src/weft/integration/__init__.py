"""Integrating frozen adapters at run time: their activations combined per layer and per input."""

from weft.integration.integrator import Integrator
from weft.integration.kinds import (
    IntegratorSettings,
    integrator_settings,
    make_integrator,
)

__all__ = ["Integrator", "IntegratorSettings", "integrator_settings", "make_integrator"]
