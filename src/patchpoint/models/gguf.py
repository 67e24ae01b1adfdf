"""Models from one GGUF file, dequantised by transformers."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from patchpoint.errors import ModelError

from .reading import check_family, read_any_tokenizer, read_causal_lm, reading

MAGIC = b"GGUF"


def read_weights(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a GGUF file as ordinary weights on the CPU; about 15 s for 135M parameters.

    Raises ModelError, UnsupportedFamily.
    """
    what = f"GGUF file {str(path)!r}"
    check_magic(path)
    with without_bars():
        with reading(what):
            config, _ = PreTrainedConfig.get_config_dict(path.parent, gguf_file=path.name)
        check_family(config, what)
        return as_plain(read_causal_lm(what, path.parent, dtype, gguf_file=path.name))


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer inside a GGUF file."""
    check_magic(path)
    with without_bars():
        return read_any_tokenizer(f"GGUF file {str(path)!r}", path.parent, gguf_file=path.name)


def check_magic(path: Path) -> None:
    """Refuse a file that does not begin as GGUF files do."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error.strerror}; give a readable GGUF file") from error
    if magic != MAGIC:
        raise ModelError(f"{str(path)!r} is no GGUF file (it begins with {magic!r}); download it again")


def as_plain(hf: PreTrainedModel) -> PreTrainedModel:
    """Drop the traces of quantisation: the weights are dense now, yet saving refuses while these stay."""
    hf.hf_quantizer = None
    hf.is_quantized = False
    if hasattr(hf.config, "quantization_config"):
        del hf.config.quantization_config
    return hf


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the dequantisation's progress bar, which goes to stderr past every setting of transformers."""
    with redirect_stderr(StringIO()):
        yield
