"""Discriminator Guidance (Kim et al., ICML 2023): the method on top of `edm` and
`guided_diffusion`."""

from importlib import import_module

__version__ = "0.2.0"

_HOME = {
    "Autoguidance": "guidance",
    "BOOSTING": "guidance",
    "Boosting": "guidance",
    "DiscriminatorGuidance": "guidance",
    "DifferenceGuidance": "guidance",
    "Discriminator": "discriminator",
    "LogRatio": "discriminator",
    "ScoreDifference": "discriminator",
    "build_difference": "discriminator",
    "build_discriminator": "discriminator",
    "log_ratio": "discriminator",
    "load_difference": "checkpoints",
    "load_discriminator": "checkpoints",
    "save_head": "checkpoints",
    "GuidedDenoiser": "adapters",
    "cond_fn": "adapters",
    "guided_prediction": "adapters",
    "DDPMSampling": "models.discrete_sampling",
    "DiscriminatorTraining": "recipes",
    "ImageSet": "data.images",
    "PRESETS": "recipes",
    "Sampling": "sampling",
    "draw_images": "sampling",
    "load_images": "data.reader",
    "load_model": "models.loading",
    "resolve": "runtime.downloads",
    "to_uint8": "data.images",
    "train_discriminator": "training",
    "guide_pipeline": "models.diffusers_guidance",
    "pipeline_guider": "models.diffusers_guidance",
    "restart_sampler": "samplers.restart",
    "RestartSampling": "samplers.restart",
    "particle_sampler": "samplers.particles",
    "ParticleSampling": "samplers.particles",
    "rejection_sampler": "samplers.rejection",
    "RejectionSampling": "samplers.constants",
    "warm_up": "samplers.constants",
    "budget_constant": "samplers.acceptance",
    "accepted": "samplers.acceptance",
    "resampled": "samplers.acceptance",
}
_MODULES = {"discrete_sampling": "models.discrete_sampling"}
__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name):
    """Import on first use: the scripts' --help must not wait for torch."""
    if name in _MODULES:
        return import_module(f"dg.{_MODULES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module 'dg' has no attribute {name!r}")
    return getattr(import_module(f"dg.{_HOME[name]}"), name)
