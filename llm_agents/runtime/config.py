"""Configs: a YAML file, overridden on the command line, checked by pydantic; whatever is wrong is named in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
import yaml

from envs.goals import unknown
from llm_agents.runtime.errors import UserError


class Settings(pydantic.BaseModel):
    """Base of every config and of its sections: immutable, and no unknown key goes unnoticed.

    The docstring under a field is its documentation.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=Settings)


def parse_config(config_cls: type[S], data: dict[str, Any], where: str, overrides: Sequence[str] = ()) -> S:
    """Plain data as a config.

    Args:
        config_cls: the kind of config.
        data: nested fields.
        where: where the data come from, for messages.
        overrides: as on the command line, ``["--policy.num_steps", "100"]`` or ``["--policy.num_steps=100"]``.

    Raises:
        UserError: something in the data or in the overrides is unknown, missing or ill-typed.
    """
    given = read_overrides(overrides)
    for key, value in given.items():
        if key not in _keys(config_cls):
            raise UserError(unknown("option", f"--{key}", [f"--{known}" for known in _keys(config_cls)]))
        data = _with(data, key.split("."), value)
    try:
        return config_cls.model_validate(data)
    except pydantic.ValidationError as error:
        raise UserError(_explain(error, config_cls, where, given)) from None


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Values by dotted key, each read as YAML.

    Raises:
        UserError: an option without a value, a value without an option, or one that is not YAML.
    """
    values = {}
    tokens = iter(overrides)
    for token in tokens:
        if not token.startswith("--"):
            raise UserError(f"unexpected {token!r}: settings are changed with --section.field value")
        option, equals, text = token.partition("=")
        value = text if equals else next(tokens, None)
        if value is None or (not equals and value.startswith("--")):
            raise UserError(f"{option} needs a value: {option} VALUE")
        try:
            values[option[2:].replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"the value of {option} is not YAML: {value!r}") from None
    return values


def flatten(config: Settings, only_changed: bool = False) -> dict[str, Any]:
    """The fields by dotted key; with ``only_changed``, those that differ from their default."""
    return dict(_leaves(config.model_dump(mode="json", exclude_defaults=only_changed), type(config)))


def differences(config: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configs differ, with both values."""
    ours, theirs = flatten(config), flatten(other)
    keys = dict.fromkeys([*ours, *theirs])
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"config {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"config {path} is not a mapping of keys to values")
    return data


def _with(data: Any, path: list[str], value: Any) -> dict[str, Any]:
    """A copy of nested data with one value changed."""
    first, *rest = path
    data = data if isinstance(data, dict) else {}
    return {**data, first: _with(data.get(first), rest, value) if rest else value}


def _section(annotation: Any) -> type[pydantic.BaseModel] | None:
    """The model that a field holds, also where it may be None."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, pydantic.BaseModel):
            return candidate
    return None


def _keys(config_cls: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    """The dotted keys of all fields, sections included."""
    keys = []
    for name, field in config_cls.model_fields.items():
        keys.append(prefix + name)
        section = _section(field.annotation)
        keys += _keys(section, f"{prefix}{name}.") if section else []
    return keys


def _leaves(data: dict[str, Any], config_cls: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        section = _section(config_cls.model_fields[name].annotation)
        if section and isinstance(value, dict):
            yield from _leaves(value, section, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _explain(
    error: pydantic.ValidationError, config_cls: type[pydantic.BaseModel], where: str, given: dict[str, Any]
) -> str:
    """One line for the first thing that is wrong."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    place = f"--{key}" if key in given else f"{where}: {key}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: {unknown('key', key, _keys(config_cls))}{more}"
    if first["type"] == "missing":
        return f"{place} is missing{more}"
    if first["type"] == "value_error":
        return f"{place if key else where}: {first['ctx']['error']}{more}"
    expected = first["msg"].removeprefix("Input should be ")
    return f"{place} is {first['input']!r}, expected {expected}{more}"
