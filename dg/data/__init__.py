"""Sets of images and latents: readers, streams, stores."""
