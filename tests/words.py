"""A tokenizer and loaded models for tests that need no real text: one word, one token."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import patchpoint as pp
from families import VOCAB, tiny
from patchpoint.models.families import adapter_for


def word_tokenizer():
    """Words w0, w1, ... w96 as ids 0 ... 96, no special tokens."""
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def tiny_model(family, **config):
    hf = tiny(family, **config)
    return pp.Model(hf, word_tokenizer(), adapter_for(hf), f"tiny-{family}")
