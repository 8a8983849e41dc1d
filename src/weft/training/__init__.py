"""The one training loop."""

from weft.training.loop import Trained, train
from weft.training.settings import TrainSettings

__all__ = ["TrainSettings", "Trained", "train"]
