"""Tokenizers of the two kinds people bring, trained on a task's own texts, and tiny models that use them."""

import re
from functools import cache
from itertools import islice
from random import Random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import patchpoint as pp
from families import tiny
from patchpoint.models.families import adapter_for
from patchpoint.tasks.catalogue import task
from patchpoint.tasks.lexicon import Fillers, Lexicon
from words import word_tokenizer

N_TEXTS = 400
VOCABULARY = 8000


class EveryWordFits(Lexicon):
    """The lexicon of a tokenizer that has one token for every word."""

    def fitting(self, what, words, places, *, n_tokens=1):
        kept = tuple(dict.fromkeys(words))
        self.fillers.append(Fillers(what, len(kept), len(kept), n_tokens or 1, ()))
        return kept


def texts_of(name, settings):
    """Whole texts of a task with their answers, as a corpus."""
    found = task(name, **dict(settings))
    own = found.corruptions[0] if found.corruptions else "resampled"
    cases = found.cases(EveryWordFits(word_tokenizer()), own, Random(1))
    for case in islice(cases, N_TEXTS):
        for values in (case.clean, case.corrupt):
            text = case.template.fill(values).text
            yield text + case.correct
            yield text + case.incorrect


def gpt2_like(corpus):
    """Byte-level BPE that splits off nothing by itself and adds no BOS token, as GPT-2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    # GPT-2 writes most years as two tokens of two digits: training must not see them whole.
    halves = (re.sub(r"(\d\d)(\d\d)", r"\1x\2", text) for text in corpus)
    backend.train_from_iterator(halves, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def llama_like(corpus):
    """Pieces with a space mark in front, every digit by itself, bytes for the unknown, and BOS added, as Llama 2's."""
    space = "\u2581"
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(space, "merged_with_next"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


KINDS = {"gpt2": gpt2_like, "llama": llama_like}


@cache
def model_for(kind, name, settings=()):
    """A tiny random model of a family with a tokenizer of its kind that was trained on a task."""
    tokenizer = KINDS[kind](texts_of(name, settings))
    lengths = {"gpt2": {"n_positions": 256}, "llama": {"max_position_embeddings": 256}}
    hf = tiny(kind, vocab_size=len(tokenizer), **lengths[kind])
    return pp.Model(hf, tokenizer, adapter_for(hf), f"tiny-{kind}")
