"""A check of JSON against the few keywords of JSON Schema that e2v's own schema has."""

from __future__ import annotations

from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}

KEYWORDS = {
    *("$schema", "$defs", "$ref", "title", "description", "type", "const", "enum", "anyOf"),
    *("required", "properties", "additionalProperties", "items"),
}


def find_violations(value: Any, schema: Any, root: Any, path: str = "$") -> list[str]:
    """List where a value is not as a schema has it."""
    assert set(schema) <= KEYWORDS, set(schema) - KEYWORDS
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return find_violations(value, root["$defs"][name], root, path)
    if "anyOf" in schema:
        found = [find_violations(value, other, root, path) for other in schema["anyOf"]]
        return [] if [] in found else found[0]
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        return [f"{path}: {value!r}"]
    types = schema.get("type", [])
    listed = [types] if isinstance(types, str) else types
    if listed and not any(_has_type(value, name) for name in listed):
        return [f"{path}: {value!r} is no {' or '.join(listed)}"]
    if isinstance(value, list):
        return [
            problem
            for index, item in enumerate(value)
            for problem in find_violations(item, schema.get("items", {}), root, f"{path}[{index}]")
        ]
    return _check_object(value, schema, root, path) if isinstance(value, dict) else []


def _has_type(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _check_object(value: dict[str, Any], schema: Any, root: Any, path: str) -> list[str]:
    problems = [f"{path}: no {name}" for name in schema.get("required", []) if name not in value]
    others = schema.get("additionalProperties", {})
    for name, item in value.items():
        own = schema.get("properties", {}).get(name, others)
        problems += [f"{path}: {name}"] if own is False else find_violations(item, own, root, f"{path}.{name}")
    return problems
