"""Every entry of PEFT's LoRA configuration, and what it means for weights that are merged.

An entry that weft neither reads nor knows to be harmless must have a value that changes nothing:
otherwise the tensors of the file would be taken for something that they are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from weft.errors import DataError

Role = Literal["read", "harmless", "refused"]


@dataclass(frozen=True)
class ConfigField:
    """`read`: weft does what it says. `harmless`: of training or of how it was written alone.
    `refused`: unless it is empty or false."""

    role: Role
    meaning: str


FIELDS: Mapping[str, ConfigField] = {
    "peft_type": ConfigField("read", "the method: LORA"),
    "task_type": ConfigField("read", "the class of the model; kept"),
    "auto_mapping": ConfigField("read", "the class of the model where there is no task; kept"),
    "base_model_name_or_path": ConfigField("read", "the backbone's name; kept"),
    "revision": ConfigField("read", "the backbone's revision; kept"),
    "r": ConfigField("read", "the rank"),
    "lora_alpha": ConfigField("read", "the scaling's numerator"),
    "use_rslora": ConfigField("read", "the scaling's denominator"),
    "rank_pattern": ConfigField("read", "ranks of some modules"),
    "alpha_pattern": ConfigField("read", "alphas of some modules"),
    "target_modules": ConfigField("read", "the modules that have factors"),
    "exclude_modules": ConfigField("read", "the modules that have none"),
    "layers_to_transform": ConfigField("read", "the layers that have factors"),
    "layers_pattern": ConfigField("read", "where a layer's number stands in a name"),
    "modules_to_save": ConfigField("read", "modules saved whole"),
    "bias": ConfigField("read", "which biases were trained"),
    "trainable_token_indices": ConfigField("read", "which rows of an embedding were trained"),
    "ensure_weight_tying": ConfigField("read", "what is trained at one end is used at both; kept"),
    "fan_in_fan_out": ConfigField("read", "weights are stored [in, out]; kept"),
    "init_lora_weights": ConfigField("read", "what the backbone was changed by at the start"),
    "peft_version": ConfigField("harmless", "who wrote it"),
    "inference_mode": ConfigField("harmless", "whether loading freezes it"),
    "lora_dropout": ConfigField("harmless", "of training alone"),
    "runtime_config": ConfigField("harmless", "where it is computed"),
    "megatron_core": ConfigField("harmless", "a module's name, of use with megatron_config alone"),
    "qalora_group_size": ConfigField("harmless", "of use with use_qalora alone"),
    "loftq_config": ConfigField("harmless", "of the start, which init_lora_weights names"),
    "eva_config": ConfigField("harmless", "of the start, which leaves the backbone as it was"),
    "corda_config": ConfigField("harmless", "of the start, which init_lora_weights names"),
    "lora_ga_config": ConfigField("harmless", "of the start, which init_lora_weights names"),
    "use_dora": ConfigField("refused", "DoRA: W is scaled by a trained magnitude"),
    "lora_bias": ConfigField("refused", "B has a bias, which is no part of a weight's difference"),
    "alora_invocation_tokens": ConfigField("refused", "it works after some tokens alone"),
    "use_qalora": ConfigField("refused", "inputs are pooled before A"),
    "monteclora_config": ConfigField("refused", "factors are random variables"),
    "layer_replication": ConfigField("refused", "layers are stacked anew"),
    "target_parameters": ConfigField("refused", "factors of parameters, not of modules"),
    "velora_config": ConfigField("refused", "its file has buffers beside the factors"),
    "use_bdlora": ConfigField("refused", "factors are block-diagonal"),
    "arrow_config": ConfigField("refused", "adapters are chosen by the input"),
    "kasa_config": ConfigField(
        "refused", "the backbone is truncated, and A and B meet in a diagonal"
    ),
    "megatron_config": ConfigField("refused", "layers are split over processes"),
}

# Entries of other programs that are of training alone: ms-swift's dtype and learning rates of A and B.
OF_TRAINING = ("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr")

# What init_lora_weights can be with a backbone that stays as it is. PiSSA, OLoRA, CorDA, LoftQ and
# LoRA-GA subtract from it, or quantise it, what A and B start with.
PLAIN_STARTS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")


def check_fields(config: Mapping[str, Any]) -> None:
    """A `DataError` that names the first entry whose meaning weft does not carry."""
    if config.get("peft_type") != "LORA":
        raise DataError(f"peft_type is {config.get('peft_type', 'missing')}, not LORA")
    for name, value in config.items():
        known = FIELDS.get(name)
        if known is None and value and name not in OF_TRAINING:
            raise DataError(
                f"weft does not know the entry '{name}', which may change what the weights mean: "
                "set it to null if it doesn't"
            )
        if known is not None and known.role == "refused" and value:
            raise DataError(f"{name} is not supported: {known.meaning}")
    start = str(config.get("init_lora_weights", True)).lower()
    if start not in PLAIN_STARTS:
        raise DataError(
            f"init_lora_weights is {start}: adapters that change the backbone are not supported "
            "(PEFT's save_pretrained converts them with path_initial_model_for_weight_conversion)"
        )
