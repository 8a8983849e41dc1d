"""Whether vLLM would serve an adapter folder, by what vLLM's loader reads and refuses.

vLLM takes one rank limit for the server, `r` and `lora_alpha` of the configuration as the scaling of
every module, and only the linears of the attention and the MLP; it knows no modules saved
whole, no rows of an embedding, no DoRA, no trained biases, and passes over rank and alpha patterns
in silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft.adapters.peft_format import CONFIG, load_adapter
from weft.artifacts.atomic import read_json
from weft.errors import SettingError

RANK_LIMITS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `vllm serve --max-lora-rank` can be; its default is 16."""

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linears of a Llama, Qwen2 or Qwen3 block."""


def vllm_problems(folder: Path, max_lora_rank: int = 16) -> list[str]:
    """One sentence for each reason why vLLM would refuse or misread the adapter; none if it is fit."""
    if max_lora_rank not in RANK_LIMITS:
        limits = ", ".join(map(str, RANK_LIMITS))
        raise SettingError(f"--max-lora-rank is one of {limits}, not {max_lora_rank}")
    config: dict[str, Any] = read_json(folder / CONFIG)
    adapter = load_adapter(folder, lazy=True, backbone="(not named)")
    problems: list[str] = []
    ranks = [shape.rank for shape in adapter.shapes.values()]
    rank = max([*ranks, int(config.get("r", 0))])
    if rank > max_lora_rank:
        enough = next((str(one) for one in RANK_LIMITS if one >= rank), None)
        way = f"serve it with --max-lora-rank {enough}, or " if enough else ""
        problems.append(
            f"its rank is {rank}, above the limit of {max_lora_rank}: {way}cut it with "
            f"weft merge --rank {max_lora_rank}"
        )
    if config.get("modules_to_save") or set(adapter.saved) - set(adapter.biases):
        problems.append("it saves modules whole (modules_to_save), which vLLM does not load")
    if adapter.tokens:
        problems.append(
            "it trained rows of an embedding (trainable_token_indices), which vLLM does not load: "
            "fold it into its backbone with weft fold"
        )
    if config.get("use_dora"):
        problems.append("it is a DoRA adapter, which vLLM does not load")
    if config.get("bias", "none") != "none":
        problems.append(f"it has trained biases (bias: {config['bias']}), which vLLM does not load")
    others = [name for name in adapter.shapes if name.rpartition(".")[2] not in MODULES]
    if others:
        problems.append(f"vLLM expects no adapter on the module '{others[0]}'")
    scaling = _scaling(config)
    for name, shape in adapter.shapes.items():
        if abs(shape.scaling - scaling) > 1e-6 * max(1.0, abs(scaling)):
            problems.append(
                f"the module '{name}' is scaled by {shape.scaling:g}, and vLLM would scale it by "
                f"{scaling:g}, as it reads r and lora_alpha but no patterns"
            )
            break
    return problems


def _scaling(config: dict[str, Any]) -> float:
    """As vLLM computes it, once for all modules."""
    rank, alpha = int(config.get("r", 8)), float(config.get("lora_alpha", 8))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
