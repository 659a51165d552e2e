"""What was written for version 0.1 works, or is told in one line what to change."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from helpers.extras import need
from helpers.recipe_runs import LIBRARIES

from envs.language import RENAMED_METHODS, LanguageEnv, LanguageEnvError, check_language_env
from llm_agents.cli.collect import CollectSettings
from llm_agents.registry import recipes
from llm_agents.registry.environments import make_environment
from llm_agents.registry.recipes import find_recipe, load_config
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.moved import GONE, MOVED, RENAMED
from llm_agents.runtime.settings import Settings, kinds_of, union_of

ROOT = Path(__file__).parents[3]
VERSION_0_1 = "3679018"
PLUG_IN = ROOT / "tests" / "fixtures" / "plugin_v0_1"  # examples/taxi/ of that version, as it was
TAXI = "llm_agents_taxi:LanguageTaxi-v0"
NO_HISTORY = "the history of the repository does not reach back to version 0.1"


# An environment of a plug-in


@pytest.fixture
def old_taxi(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plug-in is there to import, and afterwards as if it had never been."""
    monkeypatch.syspath_prepend(PLUG_IN)
    _forget_taxi()
    yield
    _forget_taxi()


def _forget_taxi() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "llm_agents_taxi"]:
        del sys.modules[name]
    gymnasium.registry.pop("LanguageTaxi-v0", None)


def test_an_old_environment_is_told_its_methods_new_name_and_works_with_it(old_taxi, monkeypatch):
    with pytest.raises(LanguageEnvError) as error:
        make_environment(TAXI)
    assert str(error.value) == "TaxiTask.startable is called is_valid_start now: rename the method"
    task = import_module("llm_agents_taxi.task").TaxiTask
    monkeypatch.setattr(task, "is_valid_start", task.startable)
    monkeypatch.delattr(task, "startable")
    check_language_env(make_environment(TAXI))


@pytest.mark.parametrize(("old", "new"), RENAMED_METHODS.items())
def test_each_renamed_method_is_named_in_one_line(old, new, old_taxi):
    env, task = import_module("llm_agents_taxi.env"), import_module("llm_agents_taxi.task").TaxiTask
    only = type("Task", (task,), {old: task.startable})
    del task.startable
    with pytest.raises(LanguageEnvError, match=f"^Task.{old} is called {new} now: [^\n]*$"):
        LanguageEnv(env.TaxiInNumbers(), only())


# Imports


def old_imports() -> Iterator[tuple[str, str]]:
    """Statements that worked, and what the message about each must say."""
    for module, now in MOVED.items():
        yield f"import {module}", f"is {now} now: change the import"
    yield from ((f"import {module}", f"is gone: {why}") for module, why in GONE.items())
    for module, names in RENAMED.items():
        yield from ((f"from {module} import {name}", f"is {now} now: change") for name, now in names.items())


@pytest.mark.parametrize(("statement", "said"), old_imports())
def test_an_old_import_is_told_where_it_is_now(statement, said, tmp_path, monkeypatch):
    """In a recipe, and in the module of an environment."""
    (tmp_path / "written_for_0_1.py").write_text(f"{statement}\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("old", "written_for_0_1:Recipe", recipes.GROUP)
    monkeypatch.setattr(recipes, "entry_points", lambda group: [entry])
    for find in (lambda: find_recipe("old"), lambda: make_environment("written_for_0_1:Old-v0")):
        with pytest.raises(UserError) as error:
            find()
        assert said in str(error.value)
        assert "\n" not in str(error.value)


def test_what_such_messages_name_is_there():
    for old, now in MOVED.items():
        assert find_spec(old) is None
        for module in re.findall(r"(?:llm_agents|kalm|envs)\.[\w.]+", now):
            assert find_spec(module) is not None
    for old, names in RENAMED.items():
        for name, now in names.items():
            there = getattr(import_module(now), name, None) if "." in now else getattr(import_module(old), now, None)
            assert there is not None, f"{name} of {old}"


def test_every_module_of_version_0_1_is_there_or_accounted_for():
    files = _git("ls-tree", "-r", "--name-only", VERSION_0_1, "envs", "kalm", "llm_agents").split()
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files if ".py" in name}
    modules = {name for name in modules if not name.endswith("py.typed")}
    gone = {name for name in modules if not _exists(name)}
    assert gone == gone & {*MOVED, *GONE}


def _exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


# Configs


CONFIGS = {"collect": {"environment": "envs:ClevrRobot-v0", "num_episodes": 8, "out": "here"}}  # what must be given
CANDIDATES = (0.25, 1, 2, 3, 7, [0.25, 0.5], {"batch_size": 16}, ["lm_greedy"], 64, {"rollout": 0.4})


# What a key does nothing without.
BESIDE: dict[str, dict[str, Any]] = {"associative_recall_fraction": {"num_associative_recall_steps": 5}}


def config_of(name: str) -> type[Settings]:
    if name == "collect":
        return CollectSettings
    need(*LIBRARIES[name])
    return find_recipe(name).Config


def sections(config_cls: type[Settings], *path: Any) -> Iterator[tuple[tuple, type[Settings]]]:
    """All settings of a config, each with how data reach it: keys, and the kind of a section that has several."""
    yield path, config_cls
    for key, field in config_cls.model_fields.items():
        one_of = union_of(field)
        for kind, settings in kinds_of(field).items():
            yield from sections(settings, *path, (key, {} if one_of is None else {one_of.tag: kind}))


def nested(path: tuple, data: dict[str, Any]) -> dict[str, Any]:
    for key, tag in reversed(path):
        data = {key: tag | data}
    return data


def old_keys(config_cls: type[Settings]) -> Iterator[tuple[tuple, str, str]]:
    for path, settings in sections(config_cls):
        yield from ((path, old, new) for old, new in settings.renamed.items())


def with_new_key(config_cls: type[Settings], base: dict[str, Any], path: tuple, new: str) -> tuple[Any, Settings]:
    """A value of the key that changes the config, and the config."""
    beside = BESIDE.get(new, {})
    untouched = parse_config(config_cls, base | nested(path, beside), "here")
    for value in CANDIDATES:
        data: Any = value
        for key in reversed(new.split(".")):
            data = {key: data}
        try:
            config = parse_config(config_cls, base | nested(path, beside | data), "here")
        except UserError:
            continue
        if config != untouched:
            return value, config
    raise AssertionError(f"no candidate is a value of {new}: add one")


@pytest.mark.parametrize("name", [*LIBRARIES, "collect"])
def test_an_old_key_is_taken_with_a_warning_for_the_new_one(name, capsys):
    config_cls, base = config_of(name), CONFIGS.get(name, {})
    for path, old, new in old_keys(config_cls):
        value, expected = with_new_key(config_cls, base, path, new)
        place, beside = "".join(f"{key}." for key, _ in path), BESIDE.get(new, {})
        capsys.readouterr()
        assert parse_config(config_cls, base | nested(path, beside | {old: value}), "here") == expected
        assert capsys.readouterr().err == f"llm-agents: here: {place}{old} is called {place}{new} now\n"
        option = [f"--{place}{old}", str(value)]
        assert parse_config(config_cls, base | nested(path, beside), "here", option) == expected
        assert capsys.readouterr().err == f"llm-agents: --{place}{old} is called --{place}{new} now\n"


@pytest.mark.parametrize("name", [*LIBRARIES, "collect"])
def test_an_old_value_is_taken_with_a_warning_for_the_new_one(name, capsys):
    config_cls, base = config_of(name), CONFIGS.get(name, {})
    for path, settings in sections(config_cls):
        for key, values in settings.renamed_values.items():
            for old, new in values.items():
                expected = parse_config(config_cls, base | nested(path, {key: [new]}), "here")
                assert parse_config(config_cls, base | nested(path, {key: [old]}), "here") == expected
                (line,) = capsys.readouterr().err.splitlines()
                assert line.endswith(f"{old!r} is called {new!r} now")


def test_a_key_under_both_names_is_refused():
    need("minigrid")
    for ppo in ({"num_starts": 3, "num_groups": 3}, {"clip_range": 0.1, "policy_loss": {"clip_range": 0.1}}):
        with pytest.raises(UserError, match="leave out one of the two"):
            parse_config(config_of("ppo"), {"ppo": ppo}, "here")


def test_every_old_key_of_the_changelog_is_taken():
    """Beside what is no key: a recipe's name, and options of commands."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    table = text.partition("#### Configs and the command line")[2].partition("####")[0]
    named = {
        word.rpartition(".")[2]
        for row in table.splitlines()
        if row.startswith("| `") or row.startswith("| section")
        for word in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    known = {"recipe: sb3", "configs/sb3/", "evaluate --wordings", "kalm_finetune"}
    for name in [*LIBRARIES, "collect"]:
        config_cls = config_of(name)
        known |= {old for _, old, _ in old_keys(config_cls)}
        known |= {v for _, s in sections(config_cls) for values in s.renamed_values.values() for v in values}
    assert named <= known


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(NO_HISTORY)
    return done.stdout


def test_every_config_of_version_0_1_still_loads(tmp_path, capsys):
    names = _git("ls-tree", "-r", "--name-only", VERSION_0_1, "configs").split()
    assert len(names) > 10
    for name in names:
        path = tmp_path / Path(name).name
        path.write_text(_git("show", f"{VERSION_0_1}:{name}"), encoding="utf-8")
        if name.startswith("configs/collect/"):
            parse_config(CollectSettings, recipes.read_yaml(path), name)
        else:
            need("stable_baselines3")
            load_config(path)
    warnings = capsys.readouterr().err
    assert "random_share is called data.random_fraction now" in warnings
    assert "recipe 'sb3' is called 'symbolic_ppo' now" in warnings
