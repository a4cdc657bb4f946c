"""Small U-Nets of guided-diffusion's kind, and how tests make them published ones."""

from guided_diffusion import UNetModel, presets

UNET = dict(
    image_size=8,
    in_channels=3,
    model_channels=64,
    channel_mult=[1],
    num_res_blocks=1,
    attention_resolutions=[],
)
# What its tensors do not tell.
TOLD = dict(image_size=8, num_heads=1, noise_schedule="linear", diffusion_steps=1000)


def publish(monkeypatch, *classes: int) -> None:
    """Let networks of `UNET` with these numbers of classes count as published: linear, 1000
    steps."""
    for num_classes in classes:
        name = f"tiny-{num_classes}"
        monkeypatch.setitem(presets.UNETS, name, UNET | dict(num_classes=num_classes))
        monkeypatch.setitem(presets.UNET_SCHEDULES, name, "linear")


def tiny_unet(**kwargs) -> UNetModel:
    return UNetModel(out_channels=6, **UNET | kwargs)
