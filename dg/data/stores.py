"""Sample stores filled with real images, and stores that were made in parts."""

from pathlib import Path

import numpy as np

from dg.data.image_stream import ImageStream
from dg.data.sample_store import SampleStore
from dg.runtime.progress import Progress, silent
from dg.runtime.run_folder import sole_writer


def store_crops(
    path, pictures: ImageStream, count: int, size: int, batch_size: int, progress: Progress = silent
) -> None:
    """Fill a store with middle squares of `count` labelled images, drawn at random by a fixed seed.
    ValueError where there are fewer."""
    order = np.random.default_rng(0).permutation(len(pictures))[:count]
    if len(order) < count:
        raise ValueError(
            f"{pictures.name}: {len(order)} images, but {count} are wanted; give the whole "
            "training set"
        )
    about = {"images": pictures.fingerprint(), "resolution": size}
    with sole_writer(path):
        store = SampleStore(path, about, range(count), batch_size)
        for index in progress(store.pending(), desc="real images", unit="part"):
            places = order[store.batches()[index]]
            store.write(index, pictures.crops(places, size), pictures.labels[places])


def merged(folder: Path) -> Path:
    """A folder `all` beside the parts of a set of images, with links to all their shards, whose
    names tell them apart."""
    together = folder / "all"
    together.mkdir(exist_ok=True)
    for shard in sorted(folder.glob("part-*/samples_*.npz")):
        link = together / shard.name
        if not link.exists():
            link.symlink_to(Path("..") / shard.parent.name / shard.name)
    return together
