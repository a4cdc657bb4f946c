"""What is wanted most of this package, in one place."""

from dg.data.image_stream import stream_of
from dg.data.images import ImageSet, pooled, to_float, to_uint8
from dg.data.named_sets import SPLITS
from dg.data.reader import kinds_of, load_images, open_images

__all__ = [
    "SPLITS",
    "ImageSet",
    "kinds_of",
    "load_images",
    "open_images",
    "pooled",
    "stream_of",
    "to_float",
    "to_uint8",
]
