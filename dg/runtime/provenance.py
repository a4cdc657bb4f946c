"""On what a result was obtained: versions, hardware, time."""

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "torch-fidelity")


def provenance(command: str, seconds: dict[str, float], device) -> dict:
    """The entries `command`, `versions`, `hardware` and `seconds` of a results file."""
    import torch

    hardware = {
        "device": str(device),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.device(device).type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    versions = {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES
    }
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return {
        "command": command,
        "versions": versions,
        "hardware": hardware,
        "seconds": rounded | {"total": round(sum(seconds.values()), 2)},
    }


def machine_of(results: dict) -> str:
    """The GPU, or else the CPU, of a results file."""
    return results["hardware"].get("gpu") or results["hardware"]["cpu"]


def threads_of(results: dict) -> str:
    """The threads that each process computed with."""
    number = results["hardware"]["threads"]
    return f"{number} thread{'' if number == 1 else 's'} per process"


def measured_by(results: dict) -> str:
    """One sentence without a full stop, for a table in a text."""
    return (
        f"Measured by `{results['command']}`, {results['seconds']['total']:.0f} s of stages on "
        f"{machine_of(results)} ({threads_of(results)}, torch {results['versions']['torch']})"
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
