"""The part of zarr's format 2 that a store needs: groups, and arrays of one uncompressed chunk.

Any zarr library opens what is written here. It is done by hand because such an array is one file
with a line of JSON beside it: the library (zarr 3) takes 20 ms for an episode's five arrays and
half a second to load, in each worker, and its versions 2 and 3 name the same things differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 2


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Makes `folder` a group; the attributes come last, so that they tell that it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / ".zgroup", {"zarr_format": FORMAT})
    part = folder / ".zattrs.part"
    _write_json(part, attributes)
    part.replace(folder / ".zattrs")


def read_attributes(folder: Path) -> dict[str, Any]:
    """A group's attributes; none where there is no group."""
    try:
        attributes = json.loads((folder / ".zattrs").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
    return attributes if isinstance(attributes, dict) else {}


def write_array(
    folder: Path, values: NDArray[Any], attributes: Mapping[str, Any] | None = None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "zarr_format": FORMAT,
        "shape": values.shape,
        "chunks": values.shape,
        "dtype": values.dtype.str,
        "compressor": None,
        "filters": None,
        "fill_value": 0,
        "order": "C",
    }
    chunk_file(folder, values.ndim).write_bytes(np.ascontiguousarray(values).data)
    if attributes is not None:
        _write_json(folder / ".zattrs", attributes)
    _write_json(folder / ".zarray", about)


def read_array(folder: Path) -> NDArray[Any]:
    """An array that `write_array` wrote.

    Raises:
        ValueError: not one of those, or cut short.
    """
    about = _read_about(folder)
    values = np.fromfile(chunk_file(folder, len(about["shape"])), np.dtype(about["dtype"]))
    return values.reshape(about["shape"])


def map_array(folder: Path) -> NDArray[Any]:
    """As `read_array`, but its numbers stay in the file until they are looked at."""
    about = _read_about(folder)
    shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
    file = chunk_file(folder, len(shape))
    wanted = dtype.itemsize * int(np.prod(shape))
    if (size := file.stat().st_size) != wanted:
        raise ValueError(f"{file} has {size} bytes, not {wanted}")
    mapped: NDArray[Any] = np.memmap(file, dtype, mode="r", shape=shape)
    return mapped


def chunk_file(folder: Path, n_axes: int) -> Path:
    """The file with the numbers of an array of one chunk."""
    return folder / ".".join(["0"] * n_axes)


def _read_about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
    if about["chunks"] != about["shape"] or about["compressor"] or about["order"] != "C":
        raise ValueError(f"{folder} is not one uncompressed chunk")
    return about


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
