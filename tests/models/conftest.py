"""A tiny Llama, in memory and in a folder."""

import pytest

from families import tiny
from words import word_tokenizer


@pytest.fixture
def llama():
    return tiny("llama", tie_word_embeddings=False)


@pytest.fixture
def saved(tmp_path, llama):
    folder = tmp_path / "model"
    llama.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder
