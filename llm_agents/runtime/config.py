"""Read configs: a YAML file, overridden on the command line, checked by pydantic; every mistake is named at once.

No library was found that does what users of a config meet here: a YAML file as the base, dotted overrides onto sections
that are one of several kinds, all mistakes in one line each with the nearest right key, and fast enough to answer a
mistake before torch is imported. tyro and jsonargparse make kinds subcommands or class paths and exit at the first
mistake; pydantic-settings knows no near misses. What they have in common with us, typed fields, is pydantic's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from envs.goals import unknown
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import OneOf, Settings, field_at, keys_of, kind_of, kinds_of, union_of, value_at

S = TypeVar("S", bound=Settings)


def parse_config(config_cls: type[S], data: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> S:
    """Turn plain data into a config.

    Args:
        config_cls: the kind of config.
        data: nested fields.
        where: where the data come from, for messages.
        overrides: as on the command line, ``["--policy.num_steps", "100"]`` or ``["--policy.num_steps=100"]``.

    Raises:
        UserError: something in the data or in the overrides is unknown, missing or ill-typed; every such mistake is
            named, in a line of its own.
    """
    merged = _modernise(config_cls, dict(data), where)
    given: dict[str, Any] = {}
    for key, value in read_overrides(overrides).items():
        given |= _flat_override(config_cls, key, value)
    for key in given:
        if key not in keys_of(config_cls):
            raise UserError(unknown("option", f"--{key}", [f"--{known}" for known in keys_of(config_cls)]))
    for key, value in given.items():
        merged = _switch_kind(config_cls, merged, key, value, given)
        merged = _with(merged, key.split("."), value)
    try:
        return config_cls.model_validate(merged)
    except pydantic.ValidationError as error:
        raise UserError(_explain(error, config_cls, merged, where, given)) from None


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Read values by dotted key, each as YAML.

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


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"config {path} is not a mapping of keys to values")
    return data


# What a user gave


def _flat_override(config_cls: type[Settings], key: str, value: Any) -> dict[str, Any]:
    """An override under the key's present name, with a warning for one of the version before."""
    path, new, settings = key.split("."), [], [config_cls]
    values: Mapping[str, str] = {}
    for part in path:
        for name in next((s.renamed[part] for s in settings if part in s.renamed), part).split("."):
            values = next((s.renamed_values[name] for s in settings if name in s.renamed_values), {})
            new.append(name)
            settings = [k for s in settings if name in s.model_fields for k in kinds_of(s.model_fields[name]).values()]
    if path != new:
        _warn(f"--{key} is called --{'.'.join(new)} now")
    return {".".join(new): _modern_value(values, value, f"--{key}")}


def _modernise(config_cls: type[Settings], data: Any, where: str, prefix: str = "") -> Any:
    """The data under the present names of keys and values, with a warning for each of the version before.

    Raises:
        UserError: a key stands there under both names.
    """
    if not isinstance(data, Mapping):
        return data
    modern: dict[str, Any] = {}
    into_sections: dict[str, Any] = {}
    for key, value in data.items():
        name = config_cls.renamed.get(key, key)
        if name != key:
            if name in data or value_at(data, name.split(".")) is not None:
                raise UserError(f"{where}: {prefix}{key} is called {prefix}{name} now: leave out one of the two")
            _warn(f"{where}: {prefix}{key} is called {prefix}{name} now")
        if "." in name:
            into_sections[name] = value
            continue
        value = _modern_value(config_cls.renamed_values.get(name, {}), value, f"{where}: {prefix}{name}")
        field = config_cls.model_fields.get(name)
        settings = kind_of(field, value if isinstance(value, Mapping) else {}) if field is not None else None
        modern[name] = value if settings is None else _modernise(settings, value, where, f"{prefix}{name}.")
    for name, value in into_sections.items():
        modern = _with(modern, name.split("."), value)
    return modern


def _modern_value(names: Mapping[str, str], value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_modern_value(names, entry, where) for entry in value]
    if isinstance(value, str) and value in names:
        _warn(f"{where}: {value!r} is called {names[value]!r} now")
        return names[value]
    return value


def _switch_kind(
    config_cls: type[Settings], data: dict[str, Any], key: str, value: Any, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Where an override chooses another kind of section than the file, leave out what only the file's kind has."""
    *path, tag = key.split(".")
    field = field_at(config_cls, path)
    one_of = None if field is None else union_of(field)
    section = value_at(data, path)
    if one_of is None or one_of.tag != tag or not isinstance(section, Mapping):
        return data
    before, after = one_of.kind(section), one_of.kind({tag: value})
    if before == after or after not in one_of.kinds:
        return data
    fields = one_of.kinds[after].model_fields
    gone = [name for name in section if name not in fields and name in one_of.kinds[before].model_fields]
    if gone:
        _warn(f"--{key} {value} leaves out what belongs to {before}: {', '.join(gone)}")
    kept = {name: entry for name, entry in section.items() if name not in gone}
    return _with(data, path, kept)


def _with(data: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of nested data with one value changed."""
    first, *rest = path
    data = data if isinstance(data, Mapping) else {}
    return {**data, first: _with(data.get(first), rest, value) if rest else value}


def _warn(text: str) -> None:
    print(f"llm-agents: {text}", file=sys.stderr)


# Mistakes, each in one line


def _explain(
    error: pydantic.ValidationError,
    config_cls: type[Settings],
    data: Mapping[str, Any],
    where: str,
    given: Mapping[str, Any],
) -> str:
    lines = [_explain_one(dict(entry), config_cls, data, where, given) for entry in error.errors()]
    return "\n".join(dict.fromkeys(lines))


def _explain_one(
    found: dict[str, Any], config_cls: type[Settings], data: Mapping[str, Any], where: str, given: Mapping[str, Any]
) -> str:
    path, one_of, kind = _without_kinds(config_cls, found["loc"])
    key = ".".join(path)
    place = f"--{key}" if key in given else f"{where}: {key}"
    if found["type"] == "extra_forbidden":
        return f"{place if key in given else where}: {_explain_extra(config_cls, data, path, one_of, kind)}"
    if found["type"] == "missing":
        return f"{place} is missing"
    if found["type"] == "value_error":
        return f"{place if key else where}: {found['ctx']['error']}"
    field = field_at(config_cls, path)
    tagged = None if field is None else union_of(field)
    if found["type"] == "union_tag_invalid" and tagged is not None:
        tag = f"{key}.{tagged.tag}"
        place = f"--{tag}" if tag in given else f"{where}: {tag}"
        return f"{place} is {found['ctx']['tag']!r}, expected {' or '.join(map(repr, tagged.kinds))}"
    return f"{place} is {found['input']!r}, expected {found['msg'].removeprefix('Input should be ')}"


def _explain_extra(
    config_cls: type[Settings], data: Mapping[str, Any], path: list[str], one_of: OneOf | None, kind: str
) -> str:
    """Say of an unknown key which kinds of section have it, or which key is near."""
    *section, name = path
    if one_of is not None:
        having = [other for other, settings in one_of.kinds.items() if name in settings.model_fields]
        if having:
            tag = ".".join([*section, one_of.tag])
            return f"{'.'.join(path)} does nothing with {tag}: {kind}, it counts with {' or '.join(having)}"
    known = [key for key in keys_of(config_cls) if not _inert(config_cls, data, key)]
    elsewhere = [key for key in known if key.split(".")[-1] == name]
    return unknown("key", ".".join(path), elsewhere[:1] or known)


def _inert(config_cls: type[Settings], data: Mapping[str, Any], key: str) -> bool:
    """Whether only kinds of section that were not chosen have a key."""
    path = key.split(".")
    for depth in range(1, len(path)):
        field = field_at(config_cls, path[:depth])
        settings = None if field is None else kind_of(field, value_at(data, path[:depth]))
        if settings is not None and path[depth] not in settings.model_fields:
            return True
    return False


def _without_kinds(config_cls: type[Settings], loc: Sequence[Any]) -> tuple[list[str], OneOf | None, str]:
    """The path of a mistake without the names of kinds that pydantic puts into it; and the last such kind."""
    path: list[str] = []
    one_of: OneOf | None = None
    kind = ""
    settings: type[Settings] | None = config_cls
    rest = list(loc)
    while rest:
        part = rest.pop(0)
        path.append(str(part))
        field = None if settings is None else settings.model_fields.get(part)
        if field is None:
            settings = None
            continue
        here = union_of(field)
        if here is not None and rest:
            one_of, kind = here, str(rest.pop(0))
            settings = here.kinds.get(kind)
        else:
            settings = kinds_of(field).get("")
    return path, one_of, kind
