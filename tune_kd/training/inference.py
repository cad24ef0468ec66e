"""A network run over images in evaluation mode: its logits batch by batch, and the scores of them."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from tune_kd.data.batch import Batch
from tune_kd.data.splits import DeviceSplit
from tune_kd.models import segmentation
from tune_kd.training import scoring


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Batch]]:
    """Yield float32 logits [B, K, ...] of each batch, with the batch.

    The network is in evaluation mode until the last batch, and then in the mode that it came in. A
    frozen teacher's logits for the logit cache are made elsewhere (`FrozenTeacher.logits`): at the
    network's own stride, and in the precision of training.
    """
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            yield model(batch.images).float(), batch
    finally:
        model.train(was_training)


def evaluate(
    model: nn.Module,
    images: DeviceSplit,
    index: Tensor,
    *,
    reference: Tensor | None = None,
    each_image: bool = False,
) -> scoring.Scores:
    """Return what a network reaches on the images `index` as they are, in float32.

    `reference`: logits of a teacher for these images, in this order, to agree with. `each_image`:
    what it reaches on single images is kept as well.
    """
    tally = scoring.Tally(images.num_classes, device=index.device, each_image=each_image)
    start = 0
    for logits, batch in predict(model, images.batches(index)):
        teacher = None
        if reference is not None:
            teacher = reference[start : start + len(logits)].to(index.device).float()
            teacher = segmentation.resize(teacher, images.sides) if images.dense else teacher
        tally.add(logits, batch.labels, teacher=teacher)
        start += len(logits)
    return tally.scores()
