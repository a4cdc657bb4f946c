"""The study of methods: samplers and guidance at equal compute, as plain data of a setting.

Every method is a line of systems at a few amounts of compute, in multiples of an unguided image in
the setting's number of steps. Numbers of steps are chosen by the rough costs of the setting; what
an image takes is counted afterwards. Hyper-parameters are chosen once per method, at CHOSEN_AT.
"""

import torch

from dg import vp
from dg.experiments.setting import Setting
from dg.experiments.study import Head, Kept, System
from dg.samplers.constants import RejectionSampling
from dg.samplers.particles import ParticleSampling
from dg.samplers.restart import RestartSampling
from edm.sampler import noise_schedule

# Rejection works on one core, so a second process makes it.
ASIDE = ("rejection-1", "rejection-2", "rejection-3", "guided-rejection-2", "guided-rejection-3")
SECTIONS = ("methods", "pairs", "choices", "discriminators", "deviations", "run")
CHOSEN_AT = 2.0  # the amount of compute at which hyper-parameters are chosen
FULL = (0.01, 1.0)  # VP time of guidance, as the authors'
SPARSE = 2  # steps of which one evaluates the discriminator, in the line of that name
SHORT = (0.01, 0.5)  # VP times of short guidance: noise levels up to 3.4
INSIDE = {FULL: 15 / 18, SHORT: 7 / 18}  # share of EDM's steps in a window
SHARES = (0.25, 0.5, 1.0)  # of the setting's weight, to choose from
INTERVALS = ((0.06, 0.30), (0.14, 0.30), (0.30, 1.0), (1.0, 4.0))  # noise levels of Restart
QUANTILES = (0.5, 0.75, 0.9)
REJECTED = 1.1  # steps that rejection takes, times a pass: measured on mnist-14
RESAMPLED = {"late": (0.15, 0.5), "early": (0.7, 2.0)}  # noise levels of particles
LEVELS = (0.1, 0.3, 1.0)  # noise levels at which finished images are judged
UNGUIDED, RESTART, PARTICLES = "unguided", "Restart", "particles"
REJECTION, KEPT = "rejection (DiffRS)", "rejection of finished images"
GUIDED, GUIDED_SHORT = "guidance", "guidance, short window"
GUIDED_SPARSE = "guidance, every second step"
GUIDED_RESTART, BOTH = "short guidance and Restart", "short guidance and rejection"


class Methods:
    """The systems of the study in a setting."""

    def __init__(self, setting: Setting):
        self.base = setting.models["score"].sampling.num_steps
        self.budget = 2 * self.base - 1  # evaluations of an unguided image
        self.forward, self.gradient = setting.discriminator_cost
        self.warmup = 640 if setting.published_network else min(setting.num_selection, 256)
        self.head = (given_head(setting),)
        self.weights = tuple(share * setting.weights[0] for share in SHARES)

    def systems(self) -> dict[str, System]:
        """All of them by name, the unguided one in the setting's steps first."""
        found = {"unguided": self.unguided(1.0)}
        found |= {f"unguided-{t:g}": self.unguided(t) for t in (0.5, 1.5, 2.0, 3.0)}
        for name, line, made, amounts in (
            ("restart", RESTART, self.restart, (1.0, 2.0, 3.0)),
            ("guided", GUIDED, self.guided, (1.0, 2.0, 3.0)),
            ("short", GUIDED_SHORT, self.short, (1.0, 2.0, 3.0)),
            ("sparse", GUIDED_SPARSE, self.sparse, (1.0, 2.0, 3.0)),
            ("rejection", REJECTION, self.rejection, (1.0, 2.0, 3.0)),
            ("particles", PARTICLES, self.particles, (1.0, 2.0, 3.0)),
            ("kept", KEPT, self.kept, (1.0, 2.0, 3.0)),
            ("guided-restart", GUIDED_RESTART, self.guided_restart, (2.0, 3.0)),
            ("guided-rejection", BOTH, self.guided_rejection, (2.0, 3.0)),
        ):
            for t in amounts:
                found[f"{name}-{t:g}"] = _with_options(made(t), line, t, f"{name}-{CHOSEN_AT:g}")
        return found

    def steps(self, evaluations: float, each: float = 2.0) -> int:
        """Heun steps, of which the last is one evaluation shorter, that take so many evaluations;
        each  evaluations of a step"""
        return max(3, round((evaluations + 1) / each))

    def unguided(self, t: float) -> System:
        steps = self.base if t == 1 else self.steps(t * self.budget)
        return System(f"unguided, {steps} steps", line=UNGUIDED, x=t, num_steps=steps)

    def restart(self, t: float) -> list[System]:
        if t < CHOSEN_AT:
            steps, levels, repeats = self.steps(t * self.budget - 8), 3, 2
        else:
            steps, levels = self.base, 4
            repeats = max(1, round((t - 1) * self.budget / 6))
        return [
            System(
                f"{steps} steps, {repeats} times {low:g} to {high:g}",
                sampling=RestartSampling(steps, restart=[levels, repeats, low, high]),
            )
            for low, high in INTERVALS
        ]

    def guided(self, t: float, window=FULL, every: int = 1) -> list[System]:
        steps = self.steps(t * self.budget, 2 + INSIDE[window] * self.gradient / every)
        told = dict(window=window, boosting=False, num_steps=steps, every=every)
        return [
            System(f"{steps} steps, weight {weight:g}", self.head, (weight, 0.0), **told)
            for weight in self.weights
        ]

    def short(self, t: float) -> list[System]:
        return self.guided(t, SHORT)

    def sparse(self, t: float) -> list[System]:
        return self.guided(t, FULL, SPARSE)

    def rejection(self, t: float) -> list[System]:
        steps = self.steps(t * self.budget / REJECTED, 2 + INSIDE[FULL] * self.forward)
        return [
            System(
                f"{steps} steps, quantile {quantile:g}",
                self.head,
                (0.0, 0.0),
                boosting=False,
                sampling=self.with_rejection(steps, quantile),
            )
            for quantile in QUANTILES
        ]

    def with_rejection(self, steps: int, quantile: float) -> RejectionSampling:
        """Rejection by the authors' settings, but for the quantile."""
        limit = 3 * (2 * steps - 1)  # as the authors': 105 in 18 steps
        how = dict(rej_percentile=quantile, max_iter=limit, warmup=self.warmup)
        return RejectionSampling(steps, **how)

    def particles(self, t: float) -> list[System]:
        found = []
        for particles in (2, 4):
            asked = 3 * self.forward  # of one particle
            steps = self.steps(t * self.budget / particles - asked)
            for when, levels in RESAMPLED.items():
                at = _steps_at(steps, levels)
                sampling = ParticleSampling(steps, particles=particles, resample_steps=at)
                title = f"{particles} particles, {steps} steps, resampled {when}"
                how = dict(boosting=False, sampling=sampling)
                found.append(System(title, self.head, (0.0, 0.0), **how))
        return found

    def kept(self, t: float) -> list[System]:
        share = 1 / max(2, round(t))
        steps = self.steps(t * self.budget * share - self.forward)
        return [
            System(
                f"{steps} steps, 1 of {1 / share:.0f} kept, noise level {sigma:g}",
                self.head,
                (0.0, 0.0),
                boosting=False,
                num_steps=steps,
                kept=Kept(share, sigma),
            )
            for sigma in LEVELS
        ]

    def guided_restart(self, t: float) -> list[System]:
        levels, repeats = 3, 2
        inner = repeats * (levels - 1) * (2 + self.gradient)
        steps = self.steps(t * self.budget - inner, 2 + INSIDE[SHORT] * self.gradient)
        return [
            System(
                f"{steps} steps, {repeats} times {low:g} to {high:g}, weight {weight:g}",
                self.head,
                (weight, 0.0),
                window=SHORT,
                boosting=False,
                sampling=RestartSampling(steps, restart=[levels, repeats, low, high]),
            )
            for low, high in INTERVALS[1:3]
            for weight in self.weights[1:]
        ]

    def guided_rejection(self, t: float) -> list[System]:
        each = 2 + INSIDE[FULL] * self.forward + INSIDE[SHORT] * self.gradient
        steps = self.steps(t * self.budget / REJECTED, each)
        return [
            System(
                f"{steps} steps, quantile {quantile:g}, weight {weight:g}",
                self.head,
                (weight, 0.0),
                window=SHORT,
                boosting=False,
                sampling=self.with_rejection(steps, quantile),
            )
            for quantile in QUANTILES[:2]
            for weight in self.weights[:2]
        ]


def given_head(setting: Setting) -> Head:
    """The trained head of a setting, or the one that is trained by the default recipe."""
    return Head(next(iter(setting.given)), "last") if setting.given else Head("default")


def _with_options(options: list[System], line: str, t: float, choice: str) -> System:
    """The system of a line at an amount of compute, which is one of the options."""
    heads = options[0].heads
    told = dict(line=line, x=t, options=tuple(options), choice=choice)
    return System(f"{line}, aimed at {t:g} ×", heads, **told)


def _steps_at(num_steps: int, levels: tuple[float, ...]) -> tuple[int, ...]:
    """The steps, after the first, of EDM's schedule that begin nearest to noise levels, as far as
    the ratio is known there."""
    sigmas = noise_schedule(num_steps, 0.002, 80.0, 7)
    found = {int((sigmas.log() - torch.tensor(level).log()).abs().argmin()) for level in levels}
    inside = vp.in_window(sigmas, *FULL)
    return tuple(step for step in sorted(found) if step > 0 and inside[step])
