"""Networks of diffusers, an optional dependency, from files: nothing is fetched, nothing in them is
executed or left out."""

import re
from collections.abc import Mapping
from inspect import signature
from math import isclose
from pathlib import Path

from torch import Tensor, nn

from dg.runtime.files import read_json
from edm.checkpoint import AGAIN, UNREADABLE, build
from guided_diffusion.loading import bare_state, check_tensors, read_file
from tensor_files.reading import parsing
from tensor_files.safetensors_files import read_safetensors_file

# Schedules of noise that are supported, by diffusers' names.
SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
# Defaults of a scheduler of diffusers. Another value of the last four makes another process, and so
# do schedulers of other names.
OTHER_PROCESS = re.compile("Flow|EDM|CMStochastic|Sde|Karras")
SCHEDULER = dict(
    num_train_timesteps=1000,
    beta_schedule="linear",
    beta_start=0.0001,
    beta_end=0.02,
    trained_betas=None,
    prediction_type="epsilon",
    rescale_betas_zero_snr=False,
    use_flow_sigmas=False,
)
MOST_TENSORS = 10_000  # of a network without a file
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def is_folder(path) -> bool:
    """Whether a folder is one that diffusers writes."""
    return (Path(path) / "config.json").is_file()


def read_folder(path) -> tuple[dict, dict[str, Tensor]]:
    """(settings, tensors) of a model that diffusers has saved. ValueError of one line for anything
    else."""
    file = Path(path) / "config.json"
    if not isinstance(config := read_json(file), dict):
        raise ValueError(f"{file}: describes no network; get the whole folder again")
    for name in WEIGHTS:
        if (Path(path) / name).is_file():
            return config, read_weights(Path(path) / name)
    raise ValueError(
        f"{path}: holds no {' or '.join(WEIGHTS)}; get the whole folder, its weights in one file"
    )


def read_scheduler(folder: Path) -> dict | None:
    """The process that a folder's network was trained on: schedule and num_steps of
    `create_diffusion`, and how the scheduler samples it: variance_type and clip_sample.

    None where there is no scheduler_config.json beside the network, in scheduler/ or with it.
    ValueError of one line for a process that is not supported.
    """
    places = (folder.parent / "scheduler", folder / "scheduler", folder)
    files = [place / "scheduler_config.json" for place in places]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    said = read_json(file)
    if not isinstance(said, dict):
        raise ValueError(f"{file}: describes no scheduler; get the whole folder again")
    config = {name: said.get(name, value) for name, value in SCHEDULER.items()}
    name, steps = config["beta_schedule"], config["num_train_timesteps"]
    if OTHER_PROCESS.search(kind := str(said.get("_class_name"))):
        raise ValueError(
            f"{file}: the process of a {kind} is not supported; give a network with DDPM's"
        )
    if name not in SCHEDULES:
        raise ValueError(
            f"{file}: the schedule {name!r} is not supported; give a network with "
            f"{' or '.join(map(repr, SCHEDULES))}"
        )
    if type(steps) is not int or steps < 1:
        raise ValueError(f"{file}: num_train_timesteps is {steps}; get the whole folder again")
    supported = {key: SCHEDULER[key] for key in list(SCHEDULER)[4:]}
    if name == "linear":  # scaled with the number of steps, as `linear_betas` has them
        supported |= dict(beta_start=0.1 / steps, beta_end=20 / steps)
    for key, value in supported.items():
        found = config[key]
        numbers = isinstance(value, float) and isinstance(found, float | int)
        if found != value and not (numbers and isclose(found, value)):
            found = found if len(str(found)) < 40 else type(found).__name__
            raise ValueError(f"{file}: {key} {found} is not supported; give a network with {value}")
    return dict(
        schedule=SCHEDULES[name],
        num_steps=steps,
        variance_type=str(said.get("variance_type", "fixed_small")),
        clip_sample=said.get("clip_sample", True) is True,
    )


def read_weights(path) -> dict[str, Tensor]:
    """Finite tensors by name, from safetensors or a `torch.save`d state dict. ValueError of one
    line for anything else."""
    if Path(path).suffix == ".safetensors":
        with parsing(path, AGAIN, UNREADABLE):
            return dict(check_tensors(read_safetensors_file(path)[1]))
    try:
        return dict(check_tensors(bare_state(read_file(path))))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def create(kind: str, config: dict, path, tensors: Mapping | None = None) -> nn.Module:
    """A diffusers model of class `kind` without memory for its weights, with no more tensors than
    those of a file where they are given; settings that it does not know are left out.

    ValueError of one line, which names `path`, without diffusers or where the settings describe no
    such model.
    """
    try:
        import diffusers
    except ImportError:
        raise ValueError(
            f"{path}: needs diffusers, which is not installed; run pip install -r "
            "requirements-imagenet.txt"
        ) from None
    cls = getattr(diffusers, kind)
    known = signature(cls.__init__).parameters
    config = {name: value for name, value in config.items() if name in known}
    tensors = range(MOST_TENSORS) if tensors is None else tensors
    return build(cls, config, tensors, path, f"describes no {kind} that can be built")
