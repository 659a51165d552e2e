"""Vocabularies for models that are trained from scratch: byte-level BPE over words or over phrases."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PUNCTUATION = r"[,.;:](?=\s)"  # not within numbers


def train_tokenizer(
    corpus: Sequence[str], vocab_size: int, apart: Sequence[str] | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al., 2016): it can write any text, the frequent in single tokens.

    Args:
        corpus: texts; a repeated one counts as often as it is repeated.
        vocab_size: the maximum number of tokens.
        apart: let tokens span words, except these words, the ends of lines, and a punctuation mark together with what
            comes before it: where a part of a list ends, its tokens do. None to keep tokens within words.
    """
    tokenizer = Tokenizer(models.BPE())
    if apart is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        # A text begins with one space, as any word within it does.
        tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(right=False), normalizers.Prepend(" ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_boundaries(apart)), "isolated"),
                pre_tokenizers.Split(Regex(PUNCTUATION), "merged_with_next"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # otherwise an instruction that quotes one would be read as it
    )


def words_of(texts: Sequence[str]) -> list[str]:
    """Return the different words of texts, sorted."""
    return sorted({word for text in texts for word in re.findall(r"\w+", text)})


def _boundaries(apart: Sequence[str]) -> str:
    """Return a pattern that matches the words with the space before them, and the ends of lines."""
    words = "|".join(map(re.escape, apart))
    return rf"\s?\b(?:{words})\b|\n" if words else r"\n"
