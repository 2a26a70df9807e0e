"""A model folder in FunASR's format → its labels, its config and its weights. Strict and safe.

Strict: every tensor of the encoder and the head must be in the checkpoint with its shape, where upstream keeps random
weights in silence. Safe: no code from the folder is ever run; YAML and checkpoint are read as plain data, and nothing
outside the folder is.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from e2v_cli.errors import ModelError
from e2v_cli.models.config import ConfigValueError, parse_config, shorten
from e2v_cli.network.config import NetworkConfig
from e2v_cli.options import LabelLanguage
from e2v_cli.system.files import exists, is_regular_file

UNUSED = "unuse"
"""The prefix of tokens whose classes of the head the model was not trained for."""

DEFAULT_FILES = {"config": "config.yaml", "init_param": "model.pt", "token_list": "tokens.txt"}
"""The names of a model's files unless its ``configuration.json`` has others, by the keys there."""

MAX_NODES = 100_000
"""Most values of a config.yaml; published ones have some hundred."""

_CODE_KEYS = ("trust_remote_code", "remote_code")
"""Keys for which upstream imports a file of the folder, and installs its requirements."""

_AGAIN = "download or copy the file again"

_STAND_INS = (
    (
        rb"version https://git-lfs\.github\.com/spec/",
        "a Git LFS pointer",
        f"run 'git lfs pull' in its folder, or {_AGAIN}",
    ),
    (
        rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head)\b",
        "an HTML page (perhaps a login page, or a proxy's error)",
        _AGAIN,
    ),
    (rb"\s*<\?xml\b", "an XML page (perhaps a server's error)", _AGAIN),
)
"""Stand-ins for a file: a pattern of the beginning, the name and the remedy."""

_WAYS = ("*", "snapshots/*", "*--*/snapshots/*")
"""Glob patterns of model folders below a folder of models, and below the outer folders of the hubs' caches."""


@dataclass(frozen=True)
class Model:
    """A model folder, read except for its weights."""

    name: str
    folder: Path
    weights: Path
    config: NetworkConfig
    raw_config: Mapping[str, Any]
    """``config.yaml`` as parsed, for upstream's own code."""
    tokens: tuple[str, ...]
    """Token of each class of the head, as in ``tokens.txt``; empty if the model has no head."""
    scope_map: tuple[tuple[str, str], ...]
    """Prefixes of names: (in the checkpoint, in upstream's network)."""
    labels: tuple[str, ...]
    """Classes of results: those of the head without unused ones, unless a closed set was chosen."""
    groups: tuple[tuple[int, ...], ...]
    """For each label, the classes of the head whose probabilities it sums, counted from 0."""

    @property
    def declares_head(self) -> bool:
        """Whether the config has a tokenizer, as upstream's has if the model has a head."""
        return self.raw_config.get("tokenizer") is not None

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes of the head that its softmax is over, in its order."""
        return tuple(sorted(chain.from_iterable(self.groups)))

    @property
    def merged(self) -> tuple[tuple[int, ...], ...]:
        """For each label, the positions of its classes in ``classes``; empty if each label is one class."""
        positions = {index: position for position, index in enumerate(self.classes)}
        merges = any(len(group) > 1 for group in self.groups)
        return tuple(tuple(positions[index] for index in group) for group in self.groups) if merges else ()


def read_model(name: str, folder: Path, language: LabelLanguage = "en") -> Model:
    """Read a model folder: ``config.yaml``, ``tokens.txt`` and, if there is one, ``configuration.json``.

    Raises:
        ModelError: a file is missing, has a value that can't be used, or would have code run; the message names the
            file and the value.
    """
    _refuse_requirements(folder)
    _refuse_outer(folder)
    files = DEFAULT_FILES | read_configuration(folder)
    config_path = model_file(folder, files["config"])
    weights = model_file(folder, files["init_param"])
    raw_config = _read_yaml(config_path)
    try:
        config = parse_config(raw_config)
        _refuse_code(raw_config, config_path)
        scope_map = _parse_scope_map(raw_config.get("scope_map"))
        has_tokens = raw_config.get("tokenizer") is not None and exists(folder / files["token_list"])
        tokens = _read_tokens(model_file(folder, files["token_list"]), language) if has_tokens else ()
    except ConfigValueError as error:
        raise ModelError(f"{config_path}: {error}") from None
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from None
    used = [index for index, token in enumerate(tokens) if not token.startswith(UNUSED)]
    labels, groups = tuple(_label_of(tokens[index], language) for index in used), tuple((index,) for index in used)
    return Model(name, folder, weights, config, raw_config, tokens, scope_map, labels, groups)


def read_configuration(folder: Path) -> dict[str, str]:
    """Read the names of files from ``configuration.json``, if there is one, by the keys of DEFAULT_FILES.

    Raises:
        ModelError: it can't be read, or names a file outside the folder.
    """
    if not exists(folder / "configuration.json"):
        return {}
    path = model_file(folder, "configuration.json")
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
        metas = configuration.get("file_path_metas", {})
        named = {**metas, **metas.get("tokenizer_conf", {})}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not the JSON of a model folder: {error}") from None
    for keys in (configuration, named):
        _refuse_code(keys, path)
    names = {key: named[key] for key in DEFAULT_FILES if isinstance(named.get(key), str)}
    for name in names.values():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{path}: {name!r} lies outside the model's folder")
        if not name.isprintable() or not Path(name).name:
            raise ModelError(f"{path}: {name!r} is not a file name")
    return names


def missing_files(folder: Path) -> list[str]:
    """List the files that a model's folder lacks.

    Raises:
        ModelError: its ``configuration.json`` can't be used.
    """
    required = {key: DEFAULT_FILES[key] for key in ("config", "init_param")} | read_configuration(folder)
    return [name for name in required.values() if not is_regular_file(folder / name)]


def _read_yaml(path: Path) -> Any:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)  # noqa: S506 — it is a SafeLoader
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except Exception as error:  # PyYAML passes on any error of its constructors
        raise ModelError(f"{path}: not plain YAML: {' '.join(str(error).split())}") from None
    if sum(1 for _ in islice(_nodes(content), MAX_NODES)) == MAX_NODES:
        raise ModelError(f"{path}: its aliases make more than {MAX_NODES} values of it")
    return content


class _PlainLoader(yaml.SafeLoader):
    """A loader of plain YAML without merge keys, which would multiply while they are read."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse merge keys."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("it has merge keys (<<)")


def _nodes(content: object) -> Iterator[object]:
    """List the values of a parsed YAML; the values of an alias are listed at each use, as upstream copies them."""
    waiting = [content]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Mapping):
            waiting.extend(node.values())
        elif isinstance(node, (list, tuple, set)):
            waiting.extend(node)


def _refuse_requirements(folder: Path) -> None:
    path = folder / "requirements.txt"
    if exists(path) or path.is_symlink():
        raise ModelError(
            f"{path}: e2v installs no packages for a model: remove the file if you trust the rest of the folder"
        )


def _refuse_outer(folder: Path) -> None:
    """Refuse a folder around those of models, as in the hubs' caches; the message names one of the main branch."""
    if any(exists(folder / name) for name in ("config.yaml", "configuration.json")):
        return
    main = "master"
    with suppress(OSError):  # Hugging Face's cache has there the name of the branch's snapshot
        main = (folder / "refs" / "main").read_text(encoding="utf-8", errors="replace").strip()
    inner = {path.parent for way in _WAYS for path in folder.glob(f"{way}/config.yaml")}
    if inner:
        best = max(inner, key=lambda path: (path.name == main, path.stat().st_mtime))
        which = "the one in it" if len(inner) == 1 else f"one of the {len(inner)} in it, such as"
        raise ModelError(f"{folder} is not a model's own folder: name {which}: --model {best}")


def _refuse_code(keys: Mapping[str, object], path: Path) -> None:
    """Refuse a file for which upstream would run code from the folder."""
    for key in _CODE_KEYS:
        if keys.get(key):
            raise ModelError(
                f"{path}: {key} is {shorten(keys[key])}, but e2v runs no code from a model's folder, and none is "
                "needed for emotion2vec: remove the key if you trust the rest of the folder"
            )


def model_file(folder: Path, name: str) -> Path:
    """Find a file of a model's folder; a link is followed unless it leads out of the folder.

    In Hugging Face's cache the files of a snapshot are links to the blobs beside it.

    Raises:
        ModelError: the file is missing, lies outside the folder, is empty, or is a page or pointer instead of the file.
    """
    path = folder / name
    if not is_regular_file(path):
        what = "is not a regular file" if os.path.lexists(path) else "is missing"
        raise ModelError(
            f"{path} {what}: a model folder holds config.yaml, model.pt, tokens.txt and configuration.json"
        )
    real_folder, real_path = folder.resolve(), path.resolve()
    inside = [real_folder]
    if real_folder.parent.name == "snapshots":
        inside.append(real_folder.parent.parent / "blobs")
    if not any(real_path.is_relative_to(root) for root in inside):
        raise ModelError(f"{path} is a link to {real_path}, outside the model's folder: copy the file there")
    _refuse_stand_in(path)
    return path


def _refuse_stand_in(path: Path) -> None:
    """Refuse a file whose content was not fetched, or was replaced on its way by a page for people."""
    try:
        with path.open("rb") as file:
            begin = file.read(1024).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    if not begin:
        raise ModelError(f"{path} is empty: {_AGAIN}")
    for pattern, title, remedy in _STAND_INS:
        if re.match(pattern, begin, re.IGNORECASE | re.DOTALL):
            raise ModelError(f"{path} is {title}, not the file itself: {remedy}")


def _read_tokens(path: Path, language: LabelLanguage) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        listed = json.loads(text) if path.suffix == ".json" else text.splitlines()
        if not isinstance(listed, list):
            raise TypeError(f"a {type(listed).__name__}")
        tokens = tuple(line.rstrip() for line in listed)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a list of labels: {error}") from None
    labels = [_label_of(token, language) for token in tokens if not token.startswith(UNUSED)]
    for number, line in enumerate(tokens, 1):
        if not line or not line.isprintable():
            raise ModelError(f"{path}:{number}: {line!r} is not a label")
    if not labels:
        raise ModelError(f"{path}: holds no label that is in use")
    label, count = Counter(labels).most_common(1)[0]
    if count > 1:
        raise ModelError(f"{path}: label {label!r} is listed more than once")
    return tokens


def _label_of(token: str, language: LabelLanguage) -> str:
    """Return one side of a token's ``/``, or all of it; ``<unk>`` is ``unknown`` in English."""
    chinese, _, english = token.partition("/")
    match language:
        case "en":
            return english or ("unknown" if token == "<unk>" else token)  # noqa: S105 — no password
        case "zh":
            return chinese or token
        case "both":
            return token


def _parse_scope_map(scope_map: object) -> tuple[tuple[str, str], ...]:
    """Parse pairs of prefixes, (in the checkpoint, in the network): a list, or a text with commas."""
    if scope_map is None:
        return ()
    parts = scope_map.split(",") if isinstance(scope_map, str) else scope_map
    if not isinstance(parts, list) or len(parts) % 2:
        raise ConfigValueError(f"scope_map is {shorten(scope_map)}, not a list of pairs of prefixes")
    prefixes = ["" if part is None or str(part).lower() == "none" else str(part) for part in parts]
    return tuple(zip(prefixes[0::2], prefixes[1::2], strict=True))
