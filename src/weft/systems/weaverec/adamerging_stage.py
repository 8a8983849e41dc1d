"""The stage that learns merging weights without labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from weft.artifacts.atomic import write_json
from weft.artifacts.hashing import hash_json
from weft.data.domain import IntArray
from weft.data.splits import make_split, sample_train
from weft.errors import WeftError
from weft.learning.adamerging import entropy_of_logits, learn_weights
from weft.recommenders.listwise import Listwise
from weft.recommenders.lm.packing import next_logits
from weft.stages.stage import Task
from weft.systems.common_stages import WEIGHTS, adapters_in, domain_in, recommender_of
from weft.training.batches import seed_of


def learn_merge_weights(task: Task) -> None:
    """AdaMerging over the parents' adapters: weights for each module that make the first token of
    the answer to unlabelled prompts as sure as can be.

    The prompts are those of validation users of every domain that is merged (the paper takes test
    users'); no answer is looked at.
    """
    said = task.settings
    how = said["adamerging"]
    parts = adapters_in(task)
    recommender = recommender_of(task, None)
    if not isinstance(recommender, Listwise):
        raise WeftError("AdaMerging needs a listwise recommender")
    prompts: list[IntArray] = []
    for folder in task.parent_list("domain"):
        examples = make_split(domain_in(folder), said["split"]).validation
        drawn = sample_train(examples, how["prompts"], said["seed"])
        made, _ = recommender.training_texts(drawn)
        prompts += [made.of(row) for row in range(len(made))]
    language = recommender.language

    def entropy(model: nn.Module, step: int) -> Tensor:
        random = np.random.Generator(np.random.PCG64(seed_of(said["seed"], "batch", step)))
        rows = random.choice(len(prompts), size=min(how["batch"], len(prompts)), replace=False)
        torch.manual_seed(seed_of(said["seed"], "step", step))
        return entropy_of_logits(next_logits(language, [prompts[row] for row in rows.tolist()]))

    learned = learn_weights(
        recommender.model,
        parts,
        entropy,
        steps=how["steps"],
        learning_rate=how["learning_rate"],
        checkpoints=task.scratch,
        key=hash_json([dict(said), [part.weights_hash for part in parts]]),
        report=lambda step, steps, _: task.say(step, steps, "steps"),
    )
    entropies = learned.entropies
    write_json(task.out / WEIGHTS, {"weights": dict(learned.modules), "entropies": entropies})
