"""The limits of the code: length of files and functions, number of parameters, and unique names."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from support.processes import ROOT

MAX_FILE, MAX_FUNCTION = 450, 60
"""Lines; a function's include its ``def`` and its docstring."""

MAX_PARAMETERS = 7
"""Parameters of a function, without ``self``, ``cls`` and Click's context."""

Function = ast.FunctionDef | ast.AsyncFunctionDef

PACKAGE = ROOT / "e2v_cli"
FILES = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
"""The text of each module, by its path in the package."""


def functions_of(name: str) -> Iterator[tuple[str, Function]]:
    """Find all functions of a module, including methods and nested ones, and their locations."""
    for node in ast.walk(ast.parse(FILES[name])):
        if isinstance(node, Function):
            yield f"{name}:{node.lineno}: {node.name}", node


def count_parameters(function: Function) -> int:
    given = function.args
    several = [given.vararg, given.kwarg]
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, several)]
    return sum(1 for parameter in parameters if not is_passed_implicitly(parameter))


def is_passed_implicitly(parameter: ast.arg) -> bool:
    annotation = ast.unparse(parameter.annotation) if parameter.annotation else ""
    return parameter.arg in ("self", "cls") or annotation == "click.Context"


def test_all_modules_and_functions_are_found() -> None:
    assert len(FILES) > 60
    assert sum(1 for name in FILES for _ in functions_of(name)) > 400


def test_no_file_is_too_long() -> None:
    assert {name: text.count("\n") for name, text in FILES.items() if text.count("\n") > MAX_FILE} == {}


def test_no_function_is_too_long() -> None:
    lengths = {where: 1 + (node.end_lineno or 0) - node.lineno for name in FILES for where, node in functions_of(name)}
    assert {where: length for where, length in lengths.items() if length > MAX_FUNCTION} == {}


def test_no_function_has_too_many_parameters() -> None:
    counts = {where: count_parameters(node) for name in FILES for where, node in functions_of(name)}
    assert {where: count for where, count in counts.items() if count > MAX_PARAMETERS} == {}


def is_command(paths: list[str]) -> bool:
    """Whether a name belongs to a command: a function in ``cli/`` that calls the one in ``commands/``."""
    wings = sorted(Path(path).parts[0] for path in paths)
    return wings == ["cli", "commands"]


def test_no_two_functions_or_classes_have_the_same_name() -> None:
    paths = defaultdict(list)
    for name, text in FILES.items():
        for node in ast.parse(text).body:
            if isinstance(node, Function | ast.ClassDef):
                paths[node.name].append(name)

    several = {name: found for name, found in paths.items() if len(found) > 1 and name != "main"}
    assert {name: found for name, found in several.items() if not is_command(found)} == {}


def test_every_module_has_a_docstring() -> None:
    docstrings = {name: ast.get_docstring(ast.parse(text)) or "TODO" for name, text in FILES.items()}
    assert [name for name, docstring in docstrings.items() if "TODO" in docstring] == []


def test_paths_are_asked_without_hiding_errors() -> None:
    """Use ``exists``, ``is_directory`` and ``is_regular_file`` of ``system/files.py`` instead of those of paths."""
    hiding = {"exists", "is_dir", "is_file"}
    calls = [
        (name, node.func) for name in FILES for node in ast.walk(ast.parse(FILES[name])) if isinstance(node, ast.Call)
    ]
    methods = [(name, function) for name, function in calls if isinstance(function, ast.Attribute)]
    assert [f"{name}:{method.lineno}" for name, method in methods if method.attr in hiding] == []
