"""The original code, run as it is from checkouts of NVlabs/edm and alsdudrla10/DG, in a process of
its own.

This file is both ends of the pipe. As a script it knows nothing of this project, whose packages
bear some of the same names. The code asks for packages that sampling does not use (tensorflow,
mpi4py, blobfile); empty ones stand in for them.
"""

import functools
import importlib.machinery
import importlib.util
import json
import runpy
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

UNUSED = ("tensorflow", "mpi4py", "blobfile")


class Original:
    """The original code with the weights of `net` and of a discriminator on a classifier.

    edm_repo, dg_repo  checkouts; without the second there is no guided sampling
    latents            [N, C, R, R]  what the images are drawn from
    """

    def __init__(self, edm_repo, dg_repo, net, discriminator, latents, device):
        self.folder = tempfile.TemporaryDirectory()
        self.systems = (
            ("unguided", "classifier") if dg_repo and discriminator is not None else ("unguided",)
        )
        state = {
            "class": type(net).__name__,
            "kwargs": net.init_kwargs,
            "net": net.state_dict(),
            "latents": latents,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "repos": [dg_repo and str(dg_repo), str(edm_repo)],
        }
        if "classifier" in self.systems:
            state |= {
                "classifier": discriminator.extractor.encoder.state_dict(),
                "head": discriminator.heads[0].state_dict(),
            }
        torch.save(state, self.folder.name + "/state.pt")
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.folder.name],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def draw(self, system: str, num_steps: int) -> dict:
        """{"total": seconds, "peak": GiB, "pixels": uint8 [N, R, R, C]} of the sampler's call
        alone."""
        print(system, num_steps, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise ValueError("the original code ended with an error, which stands above")
        images = torch.from_numpy(np.load(self.folder.name + "/images.npy"))
        pixels = (images * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return json.loads(answer) | {"pixels": pixels}


def serve(folder: str) -> None:
    """Draw whatever is asked for on standard input, until it ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    state = torch.load(f"{folder}/state.pt", map_location="cpu")
    torch.set_num_threads(state["threads"])
    device, (dg_repo, edm_repo) = torch.device(state["device"]), state["repos"]
    sys.path[:0] = [path for path in (dg_repo, edm_repo) if path]
    stand_in()
    net = getattr(importlib.import_module("training.networks"), state["class"])(**state["kwargs"])
    net.load_state_dict(state["net"])
    net, latents = net.eval().requires_grad_(False).to(device), state["latents"].to(device)
    samplers = {"unguided": (_script(edm_repo, "edm_generate").edm_sampler, ())}
    if dg_repo and "classifier" in state:
        samplers["classifier"] = (
            _script(dg_repo, "dg_generate").edm_sampler,
            _guidance(state, device),
        )
    for line in sys.stdin:
        system, num_steps = line.split()
        sampler, arguments = samplers[system]
        draw = functools.partial(sampler, *arguments, net, latents, num_steps=int(num_steps))
        answer = _measured(device, draw)
        np.save(f"{folder}/images.npy", answer.pop("images").cpu().numpy())
        print(json.dumps(answer), file=answers, flush=True)


def stand_in() -> None:
    """Let the unused packages be imported; with a spec, which torch looks at."""
    for name in UNUSED:
        sys.modules[name] = importlib.util.module_from_spec(
            importlib.machinery.ModuleSpec(name, None)
        )


def _script(repo, name):
    """The module generate.py of a checkout, under a name of its own: both have one."""
    spec = importlib.util.spec_from_file_location(name, f"{repo}/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _guidance(state, device) -> tuple:
    """The first arguments of DG's sampler: boosting, window, times, weights, discriminator; as
    published, unconditional."""
    library = importlib.import_module("classifier_lib")
    load_classifier, load_discriminator = library.load_classifier, library.load_discriminator

    def loaded(network, name):
        network.load_state_dict(state[name])
        return network

    library.load_classifier = lambda path, size, device, eval: loaded(
        load_classifier(None, size, device, eval), "classifier"
    )
    library.load_discriminator = lambda path, device, cond, eval: loaded(
        load_discriminator(None, device, cond, eval), "head"
    )
    evaluate = library.get_discriminator(None, None, 0, state["kwargs"]["img_resolution"], device)
    return 0, 0.01, 1.0, library.vpsde(), 2.0, 0.0, evaluate


def _measured(device, draw) -> dict:
    on_gpu, status = device.type == "cuda", Path("/proc/self/status")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    elif status.exists():
        Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    images = draw()
    if on_gpu:
        torch.cuda.synchronize(device)
    total = time.perf_counter() - start
    if on_gpu:
        peak = torch.cuda.max_memory_allocated(device) / 2**30
    else:
        peak = (
            int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
            if status.exists()
            else None
        )
    return {"images": images, "total": total, "peak": peak}


def original_training_steps(dg_repo, batch: int, classifier, device, steps: int = 4) -> list[float]:
    """Seconds of some steps of DG's train.py on noise images, without the first one."""
    with tempfile.TemporaryDirectory() as folder:
        count = steps * batch // 2  # real images, and as many generated ones
        images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        Path(folder, "gen").mkdir()
        np.savez(Path(folder, "gen", "samples_0.npz"), samples=images)
        np.savez(Path(folder, "real.npz"), arr_0=images)
        torch.save(classifier.state_dict(), Path(folder, "classifier.pt"))
        arguments = dict(
            savedir="/saved",
            gendir="/gen",
            datadir="/real.npz",
            cond=0,
            img_resolution=32,
            epoch=1,
            pretrained_classifier_ckpt="/classifier.pt",
            num_data=count,
            batch_size=batch,
            device=device,
        )
        command = [
            sys.executable,
            __file__,
            str(Path(dg_repo).resolve()),
            str(torch.get_num_threads()),
            *(f"--{name}={value}" for name, value in arguments.items()),
        ]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def train(dg_repo: str, threads: str, *arguments: str) -> None:
    """Run train.py, and print the seconds from one update of the weights to the next."""
    torch.set_num_threads(int(threads))
    sys.path.insert(0, dg_repo)
    sys.argv[:] = ["train.py", *arguments]
    stand_in()
    stamps = _stamps_of_updates()
    try:
        runpy.run_path(f"{dg_repo}/train.py", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps([after - before for before, after in pairwise(stamps)]))


def _stamps_of_updates(most: int | None = None) -> list[float]:
    """Times of the updates of weights from here on, in a list that grows; the last one ends all."""
    update, stamps = torch.optim.Adam.step, []

    def stamped(*args, **kwargs):
        result = update(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        if len(stamps) == most:
            raise SystemExit
        return result

    torch.optim.Adam.step = stamped
    return stamps


def original_score_training_steps(edm_repo, net, settings, images, device) -> list[float]:
    """Seconds of some steps of EDM's training loop, without the first one.

    images         a folder of them
    net, settings  a score network, which has the arguments of the original's, and its recipe
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = dict(
            dataset_kwargs=dict(
                class_name="training.dataset.ImageFolderDataset",
                path=str(images),
                use_labels=False,
            ),
            data_loader_kwargs=dict(num_workers=1),
            network_kwargs=net.init_kwargs
            | dict(class_name=f"training.networks.{type(net).__name__}"),
            loss_kwargs=dict(class_name="training.loss.EDMLoss"),
            optimizer_kwargs=dict(class_name="torch.optim.Adam", lr=settings.lr),
            batch_size=settings.batch_size,
            total_kimg=10**6,
            snapshot_ticks=None,
            state_dump_ticks=None,
        )
        for name in ("img_resolution", "img_channels", "label_dim"):  # the data set's
            arguments["network_kwargs"].pop(name, None)
        if settings.augment:
            arguments["augment_kwargs"] = dict(
                class_name="training.augment.AugmentPipe",
                p=settings.augment,
                **dict(xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1),
            )
        told = [str(Path(edm_repo).resolve()), str(torch.get_num_threads()), str(device)]
        command = [sys.executable, __file__, "score", *told, json.dumps(arguments)]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def train_score(edm_repo: str, threads: str, device: str, arguments: str, steps: int = 5) -> None:
    """Run the training loop for some steps, and print the seconds from one update to the next."""
    torch.set_num_threads(int(threads))
    sys.path.insert(0, edm_repo)
    memory = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=0))
    if importlib.util.find_spec("psutil") is None:  # asked for a line of the log
        sys.modules["psutil"] = SimpleNamespace(Process=lambda pid: memory)
    if torch.device(device).type == "cuda":
        importlib.import_module("torch_utils.distributed").init()
    else:  # the loop takes a GPU for granted
        torch.nn.parallel.DistributedDataParallel = lambda net, device_ids: net
        torch.cuda.reset_peak_memory_stats = lambda: None
    torch.utils.data.Sampler.__init__ = lambda self, *args: None  # it took the data set once
    loop = importlib.import_module("training.training_loop").training_loop
    stamps = _stamps_of_updates(most=steps)
    with suppress(SystemExit):
        loop(**json.loads(arguments), device=torch.device(device))
    print(json.dumps([after - before for before, after in pairwise(stamps)]))


if __name__ == "__main__":
    if sys.argv[1] == "score":
        train_score(*sys.argv[2:])
    elif len(sys.argv) == 2:
        serve(*sys.argv[1:])
    else:
        train(*sys.argv[1:])
