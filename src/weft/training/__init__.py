"""The one training loop."""

from weft.training.loop import Trained, TrainingFiles, train
from weft.training.settings import TrainSettings

__all__ = ["TrainSettings", "Trained", "TrainingFiles", "train"]
