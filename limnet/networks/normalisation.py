"""The colour statistics of ImageNet, which every pretrained backbone here expects."""

from jaxtyping import Float
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)  # red, green, blue of images in [0, 1]
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


def normalise(
    images: Float[Tensor, "batch 3 height width"], *, rgb: bool = True
) -> Float[Tensor, "batch 3 height width"]:
    """Shift and scale images in [0, 1] to ImageNet's mean 0 and standard deviation 1.

    Args:
        colour: False for networks that have seen grey slices only: colours become their mean.
    """
    if not rgb:
        images = images.mean(dim=1, keepdim=True).expand_as(images)
    mean, deviation = images.new_tensor((MEAN, STANDARD_DEVIATION))[:, :, None, None]
    return (images - mean) / deviation
