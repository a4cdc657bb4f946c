"""The noise-aware ADM classifier, the extractor of Kim et al. 2023, trained here where none is published.

An encoder of `guided_diffusion` learns the classes of noisy images at VP scale (Dhariwal & Nichol 2021, section 4); its
middle-block features are what a discriminator's head then sees.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from dg import vp
from dg.runtime.datasets import ImageSet, to_float
from dg.runtime.progress import Progress, silent
from dg.runtime.training_state import step_generator
from guided_diffusion import EncoderUNetModel


@dataclass(frozen=True)
class NoisyClassifierTraining:
    """How to build and train the classifier."""

    model_channels: int = 32  # a multiple of 32
    num_res_blocks: int = 1
    channel_mult: tuple[int, ...] = (1, 2, 4)
    attention_resolutions: tuple[int, ...] = (7, 8)
    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3  # highest value of a one-cycle schedule
    time_min: float = 1e-3  # times are uniform in [time_min, 1]
    seed: int = 0


def train_noisy_classifier(data: ImageSet, settings: NoisyClassifierTraining, device="cpu",
                           progress: Progress = silent) -> tuple[EncoderUNetModel, list[dict]]:
    """Train on labelled images; returns (classifier in evaluation mode, log). ValueError without labels."""
    if data.labels is None:
        raise ValueError(f"{data.name}: has no labels; a classifier needs a labelled set")
    s = settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(s.seed)
        model = EncoderUNetModel(image_size=data.resolution, in_channels=data.channels, out_channels=data.num_classes,
                                 model_channels=s.model_channels, num_res_blocks=s.num_res_blocks,
                                 channel_mult=s.channel_mult, attention_resolutions=s.attention_resolutions).to(device)
    images, labels = to_float(data.images), torch.from_numpy(data.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.lr, total_steps=s.steps)
    log = []
    for step in progress(range(s.steps), desc="noisy classifier"):
        generator = step_generator(s.seed, "noisy classifier", step)
        index = torch.randint(len(images), [s.batch_size], generator=generator)
        tau = vp.uniform_time(torch.rand(s.batch_size, generator=generator), s.time_min)
        mean, std = vp.mean(tau).reshape(-1, 1, 1, 1), vp.std(tau).reshape(-1, 1, 1, 1)
        batch = mean * images[index] + std * torch.randn(images[index].shape, generator=generator)
        logits = model(batch.to(device), tau.to(device))
        loss = F.cross_entropy(logits, labels[index].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            correct = (logits.argmax(1).cpu() == labels[index]).float().mean()
            log.append({"step": step + 1, "loss": loss.item(), "accuracy": correct.item()})
    return model.eval().requires_grad_(False), log
