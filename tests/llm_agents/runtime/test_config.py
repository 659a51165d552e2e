from pathlib import Path

import pytest
from helpers.toy_recipe import PolicySettings, ToySettings

from llm_agents.registry.recipes import load_config
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import differences, flatten


def parse(data: dict, *overrides: str) -> ToySettings:
    return parse_config(ToySettings, data, "tiny.yaml", overrides)


def test_a_file_names_the_recipe_and_overrides_win(toy_config: Path):
    name, config = load_config(toy_config, ["--policy.num_steps", "100", "--note=from the command line"])
    assert name == "toy"
    assert config == ToySettings(policy=PolicySettings(num_steps=100), note="from the command line")


def test_an_override_leaves_the_rest_of_its_section():
    config = parse({"policy": {"num_steps": 7}}, "--policy.learning-rate", "1e-4")
    assert config.policy == PolicySettings(num_steps=7, learning_rate=1e-4)


def test_values_may_start_with_a_minus_sign():
    assert parse({}, "--seed", "-3").seed == -3


@pytest.mark.parametrize(
    ("data", "overrides", "message"),
    [
        ({"polcy": {}}, [], "tiny.yaml: unknown key 'polcy': did you mean policy"),
        ({"policy": {"num_stepz": 3}}, [], "tiny.yaml: unknown key 'policy.num_stepz': did you mean policy.num_steps"),
        ({}, ["--policy.num_stepz", "3"], "unknown option '--policy.num_stepz': did you mean --policy.num_steps"),
        ({}, ["--num_steps", "3"], "unknown option '--num_steps': did you mean --policy.num_steps"),
        ({"policy": {"num_steps": "ten"}}, [], "tiny.yaml: policy.num_steps is 'ten', expected a valid integer"),
        ({}, ["--policy.num_steps", "ten"], "--policy.num_steps is 'ten', expected a valid integer"),
        ({}, ["--policy.num_steps", "0"], "--policy.num_steps is 0, expected greater than or equal to 1"),
        ({"policy": 3}, [], "tiny.yaml: policy is 3, expected a valid dictionary or instance of PolicySettings"),
        ({"seed": "a", "note": 1}, [], "tiny.yaml: seed is 'a', expected a valid integer"),
        ({"seed": "a", "note": 1}, [], "tiny.yaml: note is 1, expected a valid string"),
        ({}, ["--seed"], "--seed needs a value"),
        ({}, ["--seed", "--note", "a"], "--seed needs a value"),
        ({}, ["--note", "[1"], "the value of --note is not YAML"),
        ({}, ["seed", "1"], "unexpected 'seed'"),
    ],
)
def test_what_is_wrong_is_named_in_full(data: dict, overrides: list[str], message: str):
    with pytest.raises(UserError) as raised:
        parse(data, *overrides)
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == max(1, len(data) if not overrides else 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: [", "is not YAML"),
        ("- a list", "is not a mapping"),
        ("seed: 1", "names no recipe"),
        ("recipe: toi", "unknown recipe 'toi': did you mean toy?"),
    ],
)
def test_a_bad_file_is_named(toy_config: Path, text: str, message: str):
    toy_config.write_text(text)
    with pytest.raises(UserError, match=r"toi|tiny\.yaml") as raised:
        load_config(toy_config)
    assert message in str(raised.value)


def test_a_missing_file_is_named(toy_config: Path):
    with pytest.raises(UserError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_config(toy_config.with_name("nowhere.yaml"))


def test_flat_views():
    config = ToySettings(policy=PolicySettings(num_steps=3))
    assert flatten(config, only_changed=True) == {"policy.num_steps": 3}
    assert differences(ToySettings(), config) == {"policy.num_steps": (10, 3)}
