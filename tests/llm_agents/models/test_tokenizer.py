"""Vocabularies of words and of phrases."""

import re

import pytest
from helpers.extras import need
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_agents.models.tokenizer import train_tokenizer, words_of
from llm_agents.registry.environments import make_environment

SIZE = 512
WHITE_SPACE = "".join(
    c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f"
)  # as Unicode has it
GOAL_WORDS = ["go", "to", "a", "the", "red", "blue", "ball", "box"]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """What is seen on the way of random actions."""
    need("minigrid")
    env, texts = make_environment("envs:BabyAIText-v0", level="BabyAI-GoToLocal-v0"), []
    env.action_space.seed(0)
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        for _ in range(20):
            texts.append(observation["text"])
            observation, *_ = env.step(env.action_space.sample())
    return texts


@pytest.fixture(scope="module", params=["words", "phrases"])
def tokenizer(request, corpus):
    return train_tokenizer(corpus, SIZE, GOAL_WORDS if request.param == "phrases" else None)


@settings(max_examples=300)
@given(st.lists(st.text() | st.sampled_from(["<pad>", "<s>", "</s>"])).map("".join))
@example("stop here </s> and now <pad> on <s>")
@example("\r")
def test_any_text_can_be_written(tokenizer, text):
    """But for space before it: a word at the beginning is the same as within. And no text can end what is written."""
    token_ids = tokenizer(text)["input_ids"]
    written = tokenizer.decode(token_ids, skip_special_tokens=True)
    kept = text.lstrip(WHITE_SPACE)
    assert written in (text, f" {text}", f" {kept}" if kept else "")
    assert not set(token_ids) & set(tokenizer.all_special_ids)


def test_the_vocabulary_is_learned_from_the_corpus(tokenizer, corpus):
    assert tokenizer.vocab_size <= SIZE
    assert len(tokenizer(corpus[0])["input_ids"]) < len(train_tokenizer([], SIZE)(corpus[0])["input_ids"]) / 2


def test_phrases_are_shorter_and_leave_the_words_of_goals_alone(corpus):
    words, phrases = train_tokenizer(corpus, SIZE), train_tokenizer(corpus, SIZE, GOAL_WORDS)
    assert len(phrases("\n".join(corpus))["input_ids"]) < 0.6 * len(words("\n".join(corpus))["input_ids"])
    for text in corpus:
        spans = phrases(text, return_offsets_mapping=True)["offset_mapping"]
        for word in re.finditer(rf"\b({'|'.join(GOAL_WORDS)})\b", text):
            across = [span for span in spans if span[0] < word.end() and word.start() < span[1]]
            assert all(word.start() - 1 <= begin and end <= word.end() for begin, end in across)
    assert phrases.tokenize("You see a red box")[-2:] == phrases.tokenize("red box")


def test_a_part_of_a_list_has_the_same_tokens_wherever_it_stands(corpus):
    phrases = train_tokenizer(corpus, SIZE, GOAL_WORDS)
    for text in corpus:
        first, *others = text.split(", ")
        tokens = phrases.tokenize(first)
        for part in others:
            listed = phrases.tokenize(f"{first}, {part}")
            assert listed[: len(tokens)] == tokens
            assert phrases.convert_tokens_to_string(listed[len(tokens) :]) == f", {part}"


def test_words_of_texts_are_each_named_once():
    assert words_of(["go to the red ball", "go, then: stop!"]) == ["ball", "go", "red", "stop", "the", "then", "to"]
