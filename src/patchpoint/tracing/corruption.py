"""Corruptions of causal tracing, and how they are written.

Noise is one word, `s3`, `0.1`, `u0.2`, `m`, `t3`, `replace:s3` or `shuffle` (see `GRAMMAR`); in Python it may also be
an array, or one of the corruptors here. A Corruptor says what is drawn, a Corruption is one draw.
"""

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .additive import Gaussian as Gaussian
from .additive import Given as Given
from .additive import Multivariate as Multivariate
from .additive import Scaled as Scaled
from .additive import Student as Student
from .additive import Uniform as Uniform
from .draw import GRAMMAR as GRAMMAR
from .draw import Corruption as Corruption
from .draw import Corruptor as Corruptor
from .draw import check_number, not_understood
from .replacing import Noise
from .replacing import Replaced as Replaced
from .replacing import Shuffled as Shuffled
from .replacing import Twin as Twin

NoiseLike = str | float | np.ndarray | Tensor | Corruptor

SHUFFLE, REPLACE = "shuffle", "replace:"
WORDS: dict[str, Callable[[], Noise]] = {"m": Multivariate}
LEVELS: dict[str, Callable[[float], Noise]] = {"s": Scaled, "u": Uniform, "t": Student, "": Gaussian}
"""By the letter in front of a number."""
LEVEL = re.compile(r"([sut]?)((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)", re.ASCII)


def corruptor_of(noise: NoiseLike) -> Corruptor:
    """The corruptor that a text, a standard deviation or an array stands for; a corruptor as it is.

    Raises InvalidArgument for anything else.
    """
    if isinstance(noise, str):
        return _read(noise.strip())
    if isinstance(noise, np.ndarray | Tensor):
        return Given(_as_tensor(noise))
    if isinstance(noise, int | float | np.integer | np.floating) and not isinstance(noise, bool):
        check_number("", noise, 0)
        return Gaussian(float(noise))
    if isinstance(noise, Corruptor) and not isinstance(noise, type):
        return noise
    raise not_understood(noise)


def _read(text: str) -> Corruptor:
    if text == SHUFFLE:
        return Shuffled()
    noise = text.removeprefix(REPLACE)
    if noise in WORDS:
        read = WORDS[noise]()
    elif level := LEVEL.fullmatch(noise):
        read = LEVELS[level[1]](float(level[2]))
    else:
        raise not_understood(text)
    return read if noise == text else Replaced(read)


def _as_tensor(noise: np.ndarray | Tensor) -> Tensor:
    """A copy, which the caller's array cannot change."""
    try:
        return noise.clone() if isinstance(noise, Tensor) else torch.from_numpy(np.array(noise))
    except TypeError:
        raise not_understood(f"an array of {noise.dtype}") from None
