"""Changing the files of a saved model, and reading how it is refused."""

import json

import pytest
from safetensors.torch import load_file, save_file

from patchpoint.models.load import load


def refusal(kind, *args, **options):
    with pytest.raises(kind) as caught:
        load(*args, device=options.pop("device", "cpu"), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
