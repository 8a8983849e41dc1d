"""What the tensors of a PEFT adapter's file are: factors, modules saved whole, biases, tokens.

Every tensor must be one of these and be declared by the configuration, and what the configuration
declares must be there: else the file is not whole, or is not of this configuration.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.adapters.factors import FactorShape
from weft.adapters.peft_config import LoraConfigFile
from weft.adapters.tensor_file import TensorFile
from weft.artifacts.tensors import Stored
from weft.errors import DataError

PREFIX = "base_model.model."
TOKENS = ".token_adapter.trainable_tokens_delta"
# What a raw state_dict has and PEFT's own files lack: the adapter's name in the model.
_ADAPTER_NAME = re.compile(
    r"(\.(?:lora_[AB]|modules_to_save|trainable_tokens_delta))\.default(?=\.|$)"
)
_INSIDE = ".base_layer"  # a targeted module's own weight and bias, for PEFT
_EMBEDDINGS = (  # saved without being declared where a vocabulary was resized
    "embed_tokens",
    "lm_head",
    "wte",
    "word_embeddings",
    "tok_embeddings",
    "embed_in",
    "embed_out",
    "shared",
)


@dataclass(frozen=True)
class Contents:
    """Names are without PEFT's prefix; `places` maps them to the names in the file."""

    shapes: Mapping[str, FactorShape]  # by module
    saved: Sequence[str]  # full names of tensors in the model
    tokens: Mapping[str, tuple[int, ...]]  # embedding -> token of each row
    places: Mapping[str, str]

    def half(self, module: str, side: str) -> str:
        """The name in the file of a module's A or B."""
        return self.places[f"{module}.lora_{side}.weight"]


def sort_tensors(
    file: TensorFile,
    config: LoraConfigFile,
    exact: Mapping[str, float],
    backbone: Mapping[str, Stored],
) -> Contents:
    """Sort a file's tensors and hold them against the configuration.

    `exact` has scalings that α/r does not give exactly, `backbone` the backbone's tensors where
    they are known. Raises `DataError`, naming the module or tensor.
    """
    if not file.tensors:
        raise DataError(
            f"{file.path} holds no tensors, so the adapter changes nothing (DeepSpeed ZeRO-3 and "
            "FSDP leave such files when weights are saved without being gathered)"
        )
    names: dict[str, str] = {}
    for key in file.tensors:
        plain = _ADAPTER_NAME.sub(r"\1", key.removeprefix(PREFIX))
        if plain in names:
            raise DataError(f"{file.path} has '{plain}' twice, as '{names[plain]}' and as '{key}'")
        names[plain] = key
    factors = {name for name in names if ".lora_" in name}
    rows = {name for name in names if name.endswith(TOKENS)}
    places: dict[str, str] = {name: names[name] for name in factors | rows}
    saved: list[str] = []
    for name, key in names.items():
        model_name = _saved_name(name, names)
        if name in factors or name in rows or model_name is None:
            continue
        if model_name in places:
            raise DataError(
                f"{file.path} has '{model_name}' twice, as '{places[model_name]}' and as '{key}'"
            )
        places[model_name] = key
        saved.append(model_name)
    stored = {name: file.tensors[names[name]] for name in names}
    _check_numbers(file.path, stored, factors | rows)
    shapes = _shapes(file.path, stored, config, exact)
    _check_targets(file.path, config, shapes, backbone)
    _check_saved(file.path, config, saved, names, shapes, backbone)
    tokens = _tokens(file.path, config, {name: stored[name] for name in rows})
    return Contents(shapes, saved, tokens, places)


def _check_numbers(path: Path, stored: Mapping[str, Stored], trained: Collection[str]) -> None:
    """A `DataError` for codes in the place of numbers, and for what PEFT leaves of two ways to
    train one embedding."""
    for name, one in stored.items():
        matrix = name in trained or (name.endswith(".weight") and len(one.shape) == 2)
        if matrix and not one.dtype.is_floating_point:
            kind = str(one.dtype).removeprefix("torch.")
            raise DataError(f"{path}: the tensor '{name}' is {kind}, no numbers of trained weights")
        if ".token_adapter." in name and name not in trained:
            raise DataError(
                f"{path} has the tensor '{name}': single tokens (trainable_token_indices) and a "
                "module saved whole (modules_to_save) of one tied embedding are not supported together"
            )


def _saved_name(name: str, names: Collection[str]) -> str | None:
    """The tensor's name in the model; None for what PEFT leaves beside it and does not use."""
    module, _, last = name.rpartition(".")
    for wrapper in (".modules_to_save", ".original_module"):
        if module.endswith(wrapper):
            plain = f"{module.removesuffix(wrapper)}.{last}"
            return plain if wrapper == ".modules_to_save" and plain not in names else None
    return f"{module.removesuffix(_INSIDE)}.{last}" if module.endswith(_INSIDE) else name


def _shapes(
    path: Path,
    places: Mapping[str, Stored],
    config: LoraConfigFile,
    exact: Mapping[str, float],
) -> dict[str, FactorShape]:
    """Module -> shape. Every LoRA tensor of the file must be one half of a fitting pair."""
    shapes: dict[str, FactorShape] = {}
    for name in places:
        module, mark, part = name.partition(".lora_")
        if not mark:
            continue
        if part not in ("A.weight", "B.weight"):
            raise DataError(f"{path}: the tensor '{name}' is not of plain LoRA on a linear")
        a, b = (places.get(f"{module}.lora_{half}.weight") for half in "AB")
        if a is None or b is None:
            there, missing = ("lora_B", "lora_A") if a is None else ("lora_A", "lora_B")
            raise DataError(f"{path}: '{module}' has {there} but no {missing}")
        if module not in shapes:
            shapes[module] = _shape(path, module, a.shape, b.shape, config, exact)
    if not shapes:
        raise DataError(
            f"{path} holds no LoRA factors (lora_A, lora_B), so nothing of it is merged"
        )
    return shapes


def _shape(
    path: Path,
    module: str,
    a: tuple[int, ...],
    b: tuple[int, ...],
    config: LoraConfigFile,
    exact: Mapping[str, float],
) -> FactorShape:
    if len(a) > 2 and len(b) > 2:
        raise DataError(f"{path}: '{module}' is a convolution; only LoRA on linears is supported")
    if 0 in (*a, *b) or len(a) < 2 or len(b) < 2:
        raise DataError(
            f"{path}: the factors of '{module}' are empty or flat, {list(a)} and {list(b)} (rank 0): "
            "DeepSpeed ZeRO-3 and FSDP leave such when weights are saved without being gathered"
        )
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise DataError(f"{path}: the factors of '{module}', {list(a)} and {list(b)}, don't fit")
    rank, stated = a[0], config.rank(module)
    if rank != stated:
        raise DataError(
            f"{path}: the factors of '{module}' have rank {rank}, but {config.path.name} says "
            f"{stated} (r or rank_pattern)"
        )
    scaling = config.scaling(module, rank)
    value = exact.get(module, scaling)
    close = abs(value - scaling) <= 1e-12 * abs(scaling)
    return FactorShape(b[0], a[1], rank, value if close else scaling)


def _check_targets(
    path: Path, config: LoraConfigFile, shapes: Collection[str], backbone: Mapping[str, Stored]
) -> None:
    """Modules that have factors are declared, and declared ones have factors."""
    for module in shapes:
        if not config.declares(module):
            raise DataError(
                f"{path} has factors of '{module}', which {config.path.name} does not declare "
                "(target_modules, exclude_modules, layers_to_transform): PEFT would ignore them"
            )
    lost = _lost(config, shapes, backbone)
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise DataError(
            f"{path} has no factors of '{lost[0]}'{more}, which {config.path.name} declares "
            "(target_modules) and the backbone has: the file is not whole"
        )
    targets = config.entries.target_modules
    if not isinstance(targets, list):
        return
    ends = _all_ends(shapes)
    theirs = _all_ends([n.removesuffix(".weight") for n in backbone if n.endswith(".weight")])
    for target in targets:
        if target in ends or config.excludes(target) or (theirs and target not in theirs):
            continue
        raise DataError(
            f"{path} has no factors of '{target}', which {config.path.name} declares "
            "(target_modules): the file is not whole, or the backbone has no such module and "
            "the entry can be taken out"
        )


def _lost(
    config: LoraConfigFile, shapes: Collection[str], backbone: Mapping[str, Stored]
) -> list[str]:
    """Modules of the backbone that are declared, but have no factors.

    Looked for in the layers up to the last that has some: checkpoints hold layers (of the next
    tokens' prediction) and experts that transformers does not load as modules.
    """
    linears = {
        name.removesuffix(".weight")
        for name, stored in backbone.items()
        if name.endswith(".weight") and len(stored.shape) == 2
    }
    last = max((layer for layer in map(_layer_of, shapes) if layer is not None), default=-1)
    if not linears.issuperset(shapes):  # other names than the checkpoint's: nothing to compare
        return []
    return sorted(
        module
        for module in linears.difference(shapes)
        if (layer := _layer_of(module)) is not None
        and layer <= last
        and ".experts." not in module
        and config.declares(module)
    )


def _layer_of(module: str) -> int | None:
    """The first number in a module's name."""
    return next((int(word) for word in module.split(".") if word.isdecimal()), None)


def _all_ends(modules: Collection[str]) -> set[str]:
    return {".".join(words[at:]) for words in _split(modules) for at in range(len(words))}


def _split(names: Collection[str]) -> list[list[str]]:
    return [name.split(".") for name in names]


def _check_saved(
    path: Path,
    config: LoraConfigFile,
    saved: Sequence[str],
    names: Collection[str],
    shapes: Collection[str],
    backbone: Mapping[str, Stored],
) -> None:
    """Every tensor that is no factor is declared, and what is declared is there."""
    header = config.header
    biases = 0
    for name in saved:
        module, _, last = name.rpartition(".")
        trained = header.bias == "all" or (header.bias == "lora_only" and module in shapes)
        if last == "bias" and trained:
            biases += 1
        # PEFT also saves the backbone's own weight of a targeted embedding or output layer.
        embedding = last == "weight" and module.rpartition(".")[2] in _EMBEDDINGS
        if header.saves(name) or (last == "bias" and trained) or embedding:
            continue
        raise DataError(
            f"{path} has the tensor '{name}', which {config.path.name} does not declare "
            "(modules_to_save, bias, trainable_token_indices)"
        )
    if header.bias != "none" and not biases and (not backbone or _has_biases(backbone)):
        raise DataError(
            f"{path} has no biases, but {config.path.name} says that they were trained "
            f"(bias: {header.bias}): the file is not whole, or the backbone has none and the "
            'entry can be "none"'
        )
    prefixes = {
        ".".join(words[:count]) for words in _split(saved) for count in range(1, len(words))
    }
    for end in header.modules_to_save or ():
        if end in config.optional_heads or any(one.endswith(end) for one in prefixes):
            continue
        raise DataError(
            f"{path} has no tensors of '{end}', which {config.path.name} declares "
            "(modules_to_save): the file is not whole, or the backbone has no such module and "
            "the entry can be taken out"
        )


def _has_biases(backbone: Mapping[str, Stored]) -> bool:
    return any(name.endswith(".bias") for name in backbone)


def _tokens(
    path: Path, config: LoraConfigFile, rows: Mapping[str, Stored]
) -> dict[str, tuple[int, ...]]:
    """Embedding -> the tokens of its rows, in the rows' order."""
    declared = dict(config.tokens)
    used: set[str] = set()
    tokens: dict[str, tuple[int, ...]] = {}
    for name, stored in rows.items():
        module = name.removesuffix(TOKENS)
        ends = [end for end in declared if module.endswith(end)]
        if not ends or (ends == [""] and tokens):
            raise DataError(
                f"{path} has trained rows of '{module}', but {config.path.name} does not name "
                "their tokens (trainable_token_indices)"
            )
        end = max(ends, key=len)
        indices = declared[end]
        used.add(end)
        if len(stored.shape) != 2 or stored.shape[0] != len(indices):
            raise DataError(
                f"{path}: '{name}' is {list(stored.shape)}, but {config.path.name} names "
                f"{len(indices)} tokens (trainable_token_indices)"
            )
        if len(set(indices)) < len(indices):
            twice = Counter(indices).most_common(1)[0][0]
            raise DataError(f"{config.path}: trainable_token_indices names token {twice} twice")
        tokens[module] = tuple(indices)
    for end in declared.keys() - used:  # of tied ends, PEFT saves the input's rows alone
        if declared[end] and not any(declared[end] == declared[one] for one in used):
            raise DataError(
                f"{path} has no rows of the tokens that {config.path.name} says were trained "
                f"(trainable_token_indices{f' of {end}' if end else ''})"
            )
    return tokens
