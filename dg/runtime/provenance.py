"""On what a result was obtained: versions, hardware, time."""

import platform
from importlib import metadata

from dg.runtime.hardware import hardware_of

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "torch-fidelity")


def provenance(command: str, seconds: dict[str, float], device) -> dict:
    """The entries `command`, `versions`, `hardware` and `seconds` of a results file."""
    versions = {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES
    }
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return {
        "command": command,
        "versions": versions,
        "hardware": hardware_of(device),
        "seconds": rounded | {"total": round(sum(seconds.values()), 2)},
    }


def machine_of(results: dict) -> str:
    """The GPU of a results file, or else the CPU, and whether that has bfloat16 instructions where
    the file tells."""
    hardware = results["hardware"]
    if "gpu" in hardware:
        return hardware["gpu"]
    told = {True: " with bfloat16", False: " without bfloat16"}.get(hardware.get("bfloat16"), "")
    return hardware["cpu"] + told


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
