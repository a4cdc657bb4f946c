"""Files of every kind, mutated by seed: `python -m tests.attacks [--cases N] [KIND ...]`.

Whatever is done to a file, reading it gives what was written, or one line that names the file:
never a traceback, never other values in silence, within 10 seconds and a gigabyte. Prints a table
of kinds, cases and outcomes, and leaves with 1 where there is an outcome that must not be.
"""

import argparse
import io
import json
import multiprocessing
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import edm
from dg.checkpoints import load_discriminator, save_head
from dg.data.latents import LatentStore, load_latents
from dg.data.manifests import was_generated
from dg.data.reader import open_images
from dg.data.sample_store import SampleStore
from dg.evaluation.classifier import FeatureClassifier, load_classifier, save_classifier
from dg.evaluation.feature_sets import FeatureSet, load_features, save_features
from dg.extractors import PixelExtractor
from dg.heads import ScoreHead
from dg.models.ddpm import DDPM, save_ddpm
from dg.models.loading import load_model
from dg.models.vae import VAE, save_vae
from dg.pretraining.engine import Run
from dg.runtime.training_state import save_state
from guided_diffusion.loading import read_file
from tests.edm.nvidia_writer import write_network
from tests.edm.test_score_sde import checkpoint_of
from tests.golden_fill import fill

SECONDS, MEMORY = 10, 2**30  # of one case
GOOD = ("refused", "as written", "read")  # outcomes that may be
HOSTILE = [
    None, True, "", "x", "\x00\n", -1, 0, 1, 7, 2.5, 1e308, float("nan"), float("inf"), 10**8,
    10**12, 10**30, [], {}, [[]], [1] * 100, {"a": 1}, ["x"] * 3, "../../x", "9" * 50,
]  # fmt: skip


class Kind(NamedTuple):
    """A sort of file.

    make     writes a good one into a folder and returns its path
    read     reads it and returns its values, which can be compared by `==` after `frozen`
    mutate   (content, random) -> other content
    checked  whether the file carries sums, so that what is read must be what was written
    """

    make: Callable
    read: Callable
    mutate: Callable
    checked: bool = False


# Mutations.


def of_bytes(content: bytes, draw: random.Random) -> bytes:
    """Flipped, missing, repeated, added or zeroed bytes, most of them near the ends, where the
    structure of many formats stands."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        size = len(data)
        near = draw.choice((min(size, 300), size, size))
        at = draw.randrange(near) if near else 0
        at = size - 1 - at if draw.random() < 0.4 and size else at
        length = min(draw.choice((1, 1, 2, 4, 8, 100)), max(size - at, 0))
        action = draw.randrange(6)
        if action <= 1 and size:
            data[at] ^= 1 << draw.randrange(8)
        elif action == 2:
            data[at : at + length] = bytes(draw.choice((0, 255)) for _ in range(length))
        elif action == 3:
            del data[at : at + length]
        elif action == 4:
            data[at:at] = data[at : at + length]
        else:
            data = data[:at] if draw.random() < 0.5 else data + bytes(length)
    return bytes(data)


def of_json(value, draw: random.Random):
    """A value with one to three parts replaced, removed, added or nested."""
    for _ in range(draw.choice((1, 1, 1, 3))):
        value = _changed(value, draw)
    return value


def _changed(value, draw):
    inner = isinstance(value, (dict, list)) and value
    if not inner or draw.random() < 0.15:
        if draw.random() < 0.05:
            for _ in range(2000):
                value = [value]
            return value
        return draw.choice(HOSTILE)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, copied = draw.choice(keys), dict(value) if isinstance(value, dict) else list(value)
    action = draw.random()
    if action < 0.2:
        del copied[key]
    elif action < 0.3 and isinstance(value, dict):
        copied[draw.choice(("extra", "", "class_name"))] = draw.choice(HOSTILE)
    else:
        copied[key] = _changed(copied[key], draw)
    return copied


def of_text(content: bytes, draw: random.Random) -> bytes:
    """JSON with changed parts, or changed bytes."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    return dumped(of_json(json.loads(content), draw)).encode()


def dumped(value) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 20_000 + "]" * 20_000


def of_metadata(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose config says other things, and which has no sum; or whose header has
    changed."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"].pop("sha256", None)
    if draw.random() < 0.75:
        config = json.loads(header["__metadata__"]["config"])
        header["__metadata__"]["config"] = dumped(of_json(config, draw))
    else:
        header = of_json(header, draw)
    text = dumped(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def of_entry(content: bytes, draw: random.Random) -> bytes:
    """A zip archive one of whose entries has changed, with the right sums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        chosen = draw.choice(old.namelist())
        for info in old.infolist():
            data = old.read(info)
            if info.filename == chosen:
                data = of_npy(data, draw) if data[:6] == b"\x93NUMPY" else of_bytes(data, draw)
            if info.filename != chosen or draw.random() < 0.95:
                new.writestr(info, data)
    return out.getvalue()


def of_npy(data: bytes, draw: random.Random) -> bytes:
    """An array with another shape or type in its header, or changed bytes."""
    if draw.random() < 0.3:
        return of_bytes(data, draw)
    length = int.from_bytes(data[8:10], "little")
    header = eval(data[10 : 10 + length], {})  # it was written here
    shapes = [(), (0,), (-1,), (10**12,), (1,) * 40, (2**40, 2**40), (3, 3), (12, 0, 8, 1), (1, 2)]
    types = ["|O", "|V0", "<c16", "<f2", "|b1", "<U9", "<M8[s]", "|S0", ">i8", "<f8", "x", "|u1"]
    if draw.random() < 0.5:
        header["shape"] = draw.choice(shapes)
    else:
        header["descr"] = draw.choice(types)
    text = repr(header).encode() + b" " * 20 + b"\n"
    return data[:8] + len(text).to_bytes(2, "little") + text + data[10 + length :]


# Kinds.


def tiny_network():
    small = dict(model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[])
    return fill(edm.EDMPrecond(8, 1, 3, model_type="SongUNet", **small)).eval()


def make_network(folder):
    edm.save_network(folder / "net.safetensors", tiny_network())
    return folder / "net.safetensors"


def read_network(path):
    net = edm.load_network(path)
    return (type(net).__name__, net.init_kwargs, net.state_dict())


def make_nvidia(folder):
    net = tiny_network()
    write_network(folder / "net.pkl", net, "EDMPrecond", net.init_kwargs)
    return folder / "net.pkl"


def read_model(path):
    net = load_model(path)
    return (type(net).__name__, net.init_kwargs, net.state_dict())


def make_vae(folder):
    save_vae(folder / "vae.safetensors", VAE(8, 1, 8, (1, 1), 4))
    return folder / "vae.safetensors"


def make_ddpm(folder):
    process = dict(schedule="cosine", num_steps=20, variance="fixed_small", mean="epsilon")
    network = dict(model_channels=64, image_size=8, in_channels=1, channel_mult=[1])
    network |= dict(num_res_blocks=1, attention_resolutions=[])
    save_ddpm(folder / "ddpm.safetensors", DDPM(process, network))
    return folder / "ddpm.safetensors"


def make_features(folder):
    save_classifier(folder / "features.safetensors", FeatureClassifier(8, 1, 10, 8, 8))
    return folder / "features.safetensors"


def read_features(path):
    model = load_classifier(path)
    return (model.config, model.state_dict())


def make_head(folder):
    save_head(folder / "head.safetensors", ScoreHead(8, 32, width=8), PixelExtractor())
    return folder / "head.safetensors"


def read_head(path):
    return load_discriminator(head_path=path, net=tiny_network()).heads.state_dict()


def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(4, 3, generator=generator),
        "a.bias": torch.randn(4, generator=generator).half(),
        "b": torch.arange(5, dtype=torch.int64),
    }


def make_torch(folder, **how):
    content = {"ema": weights(), "step": 3, "args": argparse.Namespace(lr=0.1), "log": [1.5, "x"]}
    torch.save(content, folder / "weights.pt", **how)
    return folder / "weights.pt"


def make_legacy(folder):
    return make_torch(folder, _use_new_zipfile_serialization=False)


def make_score_sde(folder):
    torch.save(checkpoint_of("ve_ncsnpp"), folder / "checkpoint_8.pth")
    return folder / "checkpoint_8.pth"


def read_torch(path):
    try:
        return read_file(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def make_script(folder):
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.inner(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Holder().eval(), torch.zeros(1, 3)).save(folder / "script.pt")
    return folder / "script.pt"


def make_state(folder):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = dict(net=net.state_dict(), optimizer=optimizer.state_dict(), step=1)
    state |= dict(identity={"settings": "abc"}, log=[{"loss": 0.5}], recent=[])
    save_state(folder / "state.pt", state)
    return folder / "state.pt"


def read_state(path):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    run = Run(path, {"settings": "abc"}, {"net": net, "optimizer": optimizer})
    return (run.step, run.log, net.state_dict(), optimizer.state_dict())


def pictures():
    return np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)


def make_images(folder):
    seeds, labels = np.arange(12), np.arange(12) % 3
    np.savez(folder / "images.npz", samples=pictures(), label=labels, seeds=seeds)
    return folder / "images.npz"


def make_packed(folder):
    np.savez_compressed(folder / "images.npz", images=pictures(), labels=np.arange(12) % 3)
    return folder / "images.npz"


def make_npy(folder):
    np.save(folder / "images.npy", pictures())
    return folder / "images.npy"


def read_images(path):
    stream = open_images(path)
    images = stream.load()
    return (images.images, images.labels, stream.seeds)


def make_statistics(folder):
    made_by = {"name": "pixels", "sha256": "none", "published_weights": None}
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    mu, sigma = features.mean(0).astype(float), np.cov(features.T)
    found = FeatureSet("x", 20, "ab", made_by, mu, sigma, (mu, sigma), features)
    save_features(folder / "stats.npz", found)
    return folder / "stats.npz"


def read_statistics(path):
    found = load_features(path)
    found.distance(found)
    return (found.mu, found.sigma, found.spatial, found.features, found.num_images)


def png(image) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def make_zip(folder):
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i, image in enumerate(pictures()):
            archive.writestr(f"{i:06d}.png", png(image[..., 0]))
    return folder / "images.zip"


def make_picture(folder):
    (folder / "000000.png").write_bytes(png(pictures()[0, ..., 0]))
    return folder / "000000.png"


def read_folder(path):
    return read_images(path.parent)


def make_table(folder):
    for i, image in enumerate(pictures()):
        (folder / f"{i:06d}.png").write_bytes(png(image[..., 0]))
    entries = [[f"{i:06d}.png", i % 3] for i in range(12)]
    (folder / "dataset.json").write_text(json.dumps({"labels": entries}))
    return folder / "dataset.json"


def make_store(folder):
    store = SampleStore(folder, {"network": "x"}, range(12), 4, class_names=["a", "b", "c"])
    for index, seeds in enumerate(store.batches()):
        store.write(index, pictures()[seeds], np.array(seeds) % 3)
    return folder / "manifest.json"


def read_store(path):
    was_generated(path.parent)
    read_images(path.parent)
    SampleStore(path.parent, {"network": "x"}, range(12), 4, class_names=["a", "b", "c"]).pending()


def make_latents(folder):
    settings = {"vae": "x", "resolution": 8, "sample": False}
    store = LatentStore(folder, settings, range(4), 4)
    store.write(0, np.ones((4, 4, 2, 2), np.float32), np.arange(4))
    return folder / "manifest.json"


def read_latents(path):
    found = load_latents(path.parent)
    return (found.latents, found.labels)


KINDS = {
    "network, bytes": Kind(make_network, read_network, of_bytes, True),
    "network, metadata": Kind(make_network, read_model, of_metadata),
    "network of NVIDIA": Kind(make_nvidia, read_network, of_bytes),
    "DDPM, metadata": Kind(make_ddpm, read_model, of_metadata),
    "VAE, metadata": Kind(make_vae, read_model, of_metadata),
    "VAE, bytes": Kind(make_vae, read_model, of_bytes, True),
    "feature classifier, metadata": Kind(make_features, read_features, of_metadata),
    "discriminator, metadata": Kind(make_head, read_head, of_metadata),
    "torch file, bytes": Kind(make_torch, read_torch, of_bytes, True),
    "torch file, entries": Kind(make_torch, read_torch, of_entry),
    "torch file before 1.6": Kind(make_legacy, read_torch, of_bytes),
    "checkpoint of score_sde": Kind(make_score_sde, read_model, of_entry),
    "TorchScript, entries": Kind(make_script, read_torch, of_entry),
    "training state, bytes": Kind(make_state, read_state, of_bytes, True),
    "training state, entries": Kind(make_state, read_state, of_entry),
    "npz of images, bytes": Kind(make_images, read_images, of_bytes, True),
    "npz of images, entries": Kind(make_images, read_images, of_entry),
    "packed npz, bytes": Kind(make_packed, read_images, of_bytes, True),
    "npy of images": Kind(make_npy, read_images, of_npy),
    "statistics, bytes": Kind(make_statistics, read_statistics, of_bytes, True),
    "statistics, entries": Kind(make_statistics, read_statistics, of_entry),
    "zip of images, bytes": Kind(make_zip, read_images, of_bytes, True),
    "zip of images, entries": Kind(make_zip, read_images, of_entry),
    "PNG": Kind(make_picture, read_folder, of_bytes, True),
    "dataset.json": Kind(make_table, read_folder, of_text),
    "manifest of samples": Kind(make_store, read_store, of_text),
    "manifest of latents": Kind(make_latents, read_latents, of_text),
}


# One case, and all of them.


class Hang(BaseException):
    """A case takes too long."""


def frozen(value):
    """A value that can be compared, tensors and arrays by their bytes."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {str(key): frozen(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(part) for part in value]
    return repr(value)


def case(kind: Kind, path: Path, good: bytes, expected, seed: int) -> tuple[str, str]:
    """(outcome, what is to be told of it) of one mutation of a file."""
    mutated = kind.mutate(good, random.Random(seed))
    path.write_bytes(mutated)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        outcome, told = _outcome(kind, path, expected, mutated == good)
    except Hang:
        outcome, told = "hang", ""
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return ("memory", f"{grown / 2**20:.0f} MiB") if grown > MEMORY else (outcome, told)


def _outcome(kind, path, expected, untouched):
    try:
        found = frozen(kind.read(path))
    except ValueError as error:
        text = str(error)
        if "\n" in text or str(path.parent) not in text or len(text) > 1000 + len(str(path)):
            return "unclear line", text[:300]
        if "out of memory" in text or "allocate" in text or "MemoryError" in text:
            return "memory", text[:300]
        return ("refused", text) if not untouched else ("refused a good file", text)
    except Exception:
        return "traceback", traceback.format_exc()[-700:]
    if found == expected:
        return "as written", ""
    return ("other values", str(path)) if kind.checked else ("read", "")


def _work(name, first, count, pipe):
    """Cases of a kind in a process of its own: sends the number of each, then its outcome."""

    def ring(number, frame):
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    torch.set_num_threads(1)
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = kind.make(Path(folder))
        good, expected = path.read_bytes(), frozen(kind.read(path))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MEMORY,) * 2)
        for seed in range(first, first + count):
            pipe.send(seed)
            pipe.send(case(kind, path, good, expected, seed))
    pipe.send(None)


def outcomes(name: str, count: int, first: int = 0) -> list[tuple[int, str, str]]:
    """(seed, outcome, what is told) of so many cases of a kind; a process that dies or does not
    answer is replaced."""
    found, last = [], first + count
    while first < last:
        ours, theirs = multiprocessing.Pipe(False)
        arguments = (name, first, last - first, theirs)
        worker = multiprocessing.get_context("fork").Process(target=_work, args=arguments)
        worker.start()
        theirs.close()
        seed, what = first, "crash"
        try:
            while True:
                if not ours.poll(60 if seed == first else 2 * SECONDS):
                    what = "hang"
                    break
                answer = ours.recv()
                if answer is None:
                    seed, what = last, None
                    break
                if isinstance(answer, int):
                    seed = answer
                else:
                    found.append((seed, *answer))
                    seed += 1
        except EOFError:
            pass
        worker.kill()
        worker.join()
        if what:
            found.append((seed, what, ""))
        first = seed + 1 if what else last
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=int, default=90, help="of every kind")
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("kinds", nargs="*", help="all of them by default")
    options = parser.parse_args()
    total, bad, start = Counter(), [], time.perf_counter()
    print(f"{'kind':30}{'cases':>6}  outcomes")
    for name in options.kinds or KINDS:
        found = outcomes(name, options.cases, options.first)
        counts = Counter(outcome for _, outcome, _ in found)
        total += counts
        bad += [(name, *one) for one in found if one[1] not in GOOD]
        listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        print(f"{name:30}{len(found):6}  {listed}", flush=True)
    listed = ", ".join(f"{count} {outcome}" for outcome, count in total.most_common())
    print(f"{'all':30}{total.total():6}  {listed}; {time.perf_counter() - start:.0f} s")
    for name, seed, outcome, told in bad[:20]:
        print(f"\n{name}, seed {seed}: {outcome}\n{told}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
