"""A discrete diffusion model: a U-Net with the process that it was trained on, in memory and on
disk."""

from collections.abc import Callable, Mapping

from torch import nn

from dg.models.classifier_guidance import check_classifier
from dg.models.discrete_diffusion import DiscreteDiffusion
from dg.models.shuffle_unet import ShuffleUNet
from dg.runtime.progress import unheard
from edm.checkpoint import build, load_strictly, read_safetensors, write_safetensors
from guided_diffusion import GaussianDiffusion, UNetModel, create_diffusion, load_unet
from guided_diffusion.layouts import infer_unet_settings, shapes_of
from guided_diffusion.loading import MissingSettings
from guided_diffusion.presets import UNET_SCHEDULES, published_unet

FORMAT = "ddpm-network"
ARCHITECTURES = {"adm": UNetModel, "shuffle": ShuffleUNet}
ADM_SAMPLING = dict(method="ancestral", num_steps=250)  # Dhariwal & Nichol 2021
PUBLISHED_STEPS = 1000  # diffusion steps of all published ADMs
# Variance by output channels per input channel; Dhariwal & Nichol 2021.
PIXEL_VARIANCES = {
    1: "fixed_large",
    2: "learned_range",
}
IN_WORDS = {
    "epsilon": "the noise",
    "x_start": "the image",
    "fixed_large": "with the forward variance",
    "fixed_small": "with the posterior variance",
    "learned_range": "with learned variances",
}


class DDPM(DiscreteDiffusion, nn.Module):
    """A network and its process (Ho et al. 2020).

    process     arguments of `create_diffusion`: schedule, num_steps, variance, mean
    network     arguments of `UNetModel`, without out_channels: twice the in_channels where the
                variance is learned; with "architecture": "shuffle" those of `ShuffleUNet`
    net         the network itself, if it is built already
    classifier  as in `DiscreteDiffusion`; it is no part of the model's file
    sampling_defaults  settings with which the model was published

    `net` and `diffusion` are network and process; `img_resolution`, `img_channels` and `label_dim`
    are named as those of `edm`'s networks. Impossible settings raise ValueError.
    """

    null_class = None  # no class stands for "any": classifier-free guidance needs another network

    def __init__(
        self,
        process: dict,
        network: dict,
        net: nn.Module | None = None,
        classifier: nn.Module | None = None,
        sampling_defaults: Mapping | None = None,
    ):
        super().__init__()
        self.init_kwargs = {"process": process, "network": network}
        self.diffusion = create_diffusion(**process)
        channels = network["in_channels"] * (1 + self.diffusion.learns_variance)
        self.net = net or _build_network(network, channels)
        self.img_resolution, self.img_channels = self.net.image_size, self.net.in_channels
        self.label_dim = self.net.num_classes
        self.classifier, self.sampling_defaults = classifier, sampling_defaults or {}

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.net.parameters())

    def with_classifier(self, classifier: nn.Module) -> "DDPM":
        """The same model led by a classifier. ValueError if that knows other images or classes."""
        check_classifier(classifier, self)
        parts = dict(classifier=classifier, sampling_defaults=self.sampling_defaults)
        return DDPM(**self.init_kwargs, net=self.net, **parts).train(self.training)

    def respaced(self, spec=None) -> GaussianDiffusion:
        """The process on fewer of its steps, as `guided_diffusion.schedules.space_timesteps` takes
        them; None: on all."""
        return create_diffusion(**self.init_kwargs["process"], respacing=spec)


def _build_network(settings: dict, out_channels: int) -> nn.Module:
    arguments = dict(settings)
    name = arguments.pop("architecture", "adm")
    if name not in ARCHITECTURES:
        raise ValueError(f"the architecture is {name!r}; use {' or '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](out_channels=out_channels, **arguments)


def save_ddpm(file, model: DDPM) -> None:
    """Write a model as safetensors, its settings in the metadata. `file`: a path or a binary file
    object."""
    tensors = {f"net.{name}": tensor for name, tensor in model.net.state_dict().items()}
    write_safetensors(file, tensors, FORMAT, model.init_kwargs)


def load_ddpm(path, device="cpu") -> DDPM:
    """A frozen model in evaluation mode. ValueError with one line that names the file and what is
    wrong."""
    config, tensors = read_safetensors(path, FORMAT, "process", "network")
    settings = {name: config[name] for name in ("process", "network")}
    model = build(DDPM, settings, tensors, path, "describes no DDPM that can be built")
    load_strictly(model, tensors, path)
    return model.eval().requires_grad_(False).to(device)


def load_adm(
    source,
    device="cpu",
    noise_schedule: str | None = None,
    diffusion_steps: int | None = None,
    rescale_timesteps: bool | None = None,
    predict_xstart: bool | None = None,
    sigma_small: bool | None = None,
    notify: Callable[[str], None] = unheard,
    **overrides,
) -> DDPM:
    """A frozen U-Net of guided-diffusion's or improved-diffusion's in evaluation mode, as
    `load_unet` reads it.

    It is sampled as published: ancestrally, in 250 steps.

    noise_schedule, diffusion_steps  settings of the process, which no tensor shows; None: those of
                                     the published file with the same tensors, MissingSettings if
                                     there is none
    rescale_timesteps  whether the network was trained on timesteps scaled to 0..1000; None: yes for
                       another number of steps, as improved-diffusion (Nichol & Dhariwal 2021) does
    predict_xstart     whether the network predicts the image, and not the noise as published ones
    sigma_small        whether a variance that is not learned is the posterior's, and not the
                       forward step's
    notify             called with one line that names the settings taken
    overrides          settings of `UNetModel` that win over those that the tensors show

    The variance is learned where the network has twice the channels of the images.
    """
    process = {"noise_schedule": noise_schedule, "diffusion_steps": diffusion_steps}
    untold = [name for name, value in process.items() if value is None]
    try:
        net = load_unet(source, device, **overrides)
    except MissingSettings as error:
        raise MissingSettings(error.source, [*error.names, *untold]) from None
    shapes = shapes_of(net.state_dict())
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    published = published_unet(shapes)
    if untold and published is None:
        raise MissingSettings(name, untold)
    network = infer_unet_settings(shapes, **overrides)
    ratio = network.pop("out_channels") / net.in_channels
    if ratio not in PIXEL_VARIANCES:
        raise ValueError(
            f"{name}: {net.in_channels} channels in and {net.out_channels} out is not a "
            "diffusion model; give one with as many out, or twice as many for learned "
            "variances"
        )
    if sigma_small and ratio == 2:
        raise ValueError(f"{name}: its variances are learned; leave sigma_small out")
    process = dict(
        schedule=noise_schedule or UNET_SCHEDULES[published],
        num_steps=diffusion_steps or PUBLISHED_STEPS,
        variance="fixed_small" if sigma_small else PIXEL_VARIANCES[ratio],
        mean="x_start" if predict_xstart else "epsilon",
    )
    if rescale_timesteps is None:
        rescale_timesteps = process["num_steps"] != PUBLISHED_STEPS
    if rescale_timesteps:
        process["rescale_timesteps"] = True
    sampling = ADM_SAMPLING | dict(num_steps=min(ADM_SAMPLING["num_steps"], process["num_steps"]))
    model = DDPM(process, network, net, sampling_defaults=sampling)
    notify(f"{name}: {_taken(process, network, published)}")
    return model.eval().requires_grad_(False)


def _taken(process: dict, network: dict, published: str | None) -> str:
    """The settings taken where tensors do not show them, in words."""
    source = f"as of {published}, which has the same tensors" if published else "as given"
    count, width = network.get("num_heads"), network.get("num_head_channels", 64)
    heads = f"{count} heads" if count else f"heads of {width} channels"
    heads += " in the new order" if network.get("use_new_attention_order") else ""
    predicts = " ".join(IN_WORDS[process[key]] for key in ("mean", "variance"))
    scaled = ", scaled to 1000 for the network" if process.get("rescale_timesteps") else ""
    return (
        f"{network['image_size']} pixels, {heads}, {process['schedule']} schedule of "
        f"{process['num_steps']} steps{scaled}, {source}; predicts {predicts}"
    )
