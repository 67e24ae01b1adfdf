"""Models from the Hugging Face hub, as a local snapshot folder."""

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.utils import tqdm

from patchpoint.errors import ModelError

from .catalog import CATALOG
from .folder import holds
from .reading import in_one_line, quiet

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
READ = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
SKIPPED = ["*/*", "consolidated*", "original*"]
"""Folders of other formats, and second copies of the weights."""


class NoBar(tqdm):  # type: ignore[misc]
    """A progress bar that shows nothing."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **{**options, "disable": True})


def snapshot(name: str, notify: Callable[[str], None], *, allow_pickle: bool) -> Path:
    """The folder of a hub model's files, from the local hub cache when offline.

    Pickled weights are fetched only with `allow_pickle` and where there are no safetensors. Raises
    ModelError.
    """
    notify(f"looking for {name} on the Hugging Face hub")
    folder = fetch(name, READ)
    if allow_pickle and not holds(folder, ("*.safetensors",)):
        folder = fetch(name, [*READ, "*.bin"])
    return folder


def fetch(name: str, patterns: list[str]) -> Path:
    """One download of the hub's client, its many errors as one."""
    try:
        with quiet():
            found = snapshot_download(
                name, allow_patterns=patterns, ignore_patterns=SKIPPED, tqdm_class=NoBar
            )
    except Exception as error:  # the client raises its own, httpx's and the system's
        raise unknown(name, in_one_line(error)) from error
    return Path(found)


def unknown(name: str, said: str) -> ModelError:
    """The error for a name that leads nowhere, with near known names."""
    near = get_close_matches(name, CATALOG, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(CATALOG)}"
    return ModelError(
        f"no model {name!r}: no known name ({hint}), no folder or .gguf file, and not on the Hugging Face "
        f"hub or in its cache ({said})"
    )
