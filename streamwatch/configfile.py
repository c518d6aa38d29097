"""Reading YAML and `STREAMWATCH_*` variables into plain data; what the data means is config.py's affair."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from streamwatch.errors import ConfigError

PREFIX = "STREAMWATCH_"
# Read by the tools around the service; not fields of the configuration.
RESERVED = frozenset(
    {"DATA_DIR", "REQUIRE", "CONFIG", "TOKEN", "BLAZEFACE_PTH", "WEIGHTS_DIR", "SCREENSHOTS", "CHECK_SECONDS"}
)


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_yaml_fault(error)}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, not {type(loaded).__name__}")
    return loaded


def environment(environ: Mapping[str, str]) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for key in sorted(environ):
        name = key.removeprefix(PREFIX)
        if name == key or name in RESERVED:
            continue
        value: Any = environ[key]
        if name.endswith("_FILE"):
            name = name.removesuffix("_FILE")
            try:
                value = Path(value).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{key}: the file cannot be read: {error}") from error
        else:
            value = _scalar(key, value)
        target = overrides
        *parents, last = [part.lower() for part in name.split("__")]
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{key}: {parent} is set to a plain value by another variable")
        target[last] = value
    return overrides


def _scalar(key: str, text: str) -> Any:
    """Environment values are YAML, so that numbers, true and [a, b] read as in the file."""
    try:
        return yaml.safe_load(text) if text.strip() else text
    except yaml.YAMLError:
        return text


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        # Environment names cannot hold '-', so a slug is matched with '_' in its place.
        key = name if name in merged else next((k for k in merged if str(k).replace("-", "_") == name), name)
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def variable_of(path: Sequence[str | int], over: Mapping[str, Any]) -> str | None:
    """The variable that gave the value at this path; None where the environment gave none. `over`: its settings."""
    names: list[str] = []
    value: Any = over
    for part in path:
        if not isinstance(value, Mapping):
            break  # one variable held all that is below
        name = next((key for key in value if key in (part, str(part).replace("-", "_"))), None)
        if name is None:
            return None
        names.append(str(name).upper())
        value = value[name]
    return PREFIX + "__".join(names) if names and not isinstance(value, Mapping) else None


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice: the first would be lost in silence."""


def _unique_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            what = "a key must be plain text; is this a template that was not filled in?"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=key_node.start_mark)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _yaml_fault(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return "is not valid YAML"
