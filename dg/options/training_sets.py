"""The images that pretrain.py trains on and tests with."""

from dg.runtime import console


def training_set(data, ranks, latents=False):
    """The training images, or latents if allowed."""
    from dg.data.datasets import load_images
    from dg.data.latents import load_set

    _, notify = console.shown_by(ranks)
    with ranks.main_process_first():
        return load_set(data, notify) if latents else load_images(data, notify=notify)


def heldout_set(source, images):
    """Labelled images or latents of the size of the training images, or None."""
    from dg.data.latents import load_set

    heldout = load_set(source, console.notify) if source else None
    if heldout and (heldout.labels is None or heldout.items.shape[1:] != images.items.shape[1:]):
        raise ValueError(
            f"{heldout.name}: does not fit {images.name}; give --test {images.what} of the "
            "same size, with labels"
        )
    return heldout
