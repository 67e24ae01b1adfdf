"""What decides whether a verdict still holds."""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import patchpoint.doctor
from patchpoint.engine import Model

from .verdict import About

LIBRARIES = ("torch", "transformers")
EXAMINED = ("models", "engine", "doctor")
"""Packages whose code a verdict is about."""
PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "bf16"}
ROUNDING = {"tf32": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative error of a number rounded to these formats."""


def about(model: Model, fingerprint: str | None = None) -> About:
    """What a verdict on this model is about; `fingerprint` where it has been read already (1 GB/s)."""
    return About(
        model_fingerprint=model.fingerprint if fingerprint is None else fingerprint,
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type,
        products=products(model.device.type),
        versions={"patchpoint": own_version(), **{library: version(library) for library in LIBRARIES}},
    )


def resolution(about: About) -> float:
    """Relative distance of neighbouring numbers in what the model computes with."""
    eps = torch.finfo(getattr(torch, about.dtype)).eps
    return max(eps, ROUNDING.get(about.products, 0.0)) if about.dtype == "float32" else eps


def products(device: str) -> str:
    """How float32 matrix products are made on a kind of device: ieee, tf32 or bf16."""
    backend = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    # Older versions of torch have one setting for all devices.
    own = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    asked = own or PRECISIONS[torch.get_float32_matmul_precision()]
    return asked if asked in ROUNDING else "ieee"


@cache
def own_version() -> str:
    """The version of patchpoint and a hash of the code that a verdict is about."""
    try:
        number = version("patchpoint")
    except PackageNotFoundError:
        number = "unknown"
    root = Path(patchpoint.doctor.__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for package in EXAMINED for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{number}+{digest.hexdigest()[:12]}"
