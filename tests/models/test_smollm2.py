"""The model that is always there, as its wheel gives it."""

import json
from pathlib import Path

import pytest
import torch

from patchpoint.errors import ModelError
from patchpoint.models.catalog import CATALOG
from patchpoint.models.load import load
from patchpoint.models.offsets import decoded_offsets
from patchpoint.models.tokens import answer_ids, common_leading, encode, span_of


@pytest.fixture(scope="module")
def smollm2():
    try:
        return load("smollm2-135m", device="cpu")
    except ModelError as error:
        pytest.skip(f"SmolLM2-135M cannot be had here: {error}")


@pytest.mark.real
def test_smollm2_knows_where_the_eiffel_tower_is(smollm2):
    text = "The Eiffel Tower is in the city of"
    encoded = encode(smollm2.tokenizer, text)
    assert encoded.ids == (504, 414, 46682, 18669, 314, 281, 260, 2240, 282)
    assert not encoded.bos
    assert span_of(encoded, text, "The Eiffel Tower") == (0, 4)
    with torch.no_grad():
        p = smollm2.hf(torch.tensor([encoded.ids])).logits[0, -1].softmax(-1)
    (paris,) = answer_ids(smollm2.tokenizer, text, "Paris").ids
    assert int(p.argmax()) == paris
    assert float(p[paris]) == pytest.approx(0.6562, abs=1e-4)
    known = CATALOG["smollm2-135m"]
    sizes = (smollm2.n_layers, smollm2.n_heads, smollm2.d_model, smollm2.max_tokens)
    assert sizes == (known.n_layers, known.n_heads, known.d_model, known.max_tokens)
    assert sum(parameter.numel() for parameter in smollm2.hf.parameters()) == known.parameters


@pytest.mark.real
def test_smollm2_digits_share_their_space(smollm2):
    five, six = (answer_ids(smollm2.tokenizer, "1 2 3 4", digit).ids for digit in (" 5", " 6"))
    assert len(five) == len(six) == 2
    assert common_leading(five, six) == five[:1]


@pytest.mark.real
def test_r45_every_subject_of_known_1000_is_found(smollm2):
    path = Path(__file__).parents[2].parent / "shared" / "data" / "known_1000.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    tokenizer = smollm2.tokenizer
    for fact in json.loads(path.read_text(encoding="utf-8")):
        encoded = encode(tokenizer, fact["prompt"])
        start, stop = span_of(encoded, fact["prompt"], fact["subject"])
        assert fact["subject"] in tokenizer.decode(encoded.ids[start:stop])
        assert fact["subject"] not in tokenizer.decode(encoded.ids[start + 1 : stop])
        assert decoded_offsets(tokenizer, encoded.ids, fact["prompt"]) == encoded.offsets
        assert answer_ids(tokenizer, fact["prompt"], fact["attribute"]).ids
