"""Reading model files through transformers: silently, completely, and with one kind of error."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from patchpoint.errors import ModelError, PatchpointError, UnsupportedFamily

from .families import FAMILIES

log = logging.getLogger(__name__)

LIBRARIES = ("transformers", "huggingface_hub")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Silence, and whatever other libraries raise about a file as one ModelError naming `what`."""
    try:
        with quiet():
            yield
    except PatchpointError:
        raise
    except Exception as error:  # loaders raise anything, down to bare Exception
        raise ModelError(f"cannot read {what}: {in_one_line(error)}; check or replace its files") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines below errors from the model libraries, for the time being."""
    loggers = [logging.getLogger(library) for library in LIBRARIES]
    levels = [logger.level for logger in loggers]
    hook = transformers_logging.set_tqdm_hook(no_bar)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        transformers_logging.set_tqdm_hook(hook)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def no_bar(factory: object, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A progress bar that shows nothing."""
    return transformers_logging.EmptyTqdm(*args, **options)


def in_one_line(error: Exception) -> str:
    """The beginning of another library's message, on one line, without its final stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 200 else text[:200] + "...").rstrip(".;")


def check_family(config: dict[str, Any], what: str) -> None:
    """Refuse an architecture without an adapter before its weights are read."""
    model_type = config.get("model_type")
    if not model_type or not isinstance(model_type, str):
        raise ModelError(f"the config of {what} names no model_type; give a folder saved by save_pretrained")
    if model_type not in FAMILIES:
        raise UnsupportedFamily(model_type, FAMILIES)


def read_causal_lm(what: str, folder: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """The causal language model of a folder, every weight of it from the files.

    transformers fills weights that the files lack with random numbers and only logs it: here a ModelError.
    """
    with reading(what):
        hf, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    if lacking := sorted(info["missing_keys"]):
        raise ModelError(f"{what} lacks weights of {type(hf).__name__}: {some(lacking)}; give all its files")
    if wrong := sorted(
        f"{name} {list(file)}, not {list(own)}" for name, file, own in info["mismatched_keys"]
    ):
        raise ModelError(
            f"{what} has weights of other shapes than its config: {some(wrong)}; mend config.json"
        )
    if spare := sorted(info["unexpected_keys"]):
        log.warning("%s: weights that %s does not use: %s", what, type(hf).__name__, some(spare))
    model: PreTrainedModel = hf
    return model


def read_any_tokenizer(what: str, folder: Path, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder."""
    with reading(f"the tokenizer of {what}"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, **options
        )
    return tokenizer


def some(names: list[str]) -> str:
    """The first three names and how many follow."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
