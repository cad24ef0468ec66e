"""What is kept of an opened test split: its best and worst predictions."""

import numpy as np

from tests import made_images, making
from tune_kd import exam, models, site


def test_an_image_of_nothing_but_void_is_neither_among_the_best_nor_among_the_worst(tmp_path):
    decoded = made_images.scenes(4, size=(32, 32))
    decoded.labels[1] = 255
    images = made_images.seen(decoded)
    where = making.site_in(tmp_path)
    model = models.build("lraspp_mobilenet_v3_small", shape=site.shape_of(images)).eval()
    for count, shown in ((4, {0, 2, 3}), (1, {0})):
        every = np.arange(count)
        fold = site.folded(decoded, images, where, layout="contiguous", parts=(every, every[:0]))
        found = exam.pictures(model, exam.Exam(images=fold, decoded=decoded, reference=None))
        assert set(found["index"].tolist()) == shown
        assert not np.isnan(found["iou"]).any()
        assert len(found["all_iou"]) == count
