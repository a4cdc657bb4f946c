"""The README and docs/*.md: their commands are understood and run on tiny networks, their numbers
are measured ones, their links lead somewhere."""

import contextlib
import functools
import importlib
import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from unittest import mock

import click
import numpy as np
import pytest
import torch
from PIL import Image

import edm
from dg.data import reader
from dg.data.images import ImageSet
from dg.evaluation import features
from dg.evaluation.random_vgg import RandomVGG
from dg.options.reproduce import BY_HAND
from dg.pretraining.presets import CLASSIFIER_PRESETS
from dg.runtime import downloads
from tests.dg.test_adapters import heun_of_another_library
from tests.documents import ADDED, PAGES, ROOT, commands, examples, on_tiny_networks, script_of
from tests.edm.test_score_sde import checkpoint_of
from tests.scripts import run, succeed
from tests.tiny_adm import publish
from tests.tiny_imagenet import write_models

RESULTS = ROOT / "docs" / "results"


def by_page(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


def leaves(command):
    """A command, or the subcommands of a group."""
    return [*command.commands.values()] if isinstance(command, click.Group) else [command]


def quoted(arguments):
    return " ".join(f"'{word}'" for word in arguments).replace("{", "{{").replace("}", "}}")


@by_page(PAGES)
def test_every_command_is_understood(page, monkeypatch):
    """Scripts and options exist and take these values; files of other commands exist."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    for words in commands(page):
        if found := script_of(words):
            script, arguments = found
            main = importlib.import_module(script.removesuffix(".py")).main
            with contextlib.ExitStack() as stack:
                for leaf in leaves(main):
                    stack.enter_context(mock.patch.object(leaf, "callback", lambda **_: None))
                    done = run(quoted([script.removesuffix(".py"), *arguments]))
            assert done.code == 0, f"{' '.join(words)}: {done.err}"
        elif "-m" in words:
            assert find_spec(words[words.index("-m") + 1]), words
        elif "-r" in words:
            assert (ROOT / words[words.index("-r") + 1]).is_file(), words


# ---- on tiny networks


def images(resolution, channels, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, [24, resolution, resolution, channels], dtype=np.uint8)


SIZES = {"cifar10": (32, 3), "mnist": (28, 1), "mnist-14": (14, 1)}  # of sets that are downloaded


def small_named_set(name, split=None, load=reader.load_named):
    """What a name stands for, in 24 images; random ones for sets that are downloaded."""
    resolution, channels = SIZES.get(name, (None, None))
    if resolution is None:
        whole = load(name, split)
        return whole.subset(np.arange(24))
    split = split or "train"
    pixels = images(resolution, channels, seed=len(split))
    return ImageSet(pixels, np.arange(24) % 10, f"{name}:{split}")


def save_pictures(folder, resolution, classes):
    for index, pixels in enumerate(images(resolution, 3)):
        place = folder / f"n{index % classes}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index}.png")


one_random_vgg = functools.cache(RandomVGG)  # whose weights take a second to draw


def no_download(source, *_):
    raise ValueError(f"{source.name} would be downloaded")


@pytest.fixture(scope="session")
def stand_ins(authors, made, tmp_path_factory):
    """A folder with something tiny under every name that the pages take for granted."""
    folder = tmp_path_factory.mktemp("stand-ins")
    shutil.copytree(authors / "checkpoints", folder / "checkpoints")
    (folder / "checkpoints" / "pretrained_score").mkdir()
    (folder / "cache").mkdir()
    for kind in ("uncond", "cond"):
        name, net = f"edm-cifar10-32x32-{kind}-vp", authors / f"{kind}.safetensors"
        for place in (name, f"cache/{name}.pkl", f"checkpoints/pretrained_score/{name}.pkl"):
            shutil.copy(net, folder / place)
    colour = {"arr_0": images(32, 3), "label": np.arange(24) % 10}
    grey = {"samples": images(28, 1), "seeds": np.arange(24)}
    drawn = {"samples": images(32, 3), "seeds": np.arange(24)}
    for place, arrays in {
        "cache/fid-ref-cifar10-32x32.npz": colour,
        "cache/adm-ref-imagenet-256.npz": {"arr_0": images(16, 3)},
        "stats/cifar10-32x32.npz": colour,
        "data/true_data.npz": {"arr_0": images(32, 3)},
        "mnist-out/samples_000000-000023.npz": grey,
        "generated/samples_000000-000023.npz": drawn,
        "epoch-5/samples_000000-000023.npz": drawn,
        "epoch-10/samples_000000-000023.npz": drawn,
    }.items():
        (folder / place).parent.mkdir(exist_ok=True)
        np.savez(folder / place, **arrays)
    save_pictures(folder / "my-images", 16, 2)
    save_pictures(folder / "photographs", 80, 2)
    torch.save(checkpoint_of("vp_ddpmpp"), folder / "checkpoint_8.pth")
    for name, file in {"score/network": made["net"], "disc/best": made["head"]}.items():
        place = folder / "runs" / f"{name}.safetensors"
        place.parent.mkdir(parents=True)
        shutil.copy(file, place)
    return folder


@pytest.fixture
def here(stand_ins, tmp_path, monkeypatch):
    """A copy of that folder as the current one; nothing is downloaded, and presets are small."""
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    monkeypatch.setenv("DG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(reader, "load_named", small_named_set)
    monkeypatch.setattr(features, "RandomVGG", one_random_vgg)
    for fetch in ("_fetch_url", "_fetch_drive"):
        monkeypatch.setattr(downloads, fetch, no_download)
    for name in ("cifar10", "cifar10-small"):
        small = dict(model_channels=64, num_res_blocks=1, channel_mult=(1,))
        small |= dict(attention_resolutions=(), precision="float32")
        monkeypatch.setitem(CLASSIFIER_PRESETS, name, replace(CLASSIFIER_PRESETS[name], **small))
    return tmp_path


@pytest.fixture
def with_imagenet(here, monkeypatch):
    """And what the pages on DiT and ADM take for granted."""
    pytest.importorskip("diffusers")
    publish(monkeypatch, 0, 5)
    models = here / "models"
    models.mkdir()
    made = write_models(models)
    for place, name in {
        "dit-xl-2-256": "dit",
        "sd-vae-ft-mse": "dit/vae",
        "sd-vae-ft-ema": "other-vae",
        "adm-256": "adm.pt",
        "adm-256-classifier": "classifier.pt",
        "dg-imagenet256-classifier": "features.pt",
        "dg-imagenet256-discriminator": "head.pt",
    }.items():
        (here / place).symlink_to(made["models"] / name)
    save_pictures(here / "ImageNet2012" / "train", 40, 10)
    np.savez(here / "real.npz", samples=images(8, 3), label=np.arange(24) % 5)
    return here


NEED_DIFFUSERS = {"imagenet", "coming-from", "claims"}
WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.mark.slow
@by_page(WITH_COMMANDS)
def test_every_command_runs_on_tiny_networks(page, here, request):
    if page.stem in NEED_DIFFUSERS:
        request.getfixturevalue("with_imagenet")
    for words in commands(page):
        if found := script_of(words):
            script, arguments = found
            succeed(quoted([script[:-3], *on_tiny_networks(script, arguments)]))
        elif "tests.edm.nvidia_writer" in words:
            with mock.patch.object(sys, "argv", words[2:]):
                runpy.run_module(words[2], run_name="__main__")
        elif words[0] in ("mkdir", "mv"):
            subprocess.run(["bash", "-c", " ".join(words)], check=True)
        else:
            assert is_started_elsewhere(words), words


def is_started_elsewhere(words):
    """What installs, and the tests and benchmarks, which have tests of their own."""
    modules = ("venv", "pytest", "benchmarks.")
    return words[0].endswith("pip") or ("-m" in words and words[2].startswith(modules))


# ---- Python examples


class KDiffusion(ModuleType):
    """The two functions of k_diffusion that an example calls."""

    def __init__(self):
        super().__init__("k_diffusion")
        self.sampling = SimpleNamespace(
            sample_heun=heun_of_another_library,
            get_sigmas_karras=lambda n, low, high: torch.cat(
                [edm.sampler.noise_schedule(n, low, high, 7), torch.zeros(1)]
            ),
        )


@pytest.mark.diffusers
@by_page([page for page in PAGES if examples(page)])
def test_every_example_runs_on_tiny_networks(page, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "k_diffusion", KDiffusion())
    for example in examples(page):
        if "diffusers" in example:
            prepare_diffusers(monkeypatch)
        left = {}
        exec(compile(example, str(page), "exec"), left)
        for name in ("images", "samples", "x"):
            assert name not in left or left[name].isfinite().all()


def prepare_diffusers(monkeypatch):
    """A small network in place of a published one, and a discriminator of its images."""
    diffusers = pytest.importorskip("diffusers")
    succeed(
        "train --extractor none --width 64 --data digits --sample_dir digits --save_dir "
        "runs/disc-pixels " + ADDED["train.py"]
    )
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    unet = diffusers.UNet2DModel(8, 1, 1, block_out_channels=(32,), layers_per_block=1, **blocks)
    monkeypatch.setattr(diffusers.UNet2DModel, "from_pretrained", lambda name: unet)
    scheduler = diffusers.DDIMScheduler()
    monkeypatch.setattr(diffusers.DDIMScheduler, "from_pretrained", lambda name: scheduler)
    pipe = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    monkeypatch.setattr(diffusers.DDPMPipeline, "from_pretrained", lambda name: pipe)


# ---- numbers and links


def test_the_readme_shows_the_commands_of_the_report():
    weight = json.loads((RESULTS / "quickstart" / "results.json").read_text())["selection"]
    by_hand = BY_HAND["quickstart"].format(weight=weight["chosen"])
    assert by_hand in (ROOT / "README.md").read_text(encoding="utf-8")


def measured(entry):
    """Every (mean, spread) in a results file."""
    if isinstance(entry, list):
        for value in entry:
            yield from measured(value)
    elif isinstance(entry, dict):
        spread = entry.get("sd", entry.get("standard_error"))
        for mean in ("mean", "difference", "value"):
            if mean in entry and spread is not None:
                yield entry[mean], spread
        for value in entry.values():
            yield from measured(value)


def rounds_to(value, written):
    decimals = len(written.partition(".")[2])
    return abs(value - float(written)) <= 0.5 * 10**-decimals + 1e-9


@by_page(PAGES)
def test_every_mean_with_a_spread_was_measured(page):
    found = [
        pair for path in RESULTS.glob("*/*.json") for pair in measured(json.loads(path.read_text()))
    ]
    text = page.read_text(encoding="utf-8")
    for mean, spread in re.findall(r"(-?\d+(?:\.\d+)?)\s±\s(\d+(?:\.\d+)?)", text):
        assert any(rounds_to(m, mean) and rounds_to(s, spread) for m, s in found), (
            f"{mean} ± {spread}"
        )


LINK = re.compile(r"(?<=\]\()<?[^)\s]+|(?<= src=\")[^\"]+")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(page):
    """What headings can be linked by, as on the usual hosts."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")]
OTHERS += [ROOT / name / "README.md" for name in ("pretrained", "stats")]
REPORTS = sorted(RESULTS.glob("*/report.md"))


@pytest.mark.parametrize(
    "page", [*PAGES, *OTHERS, *REPORTS], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_every_link_leads_somewhere(page):
    for found in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        link = found.strip("<>")
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in PAGES if page.parent.name == "docs"} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()
