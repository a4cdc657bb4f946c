"""Every figure that docs/speed.md owes for GPUs, by one command, in parts of at most nine minutes.

    python -m benchmarks.gpu --edm-repo ../edm --dg-repo ../DG     # about an hour; without the originals, half of it
    python -m benchmarks.gpu --device cpu --size digits --out try.json    # tries the command: two minutes on a CPU

Needs torch and this repository. Results are written after each part; the same command goes on where
it ended, and tries once more what failed. It ends with the table of targets, hit or missed.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.timing import results_of, shown
from dg.runtime.console import pick_device
from dg.runtime.files import read_json, write_json
from dg.runtime.provenance import provenance

OUT = "docs/results/speed/gpu.json"
SECONDS = 540  # of a part
COLUMNS = ("target", "wanted", "measured", "verdict")
EDM, DG = "--edm-repo", "--dg-repo"
TRAINED = (
    "--network pretrained/mnist-14.safetensors --pretrained_classifier_ckpt "
    "pretrained/mnist-14-noisy-classifier.safetensors --discriminator_ckpt "
    "pretrained/mnist-14-disc.safetensors --discriminator_ckpt "
    "pretrained/mnist-14-disc-score.safetensors"
)


class Size(NamedTuple):
    """How much is measured with networks of one size."""

    batches: tuple[int, ...]
    draw: str  # options of sampling
    settings: str  # that are compared besides the default
    images: str  # options of sampling by trained networks
    discriminator: str  # options of a training
    score: str
    features: str  # options of evaluation
    memory: str  # options of scaling
    processes: str
    originals: bool = True  # whether the original code has networks of this size


SIZES = {
    "cifar10": Size(
        batches=(64, 256, 1024),
        draw="--steps 9 --rounds 3 --seconds 300",
        settings="float32,TF32,bfloat16,float16,channels-last,compile",
        images="--batch 200 --steps 18 --rounds 1 --settings "
        "'float32,TF32,float16,bfloat16,bfloat16 throughout,channels-last,compile'",
        discriminator="--batch 128 --rounds 5",
        score="--batch 128 --rounds 5",
        features="--images 10000 --batch 128 --metrics fd,kid",
        memory="--images 1000,10000,50000 --batch 256 --steps 4",
        processes="--images 4096 --batch 256 --steps 9 --rounds 3",
    ),
    "digits": Size(
        batches=(2, 4),
        draw="--steps 3 --rounds 1",
        settings="float32,TF32,bfloat16,channels-last",
        images="--batch 2 --steps 9 --rounds 1 --settings float32,TF32,bfloat16",
        discriminator="--batch 4 --rounds 1",
        score="--batch 4 --rounds 1",
        features="--images 20 --metrics is",
        memory="--images 2,4 --batch 2 --steps 2",
        processes="--images 4 --batch 2 --steps 2",
        originals=False,
    ),
}


class Target(NamedTuple):
    """A figure that is wanted: a column of a row of a part."""

    text: str
    part: str
    row: dict[str, str]  # where several rows have these values, the worst one counts
    column: str
    bound: float
    least: bool = True  # or at most
    against: dict[str, str] | None = None  # a row that has to be there too


def parts_of(options, device) -> dict[str, str]:
    """{name: what follows `python -m benchmarks.`} in the order in which they run."""
    size, name = SIZES[options.size], f" --size {options.size} --device "
    of_size, of_gpus = f"{name}{device}", f"{name}{torch.device(device).type} "
    repos = {EDM: options.edm_repo, DG: options.dg_repo} if size.originals else {}
    edm, dg = (f" {key} {shlex.quote(repos[key])}" if repos.get(key) else "" for key in (EDM, DG))
    parts = {"images": f"sampling --device {device} {TRAINED} {size.images}"}
    for batch in size.batches:
        shared = f"{of_size} --batch {batch} {size.draw}"
        published = "'as published,float32,default'"
        parts[f"sampling-{batch}"] = f"sampling{shared} --settings {published}{edm}{dg}"
        parts[f"settings-{batch}"] = f"sampling{shared} --settings {size.settings}"
    parts |= {
        "discriminator": f"training{of_size} {size.discriminator}{dg}",
        "score-network": f"score_training{of_size} {size.score}{edm}",
        "features": f"evaluation --device {device} {size.features}",
        "memory": f"scaling --size digits --device {device} {size.memory}",
    }
    if torch.device(device).type == "cpu" or torch.cuda.device_count() > 1:
        parts["processes"] = f"scaling{of_gpus}--processes 1,2 {size.processes}"
    return parts


def targets_of(size: Size) -> list[Target]:
    """All targets, those of sampling for every batch."""
    found, default = [], {"setting": "default"}
    for batch in size.batches:
        part = f"sampling-{batch}"
        for system, word in (("unguided", "unguided"), ("classifier", "guided")):
            row = {"system": system}
            text = f"{word} sampling against the original, batch {batch}"
            against = row | {"setting": "original"}
            found.append(Target(text, part, row | default, "x reference", 3, against=against))
        text = f"guidance on the score network's encoder against none, batch {batch}"
        row = {"system": "score"} | default
        found.append(Target(text, part, row, "x unguided", 1.15, least=False))
    for precision in ("float16", "bfloat16"):
        text, row = f"values off by more than 2 levels in {precision}, %", {"setting": precision}
        found.append(Target(text, "images", row, "off by > 2", 0.1, least=False))
    original, rough = {"setting": "original"}, {"setting": "bfloat16"}
    text, row = "training of a discriminator against the original", {"extractor": "classifier"}
    found.append(
        Target(text, "discriminator", row | rough, "x reference", 3, against=row | original)
    )
    text = "training of a score network against the original"
    found.append(Target(text, "score-network", rough, "x reference", 3, against=original))
    found.append(
        Target("two processes against one", "processes", {"processes": "2"}, "x first row", 1.8)
    )
    return found


def verdict(target: Target, parts: dict) -> dict:
    """The row of a target: hit, missed, or why it has not been measured."""
    sign = "at least" if target.least else "at most"
    row = {"target": target.text, "wanted": f"{sign} {target.bound:g}"}
    part = parts.get(target.part, {"error": "not run here"})
    if "error" in part:
        return row | {"verdict": f"not measured: {part['error']}"}
    if target.against and not _matching(part["rows"], target.against):
        return row | {"verdict": "not measured: no original code was given"}
    values = [_number(one[target.column]) for one in _matching(part["rows"], target.row)]
    if not values:
        return row | {"verdict": f"not measured: no row of {' '.join(target.row.values())}"}
    worst = min(values) if target.least else max(values)
    hit = worst >= target.bound if target.least else worst <= target.bound
    return row | {"measured": worst, "verdict": "hit" if hit else "missed"}


def _matching(rows: list[dict], wanted: dict[str, str]) -> list[dict]:
    """Rows whose first word in each column is the wanted one: "default (float16)" is "default"."""
    return [
        row for row in rows if all(str(row[key]).split(" (")[0] == wanted[key] for key in wanted)
    ]


def _number(cell) -> float:
    return float(cell.rstrip("%")) if isinstance(cell, str) else float(cell)


def measure(command: str, seconds: float = SECONDS) -> dict:
    """Results of a benchmark, run in processes of its own, or {"error": why there are none}."""
    module, *arguments = shlex.split(command)
    with tempfile.TemporaryDirectory() as folder:
        log, out = Path(folder, "log.txt"), Path(folder, "out.json")
        words = [sys.executable, "-m", f"benchmarks.{module}", *arguments, f"--out={out}"]
        with log.open("wb") as errors:
            process = subprocess.Popen(words, stderr=errors, start_new_session=True)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return {"error": f"took more than {seconds:g} seconds"}
            finally:  # whatever it started, too
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code:
            lines = log.read_text(errors="replace").splitlines()
            return {"error": lines[-1] if lines else f"exit code {code}"}
        return json.loads(out.read_text())


def known(out, device) -> dict:
    """The parts in a results file, if there is one. ValueError for one of another machine."""
    if not Path(out).exists():
        return {}
    results, here = read_json(out), provenance("", {}, device)
    for key in ("hardware", "versions"):
        if results[key] != here[key]:
            raise ValueError(f"{out}: of other {key}; give another file by --out, or remove it")
    return results["parts"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="cifar10", choices=list(SIZES))
    parser.add_argument("--device")
    parser.add_argument(EDM, help="checkout of NVlabs/edm")
    parser.add_argument(DG, help="checkout of alsdudrla10/DG; its sampling needs the other one too")
    parser.add_argument("--out", default=OUT, help="results, also of parts  [default: %(default)s]")
    options = parser.parse_args()
    device = pick_device(options.device)
    if device.type == "cpu" and options.device is None:
        parser.error("there is no GPU here; --device cpu --size digits tries the command")
    try:
        parts = known(options.out, device)
        write_json(options.out, _results(options, parts, device))  # can it be written?
    except ValueError as error:
        parser.error(str(error))
    for name, command in parts_of(options, device).items():
        if parts.get(name, {}).get("command") == command and "rows" in parts[name]:
            print(f"== {name}: done before\n", flush=True)
            continue
        print(f"== {name}: python -m benchmarks.{command}", flush=True)
        parts[name] = measure(command) | {"command": command}
        if "error" in parts[name]:
            print(f"failed: {parts[name]['error']}")
        write_json(options.out, _results(options, parts, device))
        print(flush=True)
    print(shown(_results(options, parts, device)))


def _results(options, parts: dict, device) -> dict:
    rows = [verdict(target, parts) for target in targets_of(SIZES[options.size])]
    return results_of("benchmarks.gpu", rows, COLUMNS, device, parts=parts)


if __name__ == "__main__":
    main()
