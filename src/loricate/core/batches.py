"""How many pictures a batch holds."""

from typing import Final

from loricate.core.shapes import Images

__all__ = ["fitting"]

_USUAL: Final = 64 * 64  # pixels of a picture that a batch size is meant for


def fitting(batch_size: int, images: Images) -> int:
    """Pictures in a batch of about the memory that small ones take.

    Args:
        batch_size: Pictures of up to 64 x 64 pixels in a batch.
        images: Some of the pictures.

    Returns:
        ``batch_size``, or for larger pictures as many as have no more pixels together; at least 1.
    """
    pixels = images.shape[-2] * images.shape[-1]
    return max(1, min(batch_size, batch_size * _USUAL // pixels))
