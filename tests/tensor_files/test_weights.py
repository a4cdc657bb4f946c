"""Files of weights: sums, special files, claims in settings."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tensor_files.reading import FileError, open_file, parsing, shown
from tensor_files.safetensors_files import HASH, read_safetensors_file, safetensors_bytes
from tensor_files.weights import built, fault_of, read_tensor_file


def test_special_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, what in (("pipe", "a pipe"), ("zero", "a device"), (".", "a folder")):
        with pytest.raises(FileError, match=rf"\(it is {what}\); give a regular file"):
            open_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")


@pytest.mark.parametrize(
    "error", [KeyError("a\nb"), MemoryError(), RecursionError(), RuntimeError("x" * 999)], ids=repr
)
def test_whatever_parsing_raises_is_one_line(error):
    with pytest.raises(FileError) as caught, parsing("file.x", "heal it"):
        raise error
    text = str(caught.value)
    assert text.startswith("file.x: cannot be read (") and text.endswith("); heal it")
    assert "\n" not in text and len(text) < 300 and shown(error) in text


def test_names_out_of_a_file_break_no_line():
    assert (
        str(FileError("a: tensor b\n\x1b[31mc\x00 is unknown")) == "a: tensor b ?[31mc? is unknown"
    )


def test_a_file_carries_the_sum_of_its_content(tmp_path):
    path, tensors = tmp_path / "a.safetensors", {"b": torch.ones(3), "a": torch.zeros(2)}
    data = safetensors_bytes(tensors, {"kind": "x", "format": "pt"})
    assert data == safetensors_bytes(tensors, {"format": "pt", "kind": "x"})
    path.write_bytes(data)
    metadata, found = read_safetensors_file(path)
    assert metadata["kind"] == "x" and torch.equal(found["b"], tensors["b"])
    assert torch.equal(load_file(path)["a"], tensors["a"])  # anybody can read it
    for at in (data.index(b'"kind":"x"') + 8, len(data) - 1, len(data) - 17):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(FileError, match=f"another SHA-256.*take {HASH} out"):
            read_safetensors_file(path)
    save_file(tensors, path, {"kind": "x"})  # as of earlier versions, and of others
    assert read_safetensors_file(path)[0] == {"kind": "x"}


def test_headers_of_another_form_are_refused(tmp_path):
    for header in (b"[]", b"{", b'{"__metadata__": {"a": 1}}', b'{"__metadata__": 1}', b"[" * 9999):
        (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(FileError), parsing(tmp_path / "a"):
            read_safetensors_file(tmp_path / "a")
    (tmp_path / "a").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(FileError, match="cut short"):
        read_safetensors_file(tmp_path / "a")


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (torch.ones(2, dtype=torch.int64), "is int64"),
        (torch.ones(2, dtype=torch.bool), "is bool"),
        (torch.ones(2, dtype=torch.complex64), "is complex64"),
        (torch.ones(2).to(torch.float8_e4m3fn), "is float8_e4m3fn"),
        (torch.ones(2, 2).to_sparse(), "is sparse_coo float32"),
        (torch.tensor([1.0, torch.nan]), "NaN"),
        (torch.tensor([1e300], dtype=torch.float64), "infinity"),
        (torch.ones(2, dtype=torch.bfloat16), ""),
        (torch.ones(2, dtype=torch.float64), ""),
    ],
    ids=str,
)
def test_what_can_be_weights(tensor, fault):
    assert fault in fault_of(tensor) and bool(fault) == bool(fault_of(tensor))


class Tower(nn.Module):
    def __init__(self, blocks, width=2):
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            self.blocks.append(nn.Linear(width, width))


def test_a_network_has_no_more_tensors_than_its_file():
    state = Tower(3).state_dict()
    assert next(built(Tower, state, blocks=3).parameters()).device.type == "meta"
    with pytest.raises(FileError, match="more tensors than the file holds"):
        built(Tower, state, blocks=10**6)
    for settings in (dict(blocks=10**9), dict(blocks=[[[[[1]]]]]), dict(blocks=[1] * 100)):
        with pytest.raises(FileError, match="they "):
            built(Tower, state, **settings)
    for settings in (dict(blocks="x"), dict(blocks=2, wings=1), dict(blocks=1, width=-3)):
        with pytest.raises(FileError):
            built(Tower, state, **settings)
    nn.Linear(2, 2)  # the limit is gone


def test_either_format_is_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a")
    torch.save({"a": torch.ones(2)}, tmp_path / "b")
    for name in "ab":
        assert json.dumps({key: t.tolist() for key, t in read_tensor_file(tmp_path / name).items()})
        assert torch.equal(read_tensor_file(tmp_path / name)["a"], torch.ones(2))
