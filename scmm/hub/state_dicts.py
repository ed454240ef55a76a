"""The weights in a checkpoint file, read without running anything that the file says."""

import os
import re
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals


# What training loops keep beside the weights, and the plain type that stands in for it.
STAND_INS: list[Any] = [(OrderedDict, "easydict.EasyDict")]
TORCHSCRIPT_RECORD = "constants.pkl"
WRAPPERS = ("model", "state_dict")


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message names the file and the reason."""


def read_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    Reads the state dict of a checkpoint file: safetensors, what `torch.save` wrote, or a TorchScript archive.

    A pickle is loaded with `weights_only=True`. Of a TorchScript archive the tensors are read and the code is not. A
    state dict below `"model"` or `"state_dict"` is found, and the prefix `module.` of distributed training dropped.

    Args:
        path (`str` or `os.PathLike`): The file.

    Returns:
        `dict[str, torch.Tensor]`: The tensors by their names, in their own types, on the CPU.

    Raises:
        CheckpointError: If the file is no checkpoint, holds no state dict, or needs more than tensors and plain
            values.
        OSError: If the file cannot be opened.

    Example:

    ```python
    >>> import tempfile, pathlib, torch
    >>> from scmm.hub.state_dicts import read_state_dict
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "best.pth")
    ...     torch.save({"model": {"module.weight": torch.ones(2)}, "epoch": 3}, path)
    ...     read_state_dict(path)
    {'weight': tensor([1., 1.])}

    ```
    """
    path = Path(path)
    with path.open("rb"):  # a missing file is an OSError, whatever the loaders below make of it
        pass
    try:
        checkpoint = _load(path)
    except CheckpointError:
        raise
    except Exception as error:  # loaders of broken files raise whatever they stumble over
        needed = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        if needed is None:
            raise CheckpointError(f"{path} cannot be read as a checkpoint: {_first_line(error)}") from error
        raise CheckpointError(
            f"{path} is refused: it needs {needed[1]}, and a pickle of more than tensors and plain values can run any "
            "code on loading. If you trust its author, load it where that is safe and save the state dict alone."
        ) from error
    for name in WRAPPERS:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(name), dict):
            checkpoint = checkpoint[name]
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise CheckpointError(f"{path} holds no state dict, but a {type(checkpoint).__name__}.")
    others = [str(key) for key, value in checkpoint.items() if not isinstance(key, str) or not torch.is_tensor(value)]
    if others:
        raise CheckpointError(f"{path} holds no state dict: not named tensors are {list_names(others)}.")
    prefix = "module." if all(name.startswith("module.") for name in checkpoint) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in checkpoint.items()}


def list_names(names: Any, limit: int = 8) -> str:
    """The first of some names, sorted, for a message."""
    names = sorted(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            if any(name.partition("/")[2] == TORCHSCRIPT_RECORD for name in archive.namelist()):
                return _load_torchscript(path, archive)
    with safe_globals(STAND_INS):
        # Mapped, since a training checkpoint is mostly the optimizer's state, which nobody reads.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _load_torchscript(path: Path, archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """
    Reads the tensors of a TorchScript archive by their attribute names.

    `torch.jit.load` would be the known way. It compiles the archive's code and may run what its modules define for
    their own unpickling. The weights need none of that: an archive is a zip of code, constants and an ordinary
    pickle, `data.pkl`, with its tensors. Pickle and tensors alone make a file that `torch.load` takes with
    `weights_only=True`, once the names of the archive's module classes stand for an empty class of ours.
    """
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w") as weights:
            for record in archive.infolist():
                name = record.filename.partition("/")[2]
                if name in ("data.pkl", "version", "byteorder") or name.startswith("data/"):
                    if record.compress_type != zipfile.ZIP_STORED:  # torch never does so, decompression bombs do
                        raise CheckpointError(f"{path}: {record.filename} is compressed, which torch does not do.")
                    weights.writestr(record.filename, archive.read(record))
        file.seek(0)
        stand_ins: list[Any] = []
        for name in get_unsafe_globals_in_checkpoint(file):
            if name.startswith("__torch__."):
                stand_ins.append((_ScriptModule, name))
            elif name.startswith("torch.jit._pickle.build_"):
                stand_ins.append((list, name))
        file.seek(0)
        with safe_globals(stand_ins):
            root = torch.load(file, map_location="cpu", weights_only=True)
    tensors: dict[str, torch.Tensor] = {}
    pending, seen = [("", root)], {id(root)}
    while pending:
        prefix, module = pending.pop()
        for name, value in getattr(module, "__dict__", {}).items():
            if isinstance(value, torch.Tensor):
                tensors[prefix + name] = value
            elif isinstance(value, _ScriptModule) and id(value) not in seen:
                seen.add(id(value))
                pending.append((f"{prefix}{name}.", value))
    return tensors


class _ScriptModule:
    """Stands in for a class that a TorchScript archive defines; the attributes are what counts."""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
