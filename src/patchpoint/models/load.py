"""Loading: a known name, a local folder, a GGUF file, a Hugging Face id, or a model already loaded."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar, overload

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from patchpoint.errors import InvalidArgument, ModelError, UnknownName

from . import folder, gguf
from .catalog import CATALOG
from .checks import check_model, check_tokenizer
from .families import adapter_for
from .hub import HUB_ID, snapshot, unknown
from .model import LoadedModel
from .pull import pull
from .reading import in_one_line

log = logging.getLogger(__name__)

M = TypeVar("M", bound=LoadedModel)
DeviceMap: TypeAlias = str | Mapping[str, str | int]
Source: TypeAlias = str | os.PathLike[str] | PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES: dict[str, Callable[[], int]] = {
    "cpu": lambda: 1,
    "cuda": torch.cuda.device_count,
    "mps": lambda: int(torch.backends.mps.is_available()),
}
"""How many devices of a kind this machine offers."""


@overload
def load(
    source: Source,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    notify: Callable[[str], None] = log.info,
) -> LoadedModel: ...
@overload
def load(
    source: Source,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    notify: Callable[[str], None] = log.info,
    cls: type[M],
) -> M: ...
def load(
    source: Source,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    notify: Callable[[str], None] = log.info,
    cls: type[LoadedModel] = LoadedModel,
) -> LoadedModel:
    """A model ready for experiments, in eval mode, as `cls`.

    `source`: a known name (`smollm2-135m`, fetched on first use), a local folder, a `.gguf` file, a Hugging
    Face id, or a loaded PreTrainedModel, which needs `tokenizer` and is left exactly as it is.
    `dtype`: float32 (default), bfloat16 or float16. `device`: cpu, cuda, cuda:1, mps; default cuda where
    there is one, else cpu. `device_map`: instead of one device, where parts of the model lie (`auto`, or module
    names to devices, `cpu` or `disk`), as accelerate understands it; computed is on the embedding's device,
    where each block's weights come when their turn is. `allow_pickle`: read pickled weights where there are no
    safetensors.
    `notify` receives a line per slow step. Code that ships with a model is never run.
    Raises ModelError, UnsupportedFamily, UnknownName, InvalidArgument.
    """
    if isinstance(source, PreTrainedModel):
        if device_map is not None:
            raise InvalidArgument("a loaded model stays where it is; leave device_map out")
        hf = as_it_is(source, device=device, dtype=dtype)
        if tokenizer is None:
            raise InvalidArgument("a loaded model comes without its tokenizer; give tokenizer= as well")
        name = str(hf.name_or_path or type(hf).__name__)
    else:
        if device is not None and device_map is not None:
            raise InvalidArgument("give device or device_map, not both")
        place, number = torch_device(device), torch_dtype(dtype)
        name = source_name(source)
        files = find(name, notify, allow_pickle=allow_pickle)
        hf = read_weights(files, number, allow_pickle=allow_pickle, device_map=device_map)
        tokenizer = tokenizer or read_tokenizer(files)
        if device_map is None:
            put_on(hf, place)
        elif not isinstance(device_map, str):
            check_places(device_map, hf)
    adapter = adapter_for(hf)
    check_model(hf)
    return cls(hf, check_tokenizer(tokenizer, hf), adapter, name)


def source_name(source: object) -> str:
    """A source as text; InvalidArgument for anything but text or a path."""
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        got = "an empty string" if source == "" else type(source).__name__
        raise InvalidArgument(
            f"a model is a name, folder, .gguf file, Hugging Face id or PreTrainedModel, got {got}; give one"
        )
    return str(os.fspath(source))


def find(name: str, notify: Callable[[str], None], *, allow_pickle: bool) -> Path:
    """The folder or GGUF file of a source; known names come first, `./name` is always a path."""
    if name in CATALOG:
        return pull(name, notify)
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf"):
        return path
    if path.is_file():
        raise ModelError(f"{name!r} is a {path.suffix or 'plain'} file; give its folder, or a .gguf file")
    if not HUB_ID.fullmatch(name) or path.suffix.lower() == ".gguf":
        raise unknown(name, "it cannot be an id there")
    return snapshot(name, notify, allow_pickle=allow_pickle)


def read_weights(
    files: Path, dtype: torch.dtype, *, allow_pickle: bool, device_map: DeviceMap | None
) -> PreTrainedModel:
    """The model of a folder or GGUF file, on the CPU or where `device_map` says."""
    if files.is_file():
        if device_map is not None:
            raise InvalidArgument("a .gguf file is read as a whole; leave device_map out, or give a folder")
        return gguf.read_weights(files, dtype)
    return folder.read_weights(files, dtype, allow_pickle=allow_pickle, device_map=device_map)


def read_tokenizer(files: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or GGUF file."""
    return gguf.read_tokenizer(files) if files.is_file() else folder.read_tokenizer(files)


def put_on(hf: PreTrainedModel, place: torch.device) -> None:
    """Move a model read from files; ModelError where the device cannot hold it."""
    try:
        hf.to(place)
    except RuntimeError as error:
        raise ModelError(
            f"cannot put the model on {place}: {in_one_line(error)}; give device='cpu' or a smaller dtype"
        ) from error


def check_places(device_map: Mapping[str, str | int], hf: PreTrainedModel) -> None:
    """Refuse a map that names what the model does not have, which transformers would leave unsaid."""
    known = {name for name, _ in (*hf.named_modules(), *hf.named_parameters())}
    if unknown := [name for name in device_map if name not in known]:
        raise UnknownName("module in device_map", unknown[0], known)


def as_it_is(
    hf: PreTrainedModel, *, device: str | torch.device | None, dtype: str | torch.dtype | None
) -> PreTrainedModel:
    """The caller's model, refused where another device or dtype is asked for, since moving is theirs."""
    if dtype is not None and torch_dtype(dtype) != hf.dtype:
        raise InvalidArgument(
            f"the model is {hf.dtype}, got dtype={dtype}; convert it first or leave dtype out"
        )
    if device is not None:
        asked = torch_device(device)
        if asked.type != hf.device.type or asked.index not in (None, hf.device.index):
            raise InvalidArgument(
                f"the model is on {hf.device}, got device={device}; move it or leave device out"
            )
    return hf


def torch_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """A number format by name; None: float32."""
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UnknownName("dtype", name, DTYPES)
    return DTYPES[name]


def torch_device(device: str | torch.device | None) -> torch.device:
    """A device of this machine; None: the first CUDA device, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = str(device).partition(":")
    if kind not in DEVICES or not (number.isdecimal() or str(device) == kind):
        raise UnknownName("device", str(device), DEVICES)
    n = DEVICES[kind]()
    if int(number or 0) >= n:
        raise InvalidArgument(
            f"device {str(device)!r} is not here ({n} of {kind}); give another, such as 'cpu'"
        )
    return torch.device(str(device))
