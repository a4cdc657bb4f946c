"""The pixel networks of diffusers' DDPMPipeline and DDIMPipeline, a UNet2DModel each."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dg.models.classifier_guidance import check_classifier
from dg.models.diffusers_models import create, is_folder, read_folder, read_scheduler
from dg.models.discrete_diffusion import DiscreteDiffusion
from dg.runtime.files import read_json
from dg.runtime.progress import unheard
from edm.checkpoint import load_strictly
from guided_diffusion import GaussianDiffusion, create_diffusion

KIND = "UNet2DModel"
# Variances of a DDPMScheduler, by this project's names.
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned": "learned",
    "learned_range": "learned_range",
}


class PixelDiffusion(DiscreteDiffusion, nn.Module):
    """A frozen UNet2DModel and its process, sampled as its pipeline does: ancestrally, in all
    steps. Fewer steps are spread as guided-diffusion does, which diffusers calls "linspace".

    process     arguments of `create_diffusion`
    classifier  as in `DiscreteDiffusion`
    """

    null_class = None

    def __init__(
        self,
        unet: nn.Module,
        process: dict,
        clip_denoised: bool = True,
        classifier: nn.Module | None = None,
    ):
        super().__init__()
        self.process = process
        self.init_kwargs = {
            name: value for name, value in unet.config.items() if not name.startswith("_")
        } | {"process": process}
        self.net, self.classifier = Network(unet), classifier
        self.img_resolution, self.img_channels = unet.config.sample_size, unet.config.in_channels
        self.label_dim = unet.config.num_class_embeds or 0
        self.sampling_defaults = dict(method="ancestral", clip_denoised=clip_denoised)

    def with_classifier(self, classifier: nn.Module) -> "PixelDiffusion":
        """The same model led by a classifier. ValueError if that knows other images or classes."""
        check_classifier(classifier, self)
        clip = self.sampling_defaults["clip_denoised"]
        model = PixelDiffusion(self.net.unet, self.process, clip, classifier)
        return model.train(self.training)

    def respaced(self, spec=None) -> GaussianDiffusion:
        """The process on fewer of its steps, as `guided_diffusion.schedules.space_timesteps` takes
        them; None: on all."""
        return create_diffusion(**self.process, respacing=spec)


class Network(nn.Module):
    """The U-Net as discrete samplers call their networks."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x [N, C, R, R], t [N], y [N] classes or None -> [N, C or 2C, R, R], float32."""
        return self.unet(x.to(torch.float32), t, class_labels=y).sample


def unet_folder_in(path) -> Path | None:
    """The folder of a UNet2DModel that a path is, or that it holds as unet/; None for anything
    else."""
    for folder in (Path(path), Path(path) / "unet"):
        if is_folder(folder):
            config = read_json(folder / "config.json")
            if isinstance(config, dict) and config.get("_class_name") == KIND:
                return folder
    return None


def load_pixel_diffusion(
    path, device="cpu", notify: Callable[[str], None] = unheard
) -> PixelDiffusion:
    """The frozen model, float32, in evaluation mode; nothing in the folder is executed.

    path    a folder of diffusers: that of a pipeline with unet/ and scheduler/, or of a UNet2DModel
            with scheduler_config.json in it or beside it in scheduler/
    notify  called with one line that names the settings taken

    ValueError with one line that names the folder and the fault, or the package to install.
    """
    folder = unet_folder_in(path)
    config, tensors = read_folder(folder)
    told = read_scheduler(folder)
    if told is None:
        raise ValueError(
            f"{path}: has no scheduler_config.json, which tells the process; get the whole "
            "folder of the pipeline"
        )
    size, channels = config.get("sample_size"), config.get("in_channels", 3)
    if type(size) is not int:
        raise ValueError(f"{folder}: its images have the size {size}; give a network of squares")
    variance = VARIANCES.get(told.pop("variance_type"))
    outputs = config.get("out_channels", 3) / channels
    if variance is None or outputs != (2 if variance.startswith("learned") else 1):
        raise ValueError(
            f"{path}: the variance of its scheduler does not fit {config.get('out_channels', 3)} "
            f"channels out of {channels}; get the whole folder of the pipeline"
        )
    clip = told.pop("clip_sample")
    unet = create(KIND, config, folder, tensors)
    load_strictly(unet, tensors, folder)
    model = PixelDiffusion(unet, told | dict(variance=variance), clip)
    notify(
        f"{path}: {size} pixels, {told['schedule']} schedule of {told['num_steps']} steps, "
        f"{variance} variance, as its scheduler says"
    )
    model.respaced()  # refuses settings that no process has
    return model.eval().requires_grad_(False).to(device)
