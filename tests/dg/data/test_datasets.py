import io
import json
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from dg.data import image_files
from dg.data.datasets import ImageSet, load_images, pooled, to_float, to_uint8
from dg.data.named_sets import CONTENT, content_of_set

RNG = np.random.RandomState(0)
RGB = RNG.randint(0, 256, (12, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def png(image, mode=None, **options):
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(buffer, "png", **options)
    return buffer.getvalue()


def tiff(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "tiff")
    return buffer.getvalue()


def put(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def refused(match, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        load_images(*args, **kwargs)
    assert "\n" not in str(caught.value)


# ---- image sets


def test_image_set():
    images = ImageSet(RGB, LABELS.astype(np.uint8), "set")
    assert (len(images), images.resolution, images.channels, images.num_classes) == (12, 8, 3, 3)
    assert images.labels.dtype == np.int64
    first = images.take(1)
    # a part knows the classes of the whole
    assert np.array_equal(first.images, RGB[:1]) and first.num_classes == 3
    assert np.array_equal(images.subset([5, 2]).labels, LABELS[[5, 2]])
    assert ImageSet(RGB, None, "set").num_classes == 0
    with pytest.raises(ValueError, match="13 images asked for, 12 found"):
        images.take(13)
    with pytest.raises(ValueError, match="8x4; crop"):
        _ = ImageSet(RGB[:, :, :4], None, "set").resolution


@pytest.mark.parametrize(
    ("images", "labels", "classes", "match"),
    [
        (RGB.astype(np.float32), None, None, "uint8"),
        (RGB[..., :2], None, None, "not images"),
        (RGB[:0], None, None, "at least one"),
        (RGB, LABELS[:5], None, "5 labels for 12 images"),
        (RGB, LABELS - 1, None, "label -1 is negative"),
        (RGB, LABELS, 2, "label 2 is out of range; 2 classes"),
        (RGB, LABELS / 2, None, "one integer per image"),
    ],
)
def test_image_sets_that_are_none(images, labels, classes, match):
    with pytest.raises(ValueError, match=match):
        ImageSet(images, labels, "set", classes)


def test_float_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_float(levels)
    assert x.shape == (1, 1, 16, 16) and x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert np.array_equal(to_uint8(x), levels)
    assert to_float(RGB)[3, 2, 1, 0] == pytest.approx(RGB[3, 1, 0, 2] / 127.5 - 1)
    x = torch.tensor([-1.5, -1, -0.0001, 0, 1, 1.5])
    assert to_uint8(x.reshape(1, 1, 1, 6)).ravel().tolist() == [
        0, 0, 127, 128, 255, 255,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.full((1, 1, 2, 2), float("nan")))


# ---- embedded and downloaded


def test_digits():
    whole, train, heldout = (
        load_images(name) for name in ("digits", "digits:train", "digits:heldout")
    )
    assert (len(whole), len(train), len(heldout)) == (1797, 1437, 360)
    assert whole.images.shape == (1797, 8, 8, 1) and whole.images.max() == 255
    assert whole.labels[:4].tolist() == [0, 1, 2, 3]
    share = np.bincount(heldout.labels) / np.bincount(whole.labels)
    assert abs(share - 0.2).max() < 0.01

    def row(images, i):
        return images.images[i].tobytes() + bytes([images.labels[i]])

    rows = sorted(row(part, i) for part in (train, heldout) for i in range(len(part)))
    assert rows == sorted(row(whole, i) for i in range(len(whole)))
    assert heldout.images.sum(dtype=np.int64) == 1790973  # the split never moves
    assert np.array_equal(load_images("digits", split="train").images, train.images)
    refused("no split 'test'; it has train and heldout", "digits:test")
    refused("2000 images asked for, 1797 found", "digits", 2000)
    refused("give one of them", "digits:train", split="heldout")


def test_torchvision(tmp_path, monkeypatch):
    class CIFAR10:
        def __init__(self, root, train, download):
            print("Files already downloaded")
            if train:
                raise OSError("<urlopen error\nno network>")
            self.data, self.targets = RGB, LABELS.tolist()

    class MNIST:
        def __init__(self, root, train, download):
            self.data, self.targets = torch.as_tensor(RGB[..., 0]), torch.as_tensor(LABELS)

    package = types.ModuleType("torchvision")
    package.datasets = types.SimpleNamespace(CIFAR10=CIFAR10, MNIST=MNIST)
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", package.datasets)
    monkeypatch.setenv("DG_CACHE_DIR", str(tmp_path))
    assert np.array_equal(load_images("cifar10:test").images, RGB)
    refused(
        rf"the 12 images in {tmp_path}/MNIST/raw are not those of mnist:train; delete that folder",
        "mnist",
    )
    content = content_of_set(ImageSet(RGB[::-1, ..., :1], LABELS[::-1], "another order"))
    monkeypatch.setitem(CONTENT, "mnist:train", content)
    assert load_images("mnist", 5).images.shape == (5, 8, 8, 1)
    refused(
        r"no network.*get https://www.cs.toronto.edu/.*cifar-10-python.tar.gz and put it in "
        rf"{tmp_path}",
        "cifar10",
    )


def test_the_embedded_images_are_those_of_mnist():
    assert content_of_set(load_images("mnist-small:test")) == CONTENT["mnist:test"]


# ---- npz


@pytest.mark.parametrize(
    "arrays",
    [
        {"samples": RGB, "label": np.eye(3)[LABELS]},
        {"samples": RGB, "label": LABELS[:, None]},
        {"images": RGB, "labels": LABELS},
        {"arr_0": RGB, "arr_1": LABELS.astype(np.uint8)},
        {
            "train_images": RGB,
            "train_labels": LABELS,
            "test_images": RGB[:3],
            "test_labels": LABELS[:3],
        },
        {"images": RGB.transpose(0, 3, 1, 2), "labels": LABELS},
    ],
)
def test_npz(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    images = load_images(tmp_path / "a.npz")
    assert (
        np.array_equal(images.images, RGB)
        and np.array_equal(images.labels, LABELS)
        and images.num_classes == 3
    )
    if "test_images" in arrays:
        assert len(load_images(f"{tmp_path}/a.npz:test")) == 3
    else:
        refused("no split 'test'", f"{tmp_path}/a.npz:test")


def test_grey_npz(tmp_path):
    np.savez(tmp_path / "a.npz", RGB[..., 0])
    images = load_images(tmp_path / "a.npz")
    assert np.array_equal(images.images, RGB[..., :1]) and images.labels is None


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"images": RGB / 255}, r"a.npz: images are float64, not uint8; convert"),
        ({"images": RGB.astype(np.int64)}, "int64, not uint8"),
        ({"images": RGB[0, 0]}, "not images"),
        ({"images": RGB, "labels": LABELS[:4]}, "a.npz: 4 labels for 12 images"),
        ({"images": RGB, "labels": LABELS - 1}, "negative"),
        ({"samples": RGB, "label": np.ones((12, 3))}, "not one-hot"),
        ({"samples": RGB, "seeds": np.arange(3)}, "one integer per image"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "reference statistics"),
        ({"pixels": RGB}, "holds pixels; save images under"),
        ({"images": np.array([{}, []], dtype=object)}, "images cannot be read"),
    ],
)
def test_npz_that_is_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(match, tmp_path / "a.npz")


def test_damaged_npz(tmp_path):
    np.savez(tmp_path / "a.npz", images=RGB)
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (
        whole[:-100],
        b"",
        b"\x80\x04garbage",
        whole[:600] + bytes([whole[600] ^ 1]) + whole[601:],
    ):
        (tmp_path / "a.npz").write_bytes(content)
        refused(r"a.npz.* cannot be read", tmp_path / "a.npz")


def test_shards_are_joined_by_seed_or_by_name(tmp_path):
    for name, index in [("samples_b", [0, 2]), ("samples_a", [3, 1])]:
        np.savez(tmp_path / name, samples=RGB[index], label=np.eye(3)[LABELS[index]], seeds=index)
    (tmp_path / "sample_grid.png").touch()
    images = load_images(tmp_path, 3)
    assert np.array_equal(images.images, RGB[:3]) and np.array_equal(images.labels, LABELS[:3])
    np.savez(tmp_path / "samples_c", samples=RGB[[3]], label=[[0, 0, 1]], seeds=[3])
    refused(r"samples_a.npz and .*samples_c.npz both hold seed 3", tmp_path)
    np.savez(tmp_path / "samples_c", samples=RGB[[3]])
    refused("only one has labels", tmp_path)
    np.savez(tmp_path / "samples_c", samples=RGB[[3], :4, :4], label=[2])
    refused("4x4 RGB but .* 8x8 RGB", tmp_path)
    np.savez(tmp_path / "samples_c", samples=RGB[[4]], label=[2])
    assert np.array_equal(load_images(tmp_path).images, RGB[[3, 1, 0, 2, 4]])


# ---- image files


def test_folder_in_order_of_seeds(tmp_path):
    put(
        tmp_path, {f"{seed:06d}.png": png(RGB[i]) for i, seed in enumerate([0, 5, 999999, 1000000])}
    )
    images = load_images(tmp_path)
    assert np.array_equal(images.images, RGB[:4]) and images.labels is None
    assert np.array_equal(load_images(tmp_path, 2).images, RGB[:2])
    refused("5 images asked for, 4 found", tmp_path, 5)
    put(tmp_path, {"000005.jpg": b""})
    refused(r"000005\.\w+ and 000005\.\w+ are of the same seed", tmp_path)


def test_large_images_in_parallel(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "CHUNK", 1)
    large = RNG.randint(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    put(tmp_path, {f"{i}.png": png(image) for i, image in enumerate(large)})
    assert np.array_equal(load_images(tmp_path).images, large)
    put(tmp_path, {"5.png": b""})
    refused("5.png cannot be read", tmp_path)


def test_edm_subdirs_are_not_classes(tmp_path):
    put(
        tmp_path,
        {f"{i // 2 * 1000:06d}/{i // 2 * 1000 + i:06d}.png": png(RGB[i]) for i in range(6)},
    )
    images = load_images(tmp_path)
    assert np.array_equal(images.images, RGB[:6]) and images.labels is None


def test_class_folders_and_splits(tmp_path):
    names = ["cat", "dog", "owl"]
    put(tmp_path, {f"train/{names[LABELS[i]]}/{i:04d}.png": png(RGB[i]) for i in range(12)})
    images = load_images(f"{tmp_path}:train")
    order = np.argsort(LABELS, kind="stable")
    assert np.array_equal(images.images, RGB[order]) and np.array_equal(
        images.labels, LABELS[order]
    )
    assert load_images(tmp_path / "train", 1).num_classes == 3
    put(tmp_path, {"one/images/0.png": png(RGB[0])})
    assert load_images(tmp_path / "one").labels is None  # a sub-folder on its own is no class
    refused("no sub-folder 'test'", tmp_path, split="test")


@pytest.mark.parametrize("packed", [False, True])
def test_dataset_json(tmp_path, packed):
    files = {f"{i // 4:05d}/img{i:08d}.png": png(RGB[i]) for i in range(12)}

    def source(labels):
        put(tmp_path / "a", {**files, "dataset.json": {"labels": labels}})
        if not packed:
            return tmp_path / "a"
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in ["dataset.json", *reversed(files)]:
                archive.write(tmp_path / "a" / name, name)
        return tmp_path / "a.zip"

    pairs = [[name, int(label)] for name, label in zip(files, LABELS, strict=True)]
    images = load_images(source(pairs[::-1]))
    assert np.array_equal(images.images, RGB) and np.array_equal(images.labels, LABELS)
    assert load_images(source(None)).labels is None  # not class folders either
    refused("no label for 00002/img00000011.png", source(pairs[:-1]))
    refused("13 labels for 12 images", source([*pairs, ["x.png", 1]]))
    refused("label -1 for", source([*pairs[:-1], [pairs[-1][0], -1]]))
    refused("label 0.5 for", source([*pairs[:-1], [pairs[-1][0], 0.5]]))
    refused("not as EDM writes it", source([1, 2]))


def test_modes(tmp_path):
    rgba = np.concatenate([RGB[0], np.full((8, 8, 1), 9, np.uint8)], axis=2)
    put(tmp_path / "colour", {"0.png": png(rgba), "1.png": png(RGB[1, ..., :1].repeat(3, 2), "P")})
    assert np.array_equal(load_images(tmp_path / "colour").images[0], RGB[0])
    assert load_images(tmp_path / "colour").channels == 3
    put(tmp_path / "grey", {"0.png": png(RGB[0, ..., 0]), "1.png": png(RGB[1, ..., 0], "LA")})
    assert np.array_equal(load_images(tmp_path / "grey").images, RGB[:2, ..., :1])
    put(tmp_path / "deep", {"0.tif": tiff(RGB[0, ..., 0].astype(np.float32))})
    refused("0.tif cannot be read .floating-point values", tmp_path / "deep")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("7.png", png(RGB[0, :4, :4]), "7.png is 4x4 RGB but 0.png is 8x8 RGB"),
        ("7.png", png(RGB[0, ..., 0]), "7.png is 8x8 grey but 0.png is 8x8 RGB"),
        ("7.png", png(RGB[0])[:-40], "7.png cannot be read"),
        ("7.png", b"", "7.png cannot be read"),
        ("7.jpg", b"\xff\xd8\xff\xe0 no", "7.jpg cannot be read"),
    ],
)
def test_one_bad_image_is_named(tmp_path, name, content, match):
    put(tmp_path, {**{f"{i}.png": png(RGB[i]) for i in range(7)}, name: content})
    refused(match, tmp_path)


def test_what_is_not_there(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "a.zip").write_bytes(b"PK no")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("__MACOSX/._0.png", b"")
    refused("does not exist", tmp_path / "nothing")
    refused("holds no PNG or JPEG", tmp_path)
    refused("neither an npz", tmp_path / "notes.txt")
    refused("a.zip cannot be read", tmp_path / "a.zip")
    refused("b.zip holds no PNG", tmp_path / "b.zip")


def test_importing_datasets_loads_nothing_heavy():
    script = (
        "import sys, dg.data.datasets\n"
        "print({'torch', 'sklearn', 'torchvision', 'PIL'} & set(sys.modules) or 'light')"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
        == "light\n"
    )


def test_pooling_averages_squares():
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    # 2.5 and 4.5 to even
    assert pooled(ImageSet(images, None, "x"), 2).images[0, :, :, 0].tolist() == [
        [2, 4],
        [10, 12],
    ]


def test_embedded_mnist_has_the_images_of_mnist():
    train, test = (load_images(f"mnist-small:{split}") for split in ("train", "test"))
    for data in (train, test):
        assert data.images.shape == (10_000, 28, 28, 1) and data.num_classes == 10
        assert min(np.bincount(data.labels[:1000])) > 70  # no part lacks a class
    assert np.bincount(test.labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert not set(map(bytes, train.images)) & set(map(bytes, test.images))


def test_halved_mnist_is_its_average_over_squares():
    whole, halved = load_images("mnist-small:test", 3), load_images("mnist-small-14:test", 3)
    assert np.array_equal(halved.images, pooled(whole, 2).images)
    assert np.array_equal(halved.labels, whole.labels) and halved.resolution == 14
    assert load_images("mnist-small-14").name == "mnist-small-14:train"
