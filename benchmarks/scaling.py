"""How generate.py scales: images per second and memory of a process, by processes, batch and number
of images.

    python -m benchmarks.scaling --processes 1,2 --images 512 --rounds 3      # small network, one thread per process
    python -m benchmarks.scaling --batch 1,8,64,512 --images 1024
    python -m benchmarks.scaling --batch 256 --images 1000,10000,50000        # memory stays flat

Runs the script as torchrun starts it, on random weights of the size `digits` or `cifar10`; loading
is not counted.
"""

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import edm
from benchmarks.networks import SIZES, build_score_network
from benchmarks.timing import finish, in_turns

COLUMNS = ("processes", "batch", "images", "images/s", "x first row", "GiB of a process")
SPEED = re.compile(r"([\d.]+) images/s")


def run(network: str, processes: int, batch: int, images: int, steps: int, device: str) -> dict:
    """One run of generate.py: what it says of its speed, and the largest memory of a process."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            group = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free.getsockname()[1]),
                "WORLD_SIZE": str(processes),
            }
        command = [
            sys.executable,
            "generate.py",
            f"--network={network}",
            f"--outdir={folder}/out",
            f"--num_samples={images}",
            f"--batch={batch}",
            f"--steps={steps}",
            "--grid=0",
            *([] if device == "cuda" else [f"--device={device}"]),
        ]
        logs = [
            stack.enter_context(open(f"{folder}/{rank}.log", "wb")) for rank in range(processes)
        ]
        started = [
            subprocess.Popen(
                command,
                env={"OMP_NUM_THREADS": "1", **os.environ, **group, "RANK": str(rank)},
                stderr=log,
            )
            for rank, log in enumerate(logs)
        ]
        ended = [os.wait4(process.pid, 0) for process in started]
        for process, (_, status, _) in zip(started, ended, strict=True):
            process.returncode = os.waitstatus_to_exitcode(status)
        outputs = [Path(log.name).read_text() for log in logs]
    for process, log in zip(started, outputs, strict=True):
        if process.returncode:
            raise ValueError(
                f"a process ended with exit code {process.returncode}: "
                f"{(log.splitlines() or ['no message'])[-1]}"
            )
    peak = max(usage.ru_maxrss for _, _, usage in ended) / 2 ** (
        30 if sys.platform == "darwin" else 20
    )
    return {
        "processes": processes,
        "batch": batch,
        "images": images,
        "images/s": float(SPEED.findall(outputs[0])[-1]),
        "GiB of a process": peak,
    }


def main():
    def integers(text):
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="digits", choices=list(SIZES))
    parser.add_argument("--processes", type=integers, default=[1])
    parser.add_argument("--batch", type=integers, default=[64])
    parser.add_argument("--images", type=integers, default=[512])
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cuda: a GPU for each process")
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    configs = list(product(options.images, options.batch, options.processes))
    runs = {config: [] for config in configs}
    with tempfile.TemporaryDirectory() as folder:
        edm.save_network(f"{folder}/network.safetensors", build_score_network(options.size))
        for config in in_turns(configs, options.rounds):
            images, batch, processes = config
            runs[config].append(
                run(
                    f"{folder}/network.safetensors",
                    processes,
                    batch,
                    images,
                    options.steps,
                    options.device,
                )
            )
    first, rows = runs[configs[0]], []
    for mine in runs.values():
        speeds = [one["images/s"] for one in mine]
        rows.append(
            mine[0]
            | {
                "images/s": statistics.median(speeds),
                "values": speeds,
                "GiB of a process": max(one["GiB of a process"] for one in mine),
                "x first row": statistics.median(
                    one / other["images/s"] for one, other in zip(speeds, first, strict=True)
                ),
            }
        )
    finish("benchmarks.scaling", rows, COLUMNS, options.device, options.out)


if __name__ == "__main__":
    main()
