"""YAML files that people write: read strictly, with errors that name the line.

The configuration and the simulator's node descriptions are such files.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import yaml

from deviceplugin.errors import ConfigError, in_words

T = TypeVar("T")

MAX_BYTES = 1 << 20
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `(\$[^`]*)`)?$", re.DOTALL)
_PLACE = re.compile(r"(.*?)(?: - at `(.*)`)?$", re.DOTALL)
_NAMES = re.compile(r"`([^`]+)`")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
    "date": "a date",
    "datetime": "a date",
}
_EXPECTED_TEXT = re.compile(r"Expected `str(?: \| null)?`, got `(\w+)`")
_EXAMPLE = re.compile(r" as in (\S+?)\.?$")
"""How a field's description ends that tells by an example how to write it."""
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_TEXT = "tag:yaml.org,2002:str"

Steps = tuple[str | int, ...]
"""Where a value is: keys and positions, from the outside in."""


@dataclass(frozen=True)
class Document(Generic[T]):
    """A file's content, and where in the file it stands."""

    path: Path
    content: T
    root: yaml.Node

    def place(self, *where: str | int) -> str:
        """``file:line`` of a value, as in ``place("resources", 0, "name")``."""
        return f"{self.path}:{_line(self.root, where)}"


def read_yaml(path: Path, kind: type[T], *, what: str) -> Document[T]:
    """Read a file into ``kind``, a msgspec struct.

    Raises:
        ConfigError: it can't be read, or is not what was expected.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the {what} {path} can't be read: {in_words(error)}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"the {what} {path} is larger than {MAX_BYTES >> 20} MiB, so it is none")
    try:
        text = raw.decode("utf-8-sig")
        root = yaml.compose(text, Loader=StrictLoader)
        if root is None:
            raise ConfigError(f"the {what} {path} is empty")
        _examine(path, root)
        value = yaml.load(text, Loader=StrictLoader)  # noqa: S506  # a subclass of the safe loader
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the {what} {path} is not UTF-8: byte {error.start} is {raw[error.start]:#04x}"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{_yaml_place(path, text, error)}: not YAML: {_yaml_reason(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"the {what} {path} can't be understood: it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1: a {what} is a mapping of keys to values, and this is {_kind(value)}")
    try:
        content = msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(path, root, kind, str(error))) from error
    return Document(path, content, root)


class StrictLoader(yaml.SafeLoader):
    """YAML's safe loader without aliases, which can make a small file a huge one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it out
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
            # PyYAML fails in all of these ways on a value that does not fit its tag, as in '!!int five'.
            raise yaml.constructor.ConstructorError(
                None, None, f"a value does not fit its tag {node.tag.rpartition(':')[2]!r}", node.start_mark
            ) from error


def _explain(path: Path, root: yaml.Node, kind: type, message: str) -> str:
    """The message of msgspec with a line, and with the nearest known key for an unknown one."""
    if found := _UNKNOWN.match(message):
        key, where = found[1], _steps(found[2] or "$")
        known = _keys(kind, where)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{path}:{_line(root, (*where, key))}: unknown key {key!r}; {hint}"
    found = _PLACE.match(message)
    text, place = (found[1], found[2] or "$") if found else (message, "$")
    where = _steps(place)
    label = f"{place.removeprefix('$').lstrip('.')}: " if where else ""
    hint = _hint(kind, where, text)
    text = _NAMES.sub(lambda name: _in_words(name[1]), text)
    return f"{path}:{_line(root, where)}: {label}{text[:1].lower()}{text[1:]}{hint}"


def _hint(kind: Any, where: Steps, message: str) -> str:
    """What to do about a value that msgspec complains of, as far as that can be told."""
    if isinstance(info := _info(kind, where), msgspec.inspect.LiteralType):
        return f"; known here: {', '.join(map(str, info.values))}"
    field = _field(kind, where)
    if message.endswith("got `null`"):
        return "; give it a value" if field and field.required else "; leave it out or give it a value"
    if found := _EXPECTED_TEXT.match(message):
        if field and (example := _EXAMPLE.search(_description(field))):
            return f"; write it as in {example[1]!r}"
        return "; quotes make it text" if found[1] not in ("object", "array") else ""
    return ""


def _in_words(name: str) -> str:
    """A kind of value, or several, by the names that msgspec has for them."""
    kinds = name.split(" | ")
    if not all(one in _WORDS for one in kinds):
        return f"'{name}'"
    return " or ".join(_WORDS[one] for one in kinds if one != "null" or kinds == ["null"])


def _steps(place: str) -> Steps:
    """A place as msgspec writes it, ``$.resources[0].name``, taken apart as far as it can be followed."""
    steps: list[str | int] = []
    for step in _STEP.finditer(place.removeprefix("$")):
        if step[0] == "[...]":
            break  # Somewhere in a mapping: msgspec does not say where.
        steps.append(step[1] if step[1] is not None else int(step[2]))
    return tuple(steps)


def _keys(kind: Any, where: Steps) -> list[str]:
    """The keys that the object at a place may have."""
    info = _info(kind, where)
    if isinstance(info, msgspec.inspect.StructType):
        return [entry.encode_name for entry in info.fields]
    return []


def _info(kind: Any, where: Steps) -> msgspec.inspect.Type:
    """What is expected at a place."""
    info = msgspec.inspect.type_info(kind)
    for step in where:
        info = _inside(info, step)
    return _plain(info)


def _field(kind: Any, where: Steps) -> msgspec.inspect.Field | None:
    """The field at a place; None if there is something else, such as a part of a list."""
    around = _info(kind, where[:-1])
    if not where or not isinstance(around, msgspec.inspect.StructType):
        return None
    return next((entry for entry in around.fields if entry.encode_name == where[-1]), None)


def _description(field: msgspec.inspect.Field) -> str:
    schema = field.type.extra_json_schema if isinstance(field.type, msgspec.inspect.Metadata) else None
    return str((schema or {}).get("description", ""))


def _inside(info: msgspec.inspect.Type, key: str | int) -> msgspec.inspect.Type:
    info = _plain(info)
    if isinstance(key, str) and isinstance(info, msgspec.inspect.StructType):
        return next((entry.type for entry in info.fields if entry.encode_name == key), info)
    if isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
        return info.item_type
    if isinstance(info, msgspec.inspect.DictType):
        return info.value_type
    return info


def _plain(info: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """Without annotations and without None."""
    while isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    if isinstance(info, msgspec.inspect.UnionType):
        kinds = [kind for kind in info.types if not isinstance(kind, msgspec.inspect.NoneType)]
        return _plain(kinds[0])
    return info


def _line(root: yaml.Node, where: Steps) -> int:
    """The line of a value, or of the nearest thing around it."""
    node = root
    line = node.start_mark.line
    for step in where:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == step), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1


def _examine(path: Path, node: yaml.Node) -> None:
    """Refuse what YAML allows and no reader of the file expects."""

    def refuse(at: yaml.Node, problem: str) -> ConfigError:
        return ConfigError(f"{path}:{at.start_mark.line + 1}: {problem}")

    if isinstance(node, yaml.ScalarNode):
        try:
            node.value.encode()
        except UnicodeEncodeError as error:
            raise refuse(node, "half of a surrogate pair is no text") from error
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _examine(path, item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != _TEXT:
                shown = f", and {key.value!r} is none" if isinstance(key, yaml.ScalarNode) else ""
                raise refuse(key, f"expected text as a key{shown}; quotes make it text")
            if key.value in seen:
                raise refuse(key, f"the key {key.value!r} is there twice")
            seen.add(key.value)
            _examine(path, key)
            _examine(path, value)


def _yaml_place(path: Path, text: str, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"{path}:{text.count(chr(10), 0, error.position) + 1}"
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}" if mark is not None else str(path)


def _yaml_reason(error: yaml.YAMLError) -> str:
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return " ".join(str(reason).split())


def _kind(value: object) -> str:
    return {"list": "a list", "str": "text", "int": "a number", "NoneType": "nothing"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )
