"""What every set of prompts promises, read off its tokens."""

from patchpoint.models.tokens import encode


def hold(model, prompts):
    """Every promise that a set of prompts makes."""
    assert len({len(ids) for ids in (*prompts.clean.tokens, *prompts.corrupt.tokens)}) == 1
    assert len(set(prompts.clean_texts)) == len(prompts)
    for n, (clean, corrupt) in enumerate(zip(prompts.clean.tokens, prompts.corrupt.tokens, strict=True)):
        differ = {p for p, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if a != b}
        said = {p for role in prompts.corrupted_roles[n] for p in range(*prompts.spans[n][role])}
        assert differ
        assert differ <= said
        assert prompts.spans[n]["changed"] == (min(differ), max(differ) + 1)
        for text, ids in ((prompts.clean_texts[n], clean), (prompts.corrupt_texts[n], corrupt)):
            written = encode(model.tokenizer, text).ids
            assert ids[: len(written)] == written
        for answer, token, tokens in (
            (prompts.correct_texts[n], prompts.correct_tokens[n], prompts.correct_sets[n]),
            (prompts.incorrect_texts[n], prompts.incorrect_tokens[n], prompts.incorrect_sets[n]),
        ):
            whole = encode(model.tokenizer, prompts.clean_texts[n] + answer).ids
            assert whole[: len(clean) + 1] == (*clean, token)
            assert tokens[0] == token
        assert not set(prompts.correct_sets[n]) & set(prompts.incorrect_sets[n])
