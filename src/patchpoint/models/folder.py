"""Models from a local folder in the Hugging Face layout: config.json, safetensors, tokenizer files."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from patchpoint.errors import ModelError

from .reading import check_family, read_any_tokenizer, read_causal_lm, reading

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")


def read_weights(
    folder: Path, dtype: torch.dtype, *, allow_pickle: bool, device_map: object = None
) -> PreTrainedModel:
    """The model of a folder, on the CPU or where `device_map` says, from safetensors.

    Pickled weights, which can run code when they are read, are used only with `allow_pickle`, and only where
    the folder has no safetensors. Raises ModelError, UnsupportedFamily.
    """
    what = f"model folder {str(folder)!r}"
    check_family(read_config(folder), what)
    pickled = check_weight_files(folder, allow_pickle=allow_pickle)
    return read_causal_lm(what, folder, dtype, use_safetensors=not pickled, device_map=device_map)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; transformers would invent an empty one where its files are missing."""
    if not holds(folder, TOKENIZERS):
        raise ModelError(
            f"no tokenizer in {str(folder)!r}; add its files (tokenizer.json) or give tokenizer="
        )
    return read_any_tokenizer(f"model folder {str(folder)!r}", folder)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"no config.json in {str(folder)!r}; give a folder saved by save_pretrained")
    with reading(f"{str(path)!r}"):
        config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ModelError(f"{str(path)!r} holds a {type(config).__name__}, not an object; replace it")
    return config


def check_weight_files(folder: Path, *, allow_pickle: bool) -> bool:
    """Refuse a folder without weights that may be read; True where these are pickled."""
    if holds(folder, ("*.safetensors",)):
        check_index(folder)
        return False
    if not holds(folder, PICKLES):
        raise ModelError(
            f"no weights (*.safetensors) in {str(folder)!r}; give a folder saved by save_pretrained"
        )
    if not allow_pickle:
        raise ModelError(
            f"{str(folder)!r} has only pickled weights (.bin, .pt), which can run code when read; convert "
            "them to safetensors, or give allow_pickle=True if you trust their source"
        )
    return True


def check_index(folder: Path) -> None:
    """Refuse a list of shards that leads to pickled or missing files."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return
    with reading(f"{str(path)!r}"):
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    for shard in shards:
        if not shard.endswith(".safetensors") or not (folder / shard).is_file():
            raise ModelError(f"{str(path)!r} lists {shard!r}, which is no safetensors file there; add it")


def holds(folder: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a folder has a file of any of these patterns."""
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))
