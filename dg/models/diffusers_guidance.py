"""Guidance in the pipelines of diffusers, stock and modular.

    with dg.guide_pipeline(pipe, guidance):
        images = pipe(batch_size=4).images

Every scheduler is told the network's prediction for a noisy sample at a known noise level. The
guidance changes that prediction, so whatever the scheduler does with it stays as it is.
"""

from functools import wraps
from inspect import signature
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dg.adapters import check_steps_unknown, joined
from dg.extractors import one_hot
from edm.guidance import Guidance
from edm.parametrisations import denoised, noise_level, per_image

# Schedulers by the scale of their samples: VP, whose level is that of the timestep or of the step's
# sigma; EDM's; and a flow's.
BY_TIMESTEP = ("DDPMScheduler", "DDIMScheduler")
VP = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
EDM_SCALE = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")
PRECONDITIONED = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
TWO_STAGES = ("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
SCHEDULERS = BY_TIMESTEP + VP + EDM_SCALE + PRECONDITIONED + FLOW
# What networks predict for the schedulers of EDM's preconditioning: its raw output, or minus that.
RAW = {"epsilon": 1.0, "v_prediction": -1.0}


class Evaluation(NamedTuple):
    """Where a scheduler's next step has evaluated the network."""

    level: dict  # of `Guidance.score`: sigma, alpha_bar or flow_time, float64 []
    input_scale: Tensor | None  # of the network's input, as a factor of the sample; None: 1
    prediction_type: str
    sign: float
    sigma_data: float
    order: int  # 1, or 2 for the second stage of a step of Heun's


def kind_of(scheduler) -> str:
    """The name of `SCHEDULERS` that a scheduler of diffusers goes by. ValueError for others, and
    for settings under which its noise levels mean something else."""
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    kind = next((name for name in names if name in SCHEDULERS), None)
    if kind is None:
        raise ValueError(
            f"guidance in a {names[0]} is not supported; use one of {', '.join(SCHEDULERS)}"
        )
    if scheduler.config.get("invert_sigmas"):
        raise ValueError(f"a {names[0]} with invert_sigmas is not supported; switch that off")
    return kind


def evaluation(scheduler, timestep) -> Evaluation:
    """Of the step that a scheduler is about to take from a timestep."""
    kind, config = kind_of(scheduler), scheduler.config
    said = config.get("prediction_type", "flow_prediction")
    predicted = dict(prediction_type=said, sign=1.0, sigma_data=0.5, order=1, input_scale=None)
    if kind in BY_TIMESTEP:
        alphas = torch.as_tensor(scheduler.alphas_cumprod)
        return Evaluation({"alpha_bar": alphas[int(timestep)].to(torch.float64)}, **predicted)
    if kind in TWO_STAGES:
        predicted["order"] = 1 if scheduler.state_in_first_order else 2
    sigma = torch.as_tensor(scheduler.sigmas[_index(scheduler, timestep)]).to(torch.float64)
    if kind in FLOW or config.get("use_flow_sigmas"):
        return Evaluation({"flow_time": sigma}, **predicted)
    if kind in VP:
        return Evaluation({"alpha_bar": 1 / (1 + sigma**2)}, **predicted)
    data = 1.0
    if kind in PRECONDITIONED:
        data = config.sigma_data
        predicted |= dict(prediction_type="edm", sign=RAW[said], sigma_data=data)
    return Evaluation(
        {"sigma": sigma}, **predicted | dict(input_scale=(sigma**2 + data**2).rsqrt())
    )


def _index(scheduler, timestep) -> int:
    if scheduler.step_index is not None:
        return scheduler.step_index
    if scheduler.begin_index is not None:
        return scheduler.begin_index
    return scheduler.index_for_timestep(timestep)


def guided_output(
    guidance: Guidance,
    at: Evaluation,
    prediction: Tensor,
    x: Tensor,
    class_labels: Tensor | None = None,
) -> Tensor:
    """A network's prediction after guidance, in its own dtype.

    prediction    [N, C or more, H, W]  channels beyond C, learned variances, stay
    x             [N, C, H, W]          the scheduler's sample
    class_labels  [N] or [N, K]
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    net = None
    if guidance.uses_network:
        raw = at.sign * prediction[:, : x.shape[1]].to(x.dtype)
        own = denoised(
            raw, x, *noise_level(**at.level, device=x.device), at.prediction_type, at.sigma_data
        )
        net = lambda *_: own  # noqa: E731
    change = guidance.score(
        x,
        class_labels=class_labels,
        **at.level,
        prediction_type=at.prediction_type,
        sigma_data=at.sigma_data,
        net=net,
        order=at.order,
    )
    return joined(prediction, at.sign * change)


class GuidedScheduler:
    """A scheduler of diffusers that guides every prediction before its step; in all else it is that
    scheduler.

    labels  called before every step: the class labels of the samples, or None
    """

    def __init__(self, scheduler, guidance: Guidance, labels=lambda: None):
        check_steps_unknown(guidance)
        kind_of(scheduler)
        self.scheduler, self.guidance, self.labels = scheduler, guidance, labels

        @wraps(scheduler.step)  # pipelines read its signature
        def step(*args, **kwargs):
            return self._step(*args, **kwargs)

        self.step = step

    def _step(self, model_output: Tensor, timestep, sample: Tensor, *args, **kwargs):
        labels = self.labels()
        rows = len(sample) if labels is None else len(labels)
        if not rows or len(sample) % rows:
            raise ValueError(
                f"{rows} class labels for {len(sample)} samples; give one for each of a batch"
            )
        if timestep == self.scheduler.timesteps[0]:
            self.guidance.begin(sample)
        # DiT's pipeline with classifier-free guidance holds every sample twice
        guided = guided_output(
            self.guidance,
            evaluation(self.scheduler, timestep),
            model_output[:rows],
            sample[:rows],
            labels,
        )
        guided = guided.repeat(len(sample) // rows, 1, 1, 1)
        return self.scheduler.step(guided, timestep, sample, *args, **kwargs)

    def __getattr__(self, name):
        """All other attributes are the scheduler's."""
        return getattr(self.scheduler, name)


class SeenLabels:
    """The class labels that the network of a pipeline is called with, one-hot."""

    def __init__(self, net: nn.Module):
        self.parameters, self.seen = signature(net.forward), None
        # a DiT has one class number more, which stands for none
        self.null = net.config.get("num_embeds_ada_norm")
        self.num_classes = self.null or net.config.get("num_class_embeds")
        self.hook = net.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, net, args, kwargs) -> None:
        self.seen = self.parameters.bind(*args, **kwargs).arguments.get("class_labels")

    def __call__(self) -> Tensor | None:
        labels = self.seen
        if labels is None or not self.num_classes:
            return labels
        half = len(labels) // 2
        if self.null and labels.ndim == 1 and (labels[half:] == self.null).all():
            labels = labels[:half]
        return one_hot(labels, self.num_classes)


class GuidedPipeline:
    """A pipeline whose scheduler guides, until `undo` or the end of a `with` block; see
    `guide_pipeline`."""

    def __init__(self, pipe, guidance: Guidance, class_labels: Tensor | None = None):
        self.pipe, self.scheduler = pipe, pipe.scheduler
        if isinstance(self.scheduler, GuidedScheduler):
            raise ValueError("the pipeline is guided already; give a sum of guidances instead")
        guided = GuidedScheduler(self.scheduler, guidance, lambda: class_labels)
        self.seen = None
        if class_labels is None:
            parts = pipe.components
            self.seen = guided.labels = SeenLabels(parts.get("unet") or parts["transformer"])
        pipe.scheduler = guided

    def undo(self) -> None:
        """Give the pipeline back its own scheduler."""
        self.pipe.scheduler = self.scheduler
        if self.seen is not None:
            self.seen.hook.remove()

    def __enter__(self):
        return self.pipe

    def __exit__(self, *_) -> None:
        self.undo()


def guide_pipeline(pipe, guidance: Guidance, class_labels: Tensor | None = None) -> GuidedPipeline:
    """Guide a pipeline of diffusers from now on, until `undo()` of what is returned.

        with dg.guide_pipeline(pipe, guidance):
            images = pipe(batch_size=4).images

    pipe          with a unet or a transformer and one of `SCHEDULERS`; choose the scheduler first
    class_labels  [N] or [N, K] of the images to come; None: those that the pipeline itself gives
                  its network as class_labels, if any

    The guidance sees the latents or images that the scheduler steps, so its discriminator must have
    been trained on such. Weights of the second order count in the second stage of the two Heun
    schedulers alone. ValueError for boosting, for another scheduler, and for a pipeline that is
    guided already.
    """
    return GuidedPipeline(pipe, guidance, class_labels)


def pipeline_guider(
    guidance: Guidance,
    scheduler,
    class_labels: Tensor | None = None,
    start: float = 0.0,
    stop: float = 1.0,
    enabled: bool = True,
):
    """A guider for the modular pipelines of diffusers, to be given as their component `guider`.

    scheduler     the very one of the pipeline, whose steps tell the noise level
    class_labels  [N] or [N, K] of the images, or None
    start, stop   part of the steps that is guided, as in all guiders

    It evaluates the network once, on the conditional inputs. ValueError as in `guide_pipeline`.
    """
    from diffusers.configuration_utils import register_to_config
    from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput

    check_steps_unknown(guidance)
    kind_of(scheduler)

    class DiscriminatorGuider(BaseGuidance):
        _input_predictions = ["pred_cond"]  # noqa: RUF012
        is_conditional, num_conditions = True, 1

        @register_to_config
        def __init__(self, start: float = 0.0, stop: float = 1.0, enabled: bool = True):
            super().__init__(start, stop, enabled)
            self._input = self._hook = None

        def prepare_models(self, denoiser: nn.Module) -> None:
            super().prepare_models(denoiser)
            parameters = signature(denoiser.forward)

            def see(net, args, kwargs):
                self._input = next(iter(parameters.bind(*args, **kwargs).arguments.values()))

            self._hook = denoiser.register_forward_pre_hook(see, with_kwargs=True)

        def cleanup_models(self, denoiser: nn.Module) -> None:
            self._hook.remove()

        def prepare_inputs(self, data):
            return [self._prepare_batch(data, 0, "pred_cond")]

        def prepare_inputs_from_block_state(self, data, input_fields):
            return [self._prepare_batch_from_block_state(input_fields, data, 0, "pred_cond")]

        def forward(self, pred_cond: Tensor):
            guided = pred_cond
            steps = self._num_inference_steps
            first, last = int(self._start * steps), int(self._stop * steps)
            if self._enabled and first <= self._step < last:
                at, x = evaluation(scheduler, self._timestep), self._input
                if at.input_scale is not None:
                    x = x / per_image(at.input_scale, x)
                guided = guided_output(guidance, at, pred_cond, x, class_labels)
            return GuiderOutput(pred=guided, pred_cond=pred_cond, pred_uncond=None)

    return DiscriminatorGuider(start, stop, enabled)
