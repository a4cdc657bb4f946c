"""Safetensors files, with the hash of their content in their metadata where this project wrote
them."""

import hashlib
import json
import os

import torch
from safetensors import safe_open
from safetensors.torch import save

from tensor_files.reading import FileError, open_file

HASH = "sha256"  # in the metadata: of the header without it, and of the tensors
PIECE = 1 << 20  # bytes that are hashed at once


def is_safetensors(head: bytes) -> bool:
    """Whether the first nine bytes of a file are the length of a header and its beginning."""
    return head[8:9] == b"{"


def read_safetensors_file(path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """(metadata, tensors) of a file; FileError or what the parsers raise where it is damaged, also
    where it is no longer what was written."""
    header = read_header(path)
    metadata = header.get("__metadata__", {})
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if HASH in metadata and _hash_of(path, header) != metadata[HASH]:
        raise FileError(
            "does not hold what was written (another SHA-256): make or download it again, or take "
            f"{HASH} out of its metadata if you have changed it yourself"
        )
    return metadata, tensors


def read_header(path) -> dict:
    """The header of a file: entries by the names of tensors, strings under `__metadata__`."""
    with open_file(path) as file:
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
        if not 2 <= length <= size - 8:
            raise FileError(
                "not a readable safetensors file, or cut short; make or download it again"
            )
        header = json.loads(file.read(length))
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(type(text) is str for text in metadata.values()):
        raise FileError(
            "not a readable safetensors file (another header); make or download it again"
        )
    return header


def safetensors_bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a file, the same whenever it is made: the library writes metadata in another
    order every time."""
    data = save(tensors, metadata | {HASH: "0" * 64})
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    header["__metadata__"][HASH] = _started(header, body).hexdigest()
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return data[:8] + text.ljust(size) + body


def _hash_of(path, header: dict) -> str:
    with open_file(path) as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        digest = _started(header)
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _started(header: dict, body: bytes = b""):
    """The hash after the header, whose order and spaces do not matter, and of some of the body."""
    metadata = {name: text for name, text in header["__metadata__"].items() if name != HASH}
    text = json.dumps(header | {"__metadata__": metadata}, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode())
    digest.update(body)
    return digest
