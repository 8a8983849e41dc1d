"""Scoring and training with a causal language model, in token ids: no text in here."""

from weft.recommenders.text.lm.decode import constrained_beam, greedy
from weft.recommenders.text.lm.model import LanguageModel, LogLikelihood
from weft.recommenders.text.lm.packing import packed_loss
from weft.recommenders.text.lm.tree import PrefixTree

__all__ = [
    "LanguageModel",
    "LogLikelihood",
    "PrefixTree",
    "constrained_beam",
    "greedy",
    "packed_loss",
]
