"""The reader of NVIDIA's pickles: reads what their format holds, refuses everything else, executes
nothing."""

import io
import math
import os
import pickle
import pickletools
import random
import struct
import time

import pytest
import safetensors.torch
import torch
from torch import nn

from edm import nvidia_pickle
from edm.nvidia_pickle import MAX_INSTRUCTIONS, CheckpointError, NetworkRecord, read_network
from edm.precond import PRECONDITIONERS
from tests.edm.nvidia_writer import write_network

NAMES = {
    "torch_utils.persistence._reconstruct_persistent_obj",
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
    "torch.nn.modules.container.ModuleDict",
    "numpy.dtype",
}
INSTRUCTIONS = """
    PROTO FRAME EMPTY_DICT EMPTY_LIST EMPTY_TUPLE EMPTY_SET MEMOIZE BINGET LONG_BINGET
    SHORT_BINUNICODE BINUNICODE BINBYTES SHORT_BINBYTES STACK_GLOBAL MARK BININT BININT1 BININT2
    BINFLOAT NONE NEWTRUE NEWFALSE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS REDUCE
    NEWOBJ BUILD STOP
"""
SONG = dict(
    img_resolution=8,
    img_channels=3,
    label_dim=10,
    model_type="SongUNet",
    model_channels=16,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[4],
    augment_dim=9,
)
RESIDUAL = dict(embedding_type="fourier", encoder_type="residual", resample_filter=[1, 3, 3, 1])
ADM = dict(
    img_resolution=8,
    img_channels=3,
    model_channels=32,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[4],
)
NETWORKS = {
    "ddpmpp": ("EDMPrecond", SONG | dict(sigma_max=math.inf)),
    "ncsnpp": ("VEPrecond", SONG | RESIDUAL | dict(use_fp16=False)),
    "adm": ("iDDPMPrecond", ADM | dict(M=20)),
}


class Toy(nn.Module):
    """A network small enough that most bytes of its file are structure."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 7.0).reshape(2, 3))
        self.bias = self.skip = None
        self.skip_scale = math.sqrt(0.5)
        self.register_buffer("resample_filter", None)
        self.register_buffer("u", torch.tensor([[1.5], [2.5]], dtype=torch.float64))
        self.enc = nn.ModuleDict({"8x8_conv": nn.Linear(70, 2), "8x8_block0": nn.GroupNorm(1, 2)})


@pytest.fixture
def toy(tmp_path):
    """Path of a good file of a Toy, with a marker beside it that the file's source would create."""
    path = tmp_path / "toy.pkl"
    write_network(path, Toy(), "EDMPrecond", {"img_resolution": 8}, marker=tmp_path / "executed")
    return path


def refused(path, *words, data=None):
    """Reading `path`, after writing `data` there, must fail as promised: one line, soon, without
    side effects."""
    if data is not None:
        path.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        read_network(path)
    message = str(caught.value)
    assert time.perf_counter() - start < 5
    assert (
        message.startswith(str(path)) and len(message.splitlines()) == 1 and message.isprintable()
    )
    assert "; " in message and len(message) < len(str(path)) + 500
    assert all(word in message for word in words), message
    assert not (path.parent / "executed").exists()


# Good files.


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"torch1": True},
        {"numpy1": True},
        {"torch1": True, "numpy1": True},
        {"device": "cuda:0"},
        {"wrap": None},
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_reads_what_was_written(name, variant, tmp_path):
    class_name, init_kwargs = NETWORKS[name]
    net = PRECONDITIONERS[class_name](**init_kwargs)
    path = tmp_path / "net.pkl"
    write_network(path, net, class_name, init_kwargs, marker=tmp_path / "executed", **variant)

    record = read_network(path)

    expected = net.state_dict()
    assert (record.class_name, record.init_kwargs) == (class_name, init_kwargs)
    assert list(record.state_dict) == list(expected)
    for key, tensor in expected.items():
        found = record.state_dict[key]
        assert (
            found.dtype == tensor.dtype
            and found.device.type == "cpu"
            and torch.equal(found, tensor)
        ), key
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("numpy1", [False, True])
def test_writer_keeps_to_the_format(numpy1, tmp_path):
    path = tmp_path / "toy.pkl"
    write_network(path, Toy(), "EDMPrecond", {}, numpy1=numpy1, torch1=numpy1)
    data = path.read_bytes()
    scalar = "numpy.core.multiarray.scalar" if numpy1 else "numpy._core.multiarray.scalar"
    assert names_in(data) == NAMES | {scalar}
    assert {opcode.name for opcode, _, _ in pickletools.genops(data)} <= set(INSTRUCTIONS.split())


def names_in(data: bytes) -> set[str]:
    """Dotted names of all STACK_GLOBALs in a pickle."""
    names, memo, pushed = set(), [], []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "MEMOIZE":
            memo.append(pushed[-1])
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(pushed[-2:]))
            pushed.append(None)
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            pushed.append(memo[argument])
        else:
            pushed.append(argument)
    return names


def test_key_chooses_the_entry(toy):
    write_network(toy, Toy(), "VPPrecond", {}, wrap="net")
    assert read_network(toy, key="net").class_name == "VPPrecond"
    refused(toy, "'ema'", "net, loss_fn, augment_pipe")


def test_tensors_own_their_memory_and_accept_writing(toy):
    weight = read_network(toy).state_dict["weight"]
    weight += 1
    assert torch.equal(weight, Toy().weight + 1)


@pytest.mark.parametrize("shape", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_strides_are_kept(toy, shape):
    net = Toy()
    net.weight = nn.Parameter(torch.randn(2, 3, 4, 5).permute(shape))
    write_network(toy, net, "EDMPrecond", {})
    found = read_network(toy).state_dict["weight"]
    assert torch.equal(found, net.weight) and found.stride() == net.weight.stride()


# Files of another kind, and broken ones.


def test_refuses_what_is_no_network_pickle(toy, tmp_path):
    refused(toy, "pickle", data=b"")
    refused(toy, data=b"\x80")
    refused(toy, "pickle", data=b"<!DOCTYPE html>\n<title>404</title>")
    refused(toy, "pickle", data=safetensors.torch.save({"weight": torch.ones(2)}))
    for zipped in (True, False):
        torch.save(Toy().state_dict(), toy, _use_new_zipfile_serialization=zipped)
        refused(toy, "is ", "give a network pickle")
    refused(tmp_path, "cannot be read")
    refused(tmp_path / "absent.pkl", "No such file")
    for value in (1, [1], "text", {"ema": None}, {"ema": {"weight": 1}}):
        refused(toy, "is a pickle of something else", data=pickle.dumps(value, 4))
    refused(toy, "nothing", data=pickle.dumps({}, 4))


@pytest.mark.parametrize("protocol", [0, 1, 6, 255])
def test_refuses_other_protocols(toy, protocol):
    data = (
        pickle.dumps({"ema": 1}, protocol)
        if protocol < 2
        else b"\x80" + bytes([protocol]) + toy.read_bytes()[2:]
    )
    refused(toy, "protocol", data=data)


def test_refuses_other_classes(toy):
    write_network(toy, Toy(), "InceptionV3Detector", {})
    refused(toy, "InceptionV3Detector", "EDMPrecond")
    write_network(toy, Toy(), "a\nb\x1b[31m" * 1000, {})
    refused(toy, "EDMPrecond")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_weights_that_are_not_finite(toy, value):
    net = Toy()
    net.enc["8x8_conv"].weight.data[1, 30] = value
    write_network(toy, net, "EDMPrecond", {})
    refused(toy, "enc.8x8_conv.weight", "NaN")


def test_refuses_every_truncation(toy):
    data = toy.read_bytes()
    for index in range(60):
        refused(toy, data=data[: len(data) * index // 60])
    for cut in range(1, 12):
        refused(toy, data=data[:-cut])


def test_flipped_bytes_load_or_are_refused(toy):
    data = toy.read_bytes()
    expected = list(read_network(toy).state_dict)
    payloads = [
        range(at, at + 5 + len(argument))
        for opcode, argument, at in pickletools.genops(data)
        if opcode.name == "BINBYTES"
    ]
    draw = random.Random(0)
    for _ in range(400):
        at = draw.randrange(len(data))
        toy.write_bytes(data[:at] + bytes([data[at] ^ draw.randrange(1, 256)]) + data[at + 1 :])
        try:
            record = read_network(toy)
        except CheckpointError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert isinstance(record, NetworkRecord) and all(
                t.isfinite().all() for t in record.state_dict.values()
            )
            # Elsewhere a flip can turn one name into another, which only the network that takes the
            # tensors can notice.
            assert list(record.state_dict) == expected or not any(
                at in payload for payload in payloads
            )
    assert not (toy.parent / "executed").exists()


# Hostile files, assembled from the instructions of protocol 4.


def plain(value) -> bytes:
    """Instructions that push a value."""
    return pickle.dumps(value, 3)[2:-1]


def named(dotted: str) -> bytes:
    module, _, name = dotted.rpartition(".")
    return plain(module) + plain(name) + pickle.STACK_GLOBAL


def call(dotted: str, *arguments: bytes) -> bytes:
    return named(dotted) + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def table(entries: dict[str, bytes]) -> bytes:
    items = b"".join(plain(key) + value for key, value in entries.items())
    return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS


def module(
    parameters=None, modules=None, class_name="EDMPrecond", init_kwargs=pickle.EMPTY_DICT
) -> bytes:
    """Instructions for a persistent object; `parameters` and `modules` are instructions for
    dicts."""
    state = table(
        {
            "_parameters": parameters or pickle.EMPTY_DICT,
            "_buffers": pickle.EMPTY_DICT,
            "_modules": modules or pickle.EMPTY_DICT,
            "_init_kwargs": init_kwargs,
        }
    )
    meta = table({"type": plain("class"), "class_name": plain(class_name), "state": state})
    return call("torch_utils.persistence._reconstruct_persistent_obj", meta)


def storage_file(values=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)) -> bytes:
    file, flat = io.BytesIO(), torch.tensor(values)
    storage = torch.storage.TypedStorage(
        wrap_storage=flat.untyped_storage(), dtype=flat.dtype, _internal=True
    )
    torch.save(storage, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def storage(data: bytes) -> bytes:
    return call(
        "torch.storage._load_from_bytes", pickle.BINBYTES + struct.pack("<I", len(data)) + data
    )


def tensor(offset=0, size=(2, 3), stride=(3, 1), of=None) -> bytes:
    return call(
        "torch._utils._rebuild_tensor_v2",
        of or storage(storage_file()),
        plain(offset),
        plain(size),
        plain(stride),
        plain(False),
        call("collections.OrderedDict"),
    )


def put(index: int) -> bytes:
    return pickle.LONG_BINPUT + struct.pack("<I", index)


def get(index: int) -> bytes:
    return pickle.LONG_BINGET + struct.pack("<I", index)


def framed(content: bytes) -> bytes:
    return b"\x80\x04" + content + pickle.STOP


def with_weight(weight: bytes) -> bytes:
    return framed(module(table({"weight": weight})))


class Touch:
    """Creates the marker when unpickled by an ordinary loader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path.parent / 'executed'}'",)


def test_the_assembled_network_is_good(toy):
    toy.write_bytes(with_weight(tensor()))
    assert torch.equal(read_network(toy).state_dict["weight"], torch.arange(1.0, 7.0).reshape(2, 3))
    toy.write_bytes(pickle.dumps(Touch(toy)))
    pickle.loads(toy.read_bytes())
    assert (
        toy.parent / "executed"
    ).exists()  # so that its absence in the other tests means something


def test_refuses_names(toy):
    command = plain(f"touch '{toy.parent / 'executed'}'")
    for protocol in (2, 3, 4, 5):
        refused(
            toy, f"{os.system.__module__}.system", data=pickle.dumps({"ema": Touch(toy)}, protocol)
        )
    for dotted in (
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "builtins.getattr",
        "torch.load",
        "builtins.set",
        "torch.jit.load",
        "torch.storage.os.system",
        "collections.OrderedDict.__init__",
        "torch._utils._rebuild_tensor_v2.__globals__",
        "numpy.load",
        "numpy._core.multiarray._reconstruct",
    ):
        refused(toy, dotted, data=framed(call(dotted, command)))
        refused(toy, dotted, data=with_weight(call(dotted, command)))
    refused(toy, "os.system", data=framed(b"cos\nsystem\n" + command + b"\x85R"))
    refused(toy, data=framed(named("os.system")))
    refused(toy, data=framed(plain("os") + plain(1) + pickle.STACK_GLOBAL))
    refused(toy, "os.x", data=framed(named("os.x\n\x1b[2J" + "y" * 100_000)))


@pytest.mark.parametrize(
    "code",
    [
        b"(ios\nsystem\n",
        b"(o",
        b"Pid\n",
        b"Q",
        b"\x82\x01",
        b"\x96" + bytes(8),
        b"\x97",
        b"2",
        b"0",
        b"I1\n",
        b"S'x'\n",
        b"\x8b" + bytes(4),
        b"\x8d" + bytes(8),
        b"\x8e" + bytes(8),
        b"\x90",
        b"\x91",
        b"\x92",
        b"\xff",
    ],
)
def test_refuses_instructions(toy, code):
    refused(toy, "instruction", data=framed(pickle.EMPTY_LIST + code))


def test_refuses_allowed_names_with_hostile_arguments(toy):
    touch = pickle.dumps(Touch(toy))
    attributes = plain((None, {"__code__": 1, "__class__": 2}))
    for weight in (
        storage(touch),
        storage(touch * 5),
        call("torch.storage._load_from_bytes", plain("text")),
        call("torch._utils._rebuild_parameter", plain("text"), plain(True), plain(None)),
        call("collections.OrderedDict", plain([["a", 1]])),
        call("torch.nn.modules.container.ModuleDict", plain(1)),
        call("numpy.dtype", plain("O"), plain(False), plain(True)),
        call("numpy.dtype", plain([("a", "f8")] * 2)),
        call("numpy._core.multiarray.scalar", named("numpy.dtype"), touch[2:-1]),
        call(
            "torch_utils.persistence._reconstruct_persistent_obj",
            plain({"class_name": "x", "state": None}),
        ),
        named("collections.OrderedDict") + attributes + pickle.BUILD,
        named("torch._utils._rebuild_parameter") + attributes + pickle.BUILD,
        call("collections.OrderedDict") + attributes + pickle.BUILD,
        tensor() + plain((1, 2, 3, 4)) + pickle.BUILD,
        storage(storage_file()) + attributes + pickle.BUILD,
        tensor() + plain(()) + pickle.REDUCE,
        plain("text") + plain(()) + pickle.NEWOBJ,
        plain(7),
        plain([1]),
        named("collections.OrderedDict"),
        storage(storage_file()),
    ):
        refused(toy, data=with_weight(weight))
    # nothing was changed on the way
    assert isinstance(read_network_of(toy, with_weight(tensor())), NetworkRecord)


def read_network_of(path, data: bytes) -> NetworkRecord:
    path.write_bytes(data)
    return read_network(path)


def test_refuses_hostile_storages(toy):
    good = storage_file()
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    assert good.startswith(magic)
    for data in (
        magic + pickle.dumps(Touch(toy), 2) + good[len(magic) + 6 :],
        good.replace(b"ctorch\nFloatStorage\n", b"cos\nsystem\n"),
        good.replace(b"FloatStorage", b"BoolStorage"),
        good.replace(b"FloatStorage", b"DoubleStorage"),
        good.replace(b"K\x06N", b"K\x07N"),
        good.replace(b"K\x06N", b"J\xff\xff\xff\x7fN"),
        good.replace(b"K\x06N", b"\x8a\x06" + b"\x7f" * 6 + b"N"),
        good.replace(b"K\x06N", b"J\xff\xff\xff\xffN"),
        good.replace(b"K\x06N", b"K\x06K\x01"),
        good.replace(b"\x06" + bytes(7), b"\x06" + bytes(6) + b"\x7f"),
        good + b"x",
        good[:-1],
        good[:200],
        b"",
        good[17:],
        good.replace(b"little_endian", b"little_endiax"),
        good.replace(b"M\xe9\x03.", b"M\xea\x03."),
        b"PK\x03\x04" + good,
    ):
        assert data != good
        refused(toy, data=with_weight(tensor(of=storage(data))))


@pytest.mark.parametrize(
    "view",
    [
        dict(offset=1),
        dict(offset=-1),
        dict(offset=2**40),
        dict(size=(2, 4)),
        dict(size=(7,), stride=(1,)),
        dict(size=(3, 2)),
        dict(stride=(4, 1)),
        dict(stride=(-3, 1)),
        dict(stride=(2**62, 1)),
        dict(size=(2**62, 1)),
        dict(size=(2**31, 2**31), stride=(0, 0)),
        dict(size=(7,), stride=(0,)),
        dict(size=(2,), stride=(6,)),
        dict(size=(0, 3)),
        dict(size=(2, 3, 1)),
        dict(size=(1,) * 40, stride=(1,) * 40),
        dict(size=[2, 3]),
        dict(size=6),
        dict(size=(2.0, 3)),
        dict(size=(True, 3)),
        dict(offset=None),
        dict(size=(2, "3")),
    ],
)
def test_refuses_views_outside_their_storage(toy, view):
    refused(toy, "tensor", data=with_weight(tensor(**view)))


def test_refuses_huge_claims(toy):
    for code in (b"B", b"X", b"\x95" + bytes([255] * 4)):
        refused(toy, "ends too early", data=b"\x80\x04" + code + b"\xff\xff\xff\x7f" + b"small")


@pytest.mark.parametrize("code", [b"(", b"]", b")", b"\x94", b"q\x00h\x00", b"(t", b"K\x01"])
def test_refuses_floods_of_instructions(toy, code, monkeypatch):
    monkeypatch.setattr(nvidia_pickle, "MAX_INSTRUCTIONS", 20_000)
    refused(toy, "instructions", data=framed(b"N" + code * 20_000))


def test_counts_instructions_of_storages_too(toy):
    long = storage_file().replace(b"}q\0(", b"}q\0X\1\0\0\0x(" + b"N" * 10_000 + b"ts(", 1)
    read_network_of(toy, with_weight(tensor(of=storage(long))))
    refused(toy, "instructions", data=framed(storage(long) * (MAX_INSTRUCTIONS // 10_000 + 1)))


@pytest.mark.parametrize("nest", [pickle.APPEND, pickle.TUPLE1])
def test_survives_deep_nesting(toy, nest):
    depth = MAX_INSTRUCTIONS // 2 - 100
    deep = pickle.EMPTY_LIST * (depth if nest == pickle.APPEND else 1) + nest * (depth - 1)
    refused(toy, data=framed(deep))
    refused(toy, "constructor arguments", data=framed(module(init_kwargs=table({"deep": deep}))))


def doubled(levels: int, leaf: bytes, joined) -> bytes:
    """A value that holds the one below twice, `levels` times: 2**levels leaves when spelled out."""
    content = leaf + put(0)
    for level in range(levels):
        content = joined(content, get(level)) + put(level + 1)
    return content


def test_refuses_small_files_that_describe_huge_networks(toy):
    twice = {
        "lists": doubled(60, pickle.EMPTY_LIST, lambda a, b: b"](" + a + b + b"e"),
        "tuples": doubled(60, b")", lambda a, b: a + b + b"\x86"),
    }
    for value in twice.values():
        refused(toy, data=framed(value))
        refused(toy, data=framed(module(init_kwargs=table({"x": value}))))
        refused(toy, data=framed(b"}" + value + b"Ns"))  # as a key: hashing it would take for ever
        refused(toy, data=framed(plain("os") + value + pickle.STACK_GLOBAL))
        refused(toy, data=with_weight(tensor(of=value)))
        refused(toy, data=framed(module(class_name="x").replace(plain("x"), value)))
    networks = doubled(60, module(), lambda a, b: module(modules=table({"a": a, "b": b})))
    refused(toy, "structure", data=framed(networks))
    shared = table(
        {"a": module(table({"w": tensor() + put(9)})), "b": module(table({"w": get(9)}))}
    )
    refused(toy, "structure", data=framed(module(modules=shared)))
    network, children = put(8), put(7)
    cyclic = module(modules=pickle.EMPTY_DICT + children) + network
    knot = get(7) + plain("a") + get(8) + pickle.SETITEM
    refused(toy, "structure", data=framed(table({"ema": cyclic, "rest": knot})))
    chain = module()
    for _ in range(300):
        chain = module(modules=table({"a": chain}))
    refused(toy, "name", data=framed(chain))
    refused(toy, "name", data=framed(module(table({"n" * 300: tensor()}))))


def test_one_storage_serves_one_tensor(toy):
    """Otherwise a megabyte could become a terabyte."""
    weights = table({"a": tensor(of=storage(storage_file()) + put(5)), "b": tensor(of=get(5))})
    refused(toy, "tensor", data=framed(module(weights)))
    data = storage_file(tuple(range(1, 300)))
    blob = pickle.BINBYTES + struct.pack("<I", len(data)) + data + put(5)
    weights = {
        "a": tensor(of=call("torch.storage._load_from_bytes", blob)),
        "b": tensor(of=call("torch.storage._load_from_bytes", get(5))),
    }
    refused(toy, data=framed(module(table(weights))))


def test_names_may_not_collide(toy):
    below = table({"a": module(table({"w": tensor()}))})
    refused(toy, "a.w", "twice", data=framed(module(table({"a.w": tensor()}), below)))


def test_refuses_constructor_arguments_that_are_not_plain(toy):
    for value in (module(), tensor(), plain([[[[1]]]]), plain(list(range(100))), pickle.EMPTY_SET):
        refused(
            toy, "constructor arguments", data=framed(module(init_kwargs=table({"odd": value})))
        )


def test_refuses_malformed_structures(toy):
    for content in (
        pickle.EMPTY_LIST + b"(NNu",
        pickle.EMPTY_DICT + b"(NNe",
        pickle.EMPTY_DICT + b"(" + plain("a") + b"u",
        pickle.EMPTY_TUPLE + b"Na",
        b"t",
        b"a",
        b"s",
        b"R",
        b"b",
        b"\x94",
        b"h\x07",
        b"\x87",
        b"",
        b"u",
        b"e",
        plain("\ud800") + plain("x") + pickle.STACK_GLOBAL,
        b"X\x02\0\0\0\xff\xff",
        b"cno newline",
        module(plain({"w": 1})),
        module(plain([1])),
        module(modules=plain({"a": 1})),
        module(init_kwargs=plain(None)),
        named("torch.nn.modules.container.ModuleDict") + b")\x81" + module() + b"b",
    ):
        refused(toy, data=framed(content))
    bare = named("torch.nn.modules.container.ModuleDict") + b")\x81"
    refused(toy, "structure", data=framed(module(modules=table({"enc": bare}))))
