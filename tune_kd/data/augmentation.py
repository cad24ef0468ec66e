"""What is seen of each image in an epoch: pure functions of (seed, epoch, index).

Everything is drawn for the whole decoded set, on the CPU, without the global generator: so a view
is the same for every subset and batch and for every trial, and a teacher's outputs can be kept.
"""

import numpy as np
import torch
from torch import Tensor

from tune_kd.recipe import stream


def _generator(seed: int, purpose: str, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream(seed, purpose, epoch))


def centre(pad: int) -> int:
    """Return the view without crop and flip.

    >>> centre(0), centre(4)
    (0, 40)
    """
    return pad * (2 * pad + 1) + pad


def crops(num_images: int, *, seed: int, epoch: int, pad: int, flip: bool) -> Tensor:
    """Return the crop of every image of the decoded set in an epoch: int64 [num_images], on the CPU.

    view = mirrored * (2 pad + 1)^2 + dy * (2 pad + 1) + dx, where the crop begins dy pixels down
    and dx pixels right in the image with `pad` zeros around. Uniform over the (2 pad + 1)^2 crops,
    mirrored half of the time where `flip`.
    """
    kinds = (2 * pad + 1) ** 2 * (2 if flip else 1)
    return torch.randint(0, kinds, (num_images,), generator=_generator(seed, "views", epoch))


def partners(num_images: int, *, seed: int, epoch: int, among: Tensor) -> Tensor:
    """With whom every image is mixed: int64 [num_images], uniform among the indices `among`.

    It may be the image itself, as in a shuffled batch.
    """
    uniform = torch.rand(
        num_images, dtype=torch.float64, generator=_generator(seed, "partners", epoch)
    )
    return among.cpu()[(uniform * len(among)).long()]


def shares(num_images: int, *, seed: int, epoch: int, alpha: float) -> Tensor:
    """How much of every image is its own: float64 [num_images] from Beta(alpha, alpha), on the CPU."""
    random = np.random.Generator(np.random.PCG64(stream(seed, "shares", epoch)))
    return torch.from_numpy(random.beta(alpha, alpha, num_images))


def boxes(share: Tensor, sides: tuple[int, int], *, seed: int, epoch: int) -> Tensor:
    """CutMix's boxes: int64 [N, 4] of top, bottom, left, right, within the image.

    `share` [N] is drawn by `shares`. The box has sqrt(1 - share) of the image's height and width
    and a centre uniform in the image; what sticks out is cut off (Yun et al. 2019, eq. 2).
    """
    uniform = torch.rand(
        (len(share), 2), dtype=torch.float64, generator=_generator(seed, "boxes", epoch)
    )
    size = torch.tensor(sides, dtype=torch.float64)
    middle = (uniform * size).long()
    extent = ((1 - share).clamp_min(0).sqrt()[:, None] * size).long()
    low = middle - torch.div(extent, 2, rounding_mode="floor")
    high = low + extent
    limit = torch.tensor(sides)
    low, high = low.clamp_min(0), torch.minimum(high, limit)
    return torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)


def geometry(
    num_images: int, *, seed: int, epoch: int, scale: tuple[float, ...], flip: bool
) -> Tensor:
    """How every dense image is seen: float64 [num_images, 4] of factor, down, right, mirrored (0 or 1).

    The image is resized by a factor uniform in `scale` and cropped to its own size; `down` and
    `right`, uniform in [0, 1), say which share of what is cut off lies above and left (of a smaller
    image: which share of the border).
    """
    values = torch.rand(
        (num_images, 4), dtype=torch.float64, generator=_generator(seed, "geometry", epoch)
    )
    low, high = scale
    values[:, 0] = low + (high - low) * values[:, 0]
    values[:, 3] = (values[:, 3] < 0.5) & torch.tensor(flip)
    return values


def affine(view: Tensor) -> Tensor:
    """Matrices [N, 2, 3] from coordinates of the view to those of the image, as F.affine_grid wants.

    Both run from -1 to 1 (align_corners False). With factor s and offset u (`right`), x on the view
    is at x / s + (s - 1) (2 u - 1) / s on the image; mirroring turns the sign of x.

    >>> affine(torch.tensor([[2.0, 0.0, 1.0, 1.0]])).tolist()
    [[[-0.5, 0.0, 0.5], [0.0, 0.5, -0.5]]]
    """
    factor, down, right, mirrored = view.unbind(1)
    zero = torch.zeros_like(factor)
    at_x = (factor - 1) * (2 * right - 1) / factor
    at_y = (factor - 1) * (2 * down - 1) / factor
    x = torch.stack([(1 - 2 * mirrored) / factor, zero, at_x], 1)
    y = torch.stack([zero, 1 / factor, at_y], 1)
    return torch.stack([x, y], 1)
