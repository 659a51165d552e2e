"""Read configs: a YAML file, overridden on the command line, checked by pydantic; every mistake is named at once.

No library was found that does what users of a config meet here: a YAML file as the base, dotted overrides onto sections
that are one of several kinds, all mistakes in one line each with the nearest right key, and fast enough to answer a
mistake before torch is imported. tyro and jsonargparse make kinds subcommands or class paths and exit at the first
mistake; pydantic-settings knows no near misses. What they have in common with us, typed fields, is pydantic's.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin

import pydantic
import yaml
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from envs.goals import unknown
from llm_agents.runtime.errors import UserError


class Settings(pydantic.BaseModel):
    """Base of every config and of its sections: immutable, and no unknown key goes unnoticed.

    The docstring under a field is its documentation; ``llm-agents train CONFIG --help`` shows it.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    renamed: ClassVar[Mapping[str, str]] = {}
    """New names of keys by the names they had in the version before, which are accepted with a warning."""
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """The same for values, by key."""


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class OneOf:
    """Mark a section as one of several kinds, each with fields of its own, told apart by a field they share.

    ::

        policy: Annotated[PolicySettings, OneOf("algorithm", {"bc": BCSettings, "iql": IQLSettings}, "bc")]

    A field that only another kind has is an unknown key, and the message says where it would count.

    Attributes:
        tag: the field that names the kind.
        kinds: the settings of each kind.
        default: the kind where the tag is left out.
        otherwise: the kind of every name that is not in ``kinds``; None to refuse such a name.
    """

    tag: str
    kinds: Mapping[str, type[Settings]]
    default: str
    otherwise: str | None = None

    def kind(self, value: Any) -> str:
        """Name the kind of plain data or of settings."""
        name = value.get(self.tag, self.default) if isinstance(value, Mapping) else getattr(value, self.tag, "")
        return self.otherwise if self.otherwise is not None and name not in self.kinds else str(name)

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> CoreSchema:
        choices = {name: handler.generate_schema(settings) for name, settings in self.kinds.items()}
        return core_schema.tagged_union_schema(choices, self.kind)


class FieldHelp(NamedTuple):
    """One field of a config, for a person: its dotted key, the type and value in words, and what it means."""

    key: str
    kind: str
    value: Any
    description: str


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
        if key not in _keys(config_cls):
            raise UserError(unknown("option", f"--{key}", [f"--{known}" for known in _keys(config_cls)]))
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


def flatten(config: Settings, only_changed: bool = False) -> dict[str, Any]:
    """Return the fields by dotted key; with ``only_changed``, those that differ from their default."""
    default = _defaults(type(config)) if only_changed else None
    return dict(_leaves(config, config.model_dump(mode="json"), default))


def differences(config: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two configs differ, with both values; None where one has no such field."""
    ours, theirs = flatten(config), flatten(other)
    keys = dict.fromkeys([*ours, *theirs])
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def field_help(config: Settings, prefix: str = "") -> Iterator[FieldHelp]:
    """Describe every field of a config, sections included, in their order."""
    data = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Settings):
            yield from field_help(value, f"{prefix}{name}.")
        else:
            description = " ".join((field.description or "").split())
            yield FieldHelp(prefix + name, _type_in_words(field.annotation), data[name], description)


# Sections and their kinds


def _kinds(field: FieldInfo) -> dict[str, type[Settings]]:
    """The settings that a field may hold, by the name of their kind; none for a plain value."""
    one_of = _one_of(field)
    if one_of is not None:
        return dict(one_of.kinds)
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return {"": candidate}
    return {}


def _one_of(field: FieldInfo) -> OneOf | None:
    return next((entry for entry in field.metadata if isinstance(entry, OneOf)), None)


def _kind_of(field: FieldInfo, data: Any) -> type[Settings] | None:
    """The settings that data of a field are for."""
    one_of = _one_of(field)
    return _kinds(field).get(one_of.kind(data or {}) if one_of else "")


def _keys(config_cls: type[Settings], prefix: str = "") -> list[str]:
    """The dotted keys of all fields, those of sections and of all their kinds included."""
    keys: dict[str, None] = {}
    for name, field in config_cls.model_fields.items():
        keys[prefix + name] = None
        for settings in _kinds(field).values():
            keys |= dict.fromkeys(_keys(settings, f"{prefix}{name}."))
    return list(keys)


def _defaults(config_cls: type[Settings]) -> dict[str, Any]:
    """The default of each field that has one."""
    fields = config_cls.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}


def _leaves(
    config: Settings, data: Mapping[str, Any], defaults: Mapping[str, Any] | None, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """The fields by dotted key, or those that differ from the defaults."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        default = None if defaults is None else defaults.get(name)
        if isinstance(value, Settings):
            inner: Mapping[str, Any] | None = None
            if defaults is not None and default is not None:
                inner = dict(default) if type(default) is type(value) else _defaults(type(value))
            yield from _leaves(value, data[name], inner, f"{prefix}{name}.")
            if defaults is not None and default is not None and type(default) is not type(value):
                one_of = _one_of(type(config).model_fields[name])
                if one_of is not None:  # the kind itself is what was changed
                    yield f"{prefix}{name}.{one_of.tag}", getattr(value, one_of.tag)
        elif defaults is None or name not in defaults or value != default:
            yield prefix + name, data[name]


# What a user gave


def _flat_override(config_cls: type[Settings], key: str, value: Any) -> dict[str, Any]:
    """An override under the key's present name, with a warning for one of the version before."""
    path, new, settings = key.split("."), [], [config_cls]
    for part in path:
        renamed = next((s.renamed[part] for s in settings if part in s.renamed), part)
        values = next((s.renamed_values[renamed] for s in settings if renamed in s.renamed_values), {})
        new.append(renamed)
        settings = [k for s in settings if renamed in s.model_fields for k in _kinds(s.model_fields[renamed]).values()]
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
    for key, value in data.items():
        name = config_cls.renamed.get(key, key)
        if name != key:
            if name in data:
                raise UserError(f"{where}: {prefix}{key} is called {prefix}{name} now: leave out one of the two")
            _warn(f"{where}: {prefix}{key} is called {prefix}{name} now")
        value = _modern_value(config_cls.renamed_values.get(name, {}), value, f"{where}: {prefix}{name}")
        field = config_cls.model_fields.get(name)
        settings = _kind_of(field, value if isinstance(value, Mapping) else {}) if field is not None else None
        modern[name] = value if settings is None else _modernise(settings, value, where, f"{prefix}{name}.")
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
    field = _field(config_cls, path)
    one_of = None if field is None else _one_of(field)
    section = _at(data, path)
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


def _field(config_cls: type[Settings], path: Sequence[str]) -> FieldInfo | None:
    """The field at a path of sections."""
    field = None
    settings = [config_cls]
    for part in path:
        field = next((s.model_fields[part] for s in settings if part in s.model_fields), None)
        settings = [] if field is None else list(_kinds(field).values())
    return field


def _at(data: Any, path: Sequence[str]) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


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
    field = _field(config_cls, path)
    tagged = None if field is None else _one_of(field)
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
    known = [key for key in _keys(config_cls) if not _inert(config_cls, data, key)]
    elsewhere = [key for key in known if key.split(".")[-1] == name]
    return unknown("key", ".".join(path), elsewhere[:1] or known)


def _inert(config_cls: type[Settings], data: Mapping[str, Any], key: str) -> bool:
    """Whether only kinds of section that were not chosen have a key."""
    path = key.split(".")
    for depth in range(1, len(path)):
        field = _field(config_cls, path[:depth])
        settings = None if field is None else _kind_of(field, _at(data, path[:depth]))
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
        here = _one_of(field)
        if here is not None and rest:
            one_of, kind = here, str(rest.pop(0))
            settings = here.kinds.get(kind)
        else:
            settings = _kinds(field).get("")
    return path, one_of, kind


def _type_in_words(annotation: Any) -> str:
    """A type as a person reads it, such as ``int``, ``a or b`` or ``list of float``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (types.UnionType,) or str(origin) == "typing.Union":
        return " or ".join("null" if a is type(None) else _type_in_words(a) for a in arguments)
    if origin in (tuple, list, Sequence):
        return f"list of {_type_in_words(arguments[0])}"
    if origin is dict:
        return "mapping"
    return getattr(annotation, "__name__", str(annotation))
