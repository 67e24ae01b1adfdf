"""Small tokenizers of each kind people bring, made on the spot."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import BatchEncoding

CORPUS = [
    "The Eiffel Tower is in the city of Paris",
    "the other mother of Beyoncé is in the café of Zürich",
    "John gave a drink to Mary 1 2 3 4 5 10",
    "naïve 東京 の人 🙂 fiancée",
]


def byte_level(*, end: str = "<|endoftext|>", wrap: str | None = None, n: int = 330, bos: bool = True):
    """GPT-2's kind: byte-level BPE with a BOS token that it does not add by itself.

    `wrap`: a template such as "$A <|endoftext|>" for those that add something.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[end],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    if wrap:
        backend.post_processor = processors.TemplateProcessing(single=wrap, special_tokens=[(end, 0)])
    specials = {"bos_token": end, "eos_token": end} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


def metaspace(*, wrap: str = "<s> $A"):
    """Llama 2's kind: sentencepiece pieces with a space put in front, byte fallback, and BOS added."""
    pieces = sorted({character for line in CORPUS[:3] for character in line if character != " "} - {"é"})
    words = ["▁The", "▁the", "▁is", "▁in", "▁of", "▁Paris", "Tower", "▁city", "▁Bey", "on"]
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *pieces]
    merges = []
    for word in words:
        made = word[0]
        for character in word[1:]:
            merges.append((made, character))
            made += character
            if made not in vocab:
                vocab.append(made)
    backend = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(vocab)},
            list(dict.fromkeys(merges)),
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=wrap, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


class ZeroWidth(PreTrainedTokenizerFast):
    """A fast tokenizer that reports an empty range for every token."""

    def __call__(self, *args, **options):
        encoding = super().__call__(*args, **options)
        if "offset_mapping" not in encoding:
            return encoding
        empty = [(start, start) for start, _ in encoding["offset_mapping"]]
        return BatchEncoding({**encoding, "offset_mapping": empty})


def zero_width():
    whole = byte_level()
    return ZeroWidth(tokenizer_object=whole.backend_tokenizer, bos_token=whole.bos_token)


class SlowPairs(PreTrainedTokenizer):
    """A slow tokenizer, so without offsets, whose tokens are one or two bytes and cut through characters."""

    def __init__(self, **options):
        self.known = [f"{byte:02x}" for byte in range(256)]
        self.known += [a + b for a in self.known[:256] for b in self.known[:256]]
        self.number = {token: i for i, token in enumerate(self.known)}
        super().__init__(special_tokens_pattern="none", **options)

    @property
    def vocab_size(self):
        return len(self.known)

    def get_vocab(self):
        return self.number | self._added_tokens_encoder

    def _tokenize(self, text, **_):
        raw = text.encode().hex()
        return [raw[i : i + 4] for i in range(0, len(raw), 4)]

    def _convert_token_to_id(self, token):
        return self.number[token]

    def _convert_id_to_token(self, index):
        return self.known[index]

    def convert_tokens_to_string(self, tokens):
        return bytes.fromhex("".join(tokens)).decode(errors="replace")


class SlowPieces(PreTrainedTokenizer):
    """A slow sentencepiece-like tokenizer: two characters a piece, a space in front."""

    def __init__(self, **options):
        self.known = ["<unk>", "<s>"]
        super().__init__(special_tokens_pattern="bos", bos_token="<s>", unk_token="<unk>", **options)

    @property
    def vocab_size(self):
        return 100_000

    def get_vocab(self):
        return {piece: i for i, piece in enumerate(self.known)} | self._added_tokens_encoder

    def _tokenize(self, text, **_):
        spaced = "▁" + text.replace(" ", "▁")
        return [spaced[i : i + 2] for i in range(0, len(spaced), 2)]

    def _convert_token_to_id(self, token):
        if token not in self.known:
            self.known.append(token)
        return self.known.index(token)

    def _convert_id_to_token(self, index):
        return self.known[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens).replace("▁", " ").removeprefix(" ")


KINDS = {
    "byte-level": byte_level,
    "metaspace": metaspace,
    "zero-width": zero_width,
    "slow-pairs": SlowPairs,
    "slow-pieces": SlowPieces,
}
