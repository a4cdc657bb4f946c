"""Files of torch.save: the reader gives what torch.load gives, and refuses claims beyond the
file."""

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from tensor_files.pickle_machine import Foreign, PickleError
from tensor_files.torch_files import MAGIC, read_content


def saved(content, **how):
    torch.save(content, file := io.BytesIO(), **how)
    return file.getvalue()


def contents():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 4, generator=generator)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(net.parameters(), betas=(0.8, 0.9))
    net(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return {
        "state dict": net.state_dict(),
        "state": {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 3},
        "views": {"all": base, "part": base[2:4], "turned": base.T, "row": base[1]},
        "types": {
            str(dtype): torch.ones(3).to(dtype)
            for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8)
        },
        "odd": {
            "empty": torch.empty(0, 3),
            "scalar": torch.tensor(2.5),
            "bool": torch.tensor([True]),
        },
        "plain": {
            "args": argparse.Namespace(lr=0.1),
            "log": [1, 2.5, None, "ü", (1, "x")],
            7: 2**40,
        },
        "size": [torch.Size([2, 3]), torch.float32],
        "ordered": OrderedDict(a=torch.nn.Parameter(base.clone())),
    }


def same(found, expected):
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected.detach())
        assert found.stride() == expected.stride()
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, part in expected.items():
            same(found[name], part)
    elif isinstance(expected, (list, tuple)) and not isinstance(expected, torch.Size):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", contents())
def test_it_reads_what_torch_writes(name, zipped):
    expected = contents()[name]
    data = saved(expected, _use_new_zipfile_serialization=zipped)
    assert data.startswith(b"PK" if zipped else MAGIC)
    same(read_content(io.BytesIO(data)), expected)
    shapes = read_content(io.BytesIO(data), shapes_only=True)
    if name == "views":
        assert {key: tuple(tensor.shape) for key, tensor in shapes.items()} == {
            key: tuple(tensor.shape) for key, tensor in expected.items()
        }
        assert shapes["all"].device.type == "meta"


def refused(data, *words, kind=PickleError):
    with pytest.raises(kind) as caught:
        read_content(io.BytesIO(data))
    assert all(word in str(caught.value) for word in words), caught.value


def archive(pickled, packed=zipfile.ZIP_STORED, **storages):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as out:
        out.writestr("archive/data.pkl", pickled)
        for key, data in storages.items():
            out.writestr(f"archive/data/{key}", data)
    return file.getvalue()


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_called(zipped, tmp_path):
    for call in (
        Call(os.mkdir, str(tmp_path / "made")),
        Call(eval, "1"),
        Call(torch.load, "x"),
    ):
        data = saved({"a": call}, _use_new_zipfile_serialization=zipped)
        refused(data, "asks for", call.call[0].__name__, kind=Foreign)
    assert not list(tmp_path.iterdir())


def test_keys_that_take_for_ever_to_hash_are_refused():
    deep = b")q\x00"
    for level in range(60):  # the tuple below, twice
        deep += b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    for key in (deep, pickle.dumps((1, 2), 2)[2:-1], pickle.dumps(10**30, 2)[2:-1], b"N"):
        refused(archive(b"\x80\x02}" + key + b"K\x01s."), "a dict")
    refused(archive(pickle.dumps({1, 2}, 2)), "asks for")


def test_tensors_are_no_larger_than_their_storage():
    flat = torch.zeros(1)
    refused(saved({"a": flat.expand(10**9)}), "larger than its storage")
    refused(saved({str(i): flat[:] for i in range(20)}), "larger than their storage")
    many = saved([torch.arange(1000.0)[i : i + 10] for i in range(0, 1000, 10)])
    assert len(read_content(io.BytesIO(many))) == 100  # parts of one storage are many, and fit


def test_storages_are_no_larger_than_the_file():
    good = saved({"a": torch.zeros(64)})
    with zipfile.ZipFile(io.BytesIO(good)) as old:
        root = old.namelist()[0].split("/")[0]
        pickled, data = old.read(f"{root}/data.pkl"), old.read(f"{root}/data/0")
    assert read_content(io.BytesIO(archive(pickled, **{"0": data})))["a"].shape == (64,)
    refused(archive(pickled, **{"0": data[:-1]}), "another size")
    refused(archive(pickled), "another size")
    refused(archive(pickled, zipfile.ZIP_DEFLATED, **{"0": data}), "another zip archive")
    old = saved({"a": torch.zeros(64)}, _use_new_zipfile_serialization=False)
    refused(old.replace(b"K@N", b"J\xff\xff\xff\x7fN"), "another size")
    refused(old[:-10], "ends too early")
    refused(old + b"x", "behind its end")


def test_every_damaged_byte_of_a_tensor_is_noticed():
    data = saved({"a": torch.ones(100)})
    at = data.index(torch.ones(100).numpy().tobytes()) + 41
    for bit in range(8):
        broken = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        with pytest.raises(zipfile.BadZipFile, match="CRC"):
            read_content(io.BytesIO(broken))


def test_other_files_are_of_another_kind():
    for data in (b"<!DOCTYPE html>", pickle.dumps({}), b"{}", bytes(20), b""):
        with pytest.raises(PickleError, match=r"not a PyTorch file|empty"):
            read_content(io.BytesIO(data))
