"""Typed settings, and sections of them that are one of several kinds.

What a config is made of; `llm_agents.runtime.config` reads one.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema


class Settings(pydantic.BaseModel):
    """Base of every config and of its sections: immutable, and no unknown key goes unnoticed.

    The docstring under a field is its documentation; ``llm-agents train CONFIG --help`` shows it.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    renamed: ClassVar[Mapping[str, str]] = {}
    """New names of keys by the names they had in the version before, which are accepted with a warning. A key that is
    in a section of its own now has a dotted name."""
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """The same for values, by key."""


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


def flatten(config: Settings, only_changed: bool = False) -> dict[str, Any]:
    """Return the fields by dotted key; with ``only_changed``, those that differ from their default."""
    default = _defaults(type(config)) if only_changed else None
    return dict(_leaves(config, config.model_dump(mode="json"), default))


def differences(config: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two configs differ, with both values; None where one has no such field."""
    ours, theirs = flatten(config), flatten(other)
    keys = dict.fromkeys([*ours, *theirs])
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def field_help(config: Settings, prefix: str = "", union: OneOf | None = None) -> Iterator[FieldHelp]:
    """Describe every field of a config, sections included, in their order.

    Args:
        prefix: of the keys.
        union: of which kinds the config is one.
    """
    data = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Settings):
            yield from field_help(value, f"{prefix}{name}.", union_of(field))
            continue
        kind = _type_in_words(field.annotation)
        if union is not None and name == union.tag:
            kind = " or ".join(union.kinds)
        yield FieldHelp(prefix + name, kind, data[name], " ".join((field.description or "").split()))


# Sections and their kinds


def kinds_of(field: FieldInfo) -> dict[str, type[Settings]]:
    """The settings that a field may hold, by the name of their kind; none for a plain value."""
    one_of = union_of(field)
    if one_of is not None:
        return dict(one_of.kinds)
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return {"": candidate}
    return {}


def union_of(field: FieldInfo) -> OneOf | None:
    return next((entry for entry in field.metadata if isinstance(entry, OneOf)), None)


def kind_of(field: FieldInfo, data: Any) -> type[Settings] | None:
    """The settings that data of a field are for."""
    one_of = union_of(field)
    return kinds_of(field).get(one_of.kind(data or {}) if one_of else "")


def keys_of(config_cls: type[Settings], prefix: str = "") -> list[str]:
    """The dotted keys of all fields, those of sections and of all their kinds included."""
    keys: dict[str, None] = {}
    for name, field in config_cls.model_fields.items():
        keys[prefix + name] = None
        for settings in kinds_of(field).values():
            keys |= dict.fromkeys(keys_of(settings, f"{prefix}{name}."))
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
                one_of = union_of(type(config).model_fields[name])
                if one_of is not None:  # the kind itself is what was changed
                    yield f"{prefix}{name}.{one_of.tag}", getattr(value, one_of.tag)
        elif defaults is None or name not in defaults or value != default:
            yield prefix + name, data[name]


def field_at(config_cls: type[Settings], path: Sequence[str]) -> FieldInfo | None:
    """The field at a path of sections."""
    field = None
    settings = [config_cls]
    for part in path:
        field = next((s.model_fields[part] for s in settings if part in s.model_fields), None)
        settings = [] if field is None else list(kinds_of(field).values())
    return field


def value_at(data: Any, path: Sequence[str]) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


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
