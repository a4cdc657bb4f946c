"""Training of score networks with EDM's loss (Karras et al. 2022), for data without a public checkpoint."""

import copy
import math
from dataclasses import asdict, dataclass, replace

import torch

import edm
from dg.runtime.datasets import ImageSet, to_float
from dg.runtime.files import plain
from dg.runtime.progress import Progress, silent
from dg.runtime.training_state import Every, load_state, save_state, step_generator


@dataclass(frozen=True)
class ScoreTraining:
    """How to train a score network; the number of images seen is steps * batch_size."""

    steps: int = 1000
    batch_size: int = 64
    lr: float = 2e-3
    warmup_steps: int = 50  # linear rise of the learning rate
    ema_halflife: int = 5000  # images in which the weight of an old network halves
    ema_rampup: float = 0.05  # at most this part of the images seen so far counts as the half-life
    P_mean: float = -1.2  # noise levels in training: ln(sigma) ~ N(P_mean, P_std^2)
    P_std: float = 1.2
    flip: bool = False  # mirror half of the images
    seed: int = 0


# Settings per data set: the network's arguments beyond resolution, channels and classes, and how to train it.
SCORE_PRESETS = {
    "digits": (
        dict(model_type="SongUNet", model_channels=24, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4],
             dropout=0.0, sigma_data=0.75),
        ScoreTraining(steps=1000),
    ),
}


def build_score_network(data: ImageSet, network: dict, seed: int, conditional: bool = False) -> edm.EDMPrecond:
    """An EDM network for the images of `data`, its initial weights drawn from `seed`."""
    if conditional and data.labels is None:
        raise ValueError(f"{data.name}: has no labels; a conditional network needs a labelled set")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of GPUs, which are not forked
        return edm.EDMPrecond(img_resolution=data.resolution, img_channels=data.channels,
                              label_dim=data.num_classes if conditional else 0, **network)


def train_score_network(net: edm.EDMPrecond, data: ImageSet, settings: ScoreTraining, state_path=None,
                        progress: Progress = silent, save_seconds: float = 20) -> tuple[edm.EDMPrecond, list[dict]]:
    """Train `net` on `data` and return (its exponential moving average, frozen; loss log).

    With `state_path` the training state is saved there every `save_seconds` and at the end. A run that finds one goes
    on from it and ends with the same weights as one that was never interrupted; one with more steps than it trains on.
    """
    device = next(net.parameters()).device
    images = to_float(data.images)
    labels = torch.from_numpy(data.labels) if net.label_dim else None
    loss_fn = edm.EDMLoss(settings.P_mean, settings.P_std, net.sigma_data)
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(net.train().parameters(), lr=settings.lr, betas=(0.9, 0.999), eps=1e-8)
    identity = {"settings": plain(asdict(replace(settings, steps=0))), "network": plain(net.init_kwargs),
                "images": data.fingerprint()}
    start, log = 0, []
    if state_path is not None and (state := load_state(state_path)) is not None:
        if changed := [key for key, value in identity.items() if state.get("identity", {}).get(key) != value]:
            raise ValueError(f"{state_path}: of a run with other {' and '.join(changed)}; choose another folder or delete it")
        net.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start, log = state["step"], state["log"]

    def save(step):
        if state_path is not None:
            save_state(state_path, dict(net=net.state_dict(), ema=ema.state_dict(), optimizer=optimizer.state_dict(),
                                        step=step, log=log, identity=identity))

    due, running = Every(save_seconds), []
    for step in progress(range(start, settings.steps), desc="score network", initial=start, total=settings.steps):
        generator = step_generator(settings.seed, "score", step)
        index = torch.randint(len(images), [settings.batch_size], generator=generator)
        batch = images[index]
        if settings.flip:
            mirrored = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
            batch = torch.where(mirrored, batch.flip(-1), batch)
        one_hot = None if labels is None else torch.eye(net.label_dim)[labels[index]].to(device)
        noise_generator = step_generator(settings.seed, "noise", step, device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(noise_generator.initial_seed())  # dropout draws from the global generator
            loss = loss_fn(net, batch.to(device), one_hot, generator=noise_generator).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min((step + 1) / max(settings.warmup_steps, 1), 1)
        optimizer.step()
        _update_average(ema, net, settings, step)
        running.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == settings.steps:
            log.append({"step": step + 1, "loss": sum(running) / len(running)})
            running.clear()
            if not math.isfinite(log[-1]["loss"]):
                raise ValueError(f"the loss is not finite at step {step + 1}; lower the learning rate")
            if due():
                save(step + 1)
    save(max(start, settings.steps))
    return ema, log


@torch.no_grad()
def _update_average(ema, net, settings: ScoreTraining, step: int) -> None:
    seen = (step + 1) * settings.batch_size
    halflife = min(settings.ema_halflife, seen * settings.ema_rampup)
    decay = 0.5 ** (settings.batch_size / max(halflife, 1e-8))
    for average, current in zip(ema.parameters(), net.parameters(), strict=True):
        average.lerp_(current, 1 - decay)
