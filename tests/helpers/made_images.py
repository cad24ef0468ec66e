"""Small decoded sets, and data sets written as folders and archives, for tests of the data path."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tune_kd.data.decoded import Decoded
from tune_kd.recipe import Images

GARBAGE = b"this is no image"
NAMES = ("a", "b", "c")


def class_images(count=12, *, size=(32, 32), channels=3, seed=0):
    """Random images of three classes."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, *size, channels), dtype=np.uint8)
    return Decoded(images=images, labels=np.arange(count) % 3, class_names=NAMES, hash="made")


def scenes(count=6, *, size=(24, 32), classes=5, block=4, seed=0, validation=None):
    """Blocks of random classes, some void; the red value of a pixel is 40 times its class."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, classes + 1, (count, size[0] // block, size[1] // block))
    masks = blocks.repeat(block, 1).repeat(block, 2).astype(np.uint8)
    images = random.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    images[..., 0] = masks * 40
    masks[masks == classes] = 255
    names = tuple(f"class {number}" for number in range(classes))
    return Decoded(
        images=images, labels=masks, class_names=names, hash="made", validation=validation
    )


def image_settings(decoded, **changes):
    """How a decoded set is seen: neither cropped nor mirrored unless `changes` say so."""
    channels = decoded.images.shape[-1]
    plain = {
        "task": "made",
        "train_hash": decoded.hash,
        "num_classes": len(decoded.class_names),
        "channels": channels,
        "size": decoded.images.shape[1:3],
        "mean": (0.4914, 0.4822, 0.4465)[:channels],
        "std": (0.2470, 0.2435, 0.2616)[:channels],
        "pad": 0,
        "flip": False,
        "dense": decoded.dense,
    }
    return Images(**{**plain, **changes})


def encode(pixels, *, kind="PNG", palette=False):
    """One picture as the bytes of a file; a palette picture's numbers are the pixels."""
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(list(range(255, -1, -1)) * 3)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_set(files, form, folder: Path) -> Path:
    """Files by name as a folder or an archive of a form: folder, zip, tar or tar.gz."""
    place = folder / ("set" if form == "folder" else f"set.{form}")
    folder.mkdir(parents=True, exist_ok=True)
    if form == "folder":
        for name, data in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
    elif form == "zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(place, "w:gz" if form == "tar.gz" else "w") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return place


def voc(
    *,
    train=4,
    val=2,
    test=3,
    size=(12, 16),
    channels=3,
    classes=11,
    root="VOCdevkit/VOC2012/",
    seed=0,
):
    """A data set in VOC's layout: files by name, and what each split holds as (images, masks)."""
    random, files, arrays = np.random.default_rng(seed), {}, {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        if count is None:
            continue
        names = [f"{split}{number}" for number in range(count)]
        files[f"{root}ImageSets/Segmentation/{split}.txt"] = "\n".join([*names, ""]).encode()
        images = random.integers(0, 256, (count, *size, channels), dtype=np.uint8)
        masks = random.integers(0, classes, (count, *size), dtype=np.uint8)
        masks[:, 0] = 255
        arrays[split] = images, masks
        for name, image, mask in zip(names, images, masks, strict=True):
            # lossless under a JPEG's name: PIL looks at the content
            files[f"{root}JPEGImages/{name}.jpg"] = encode(image.squeeze())
            files[f"{root}SegmentationClass/{name}.png"] = encode(mask, palette=split != "val")
    return files, arrays


def tiny_imagenet(*, each=5, root="tiny-imagenet-200/", seed=0):
    """Three classes of Tiny ImageNet's layout, of which wnids.txt names two and one that has no images.

    Files by name, and what each split holds as (images, labels) in the order of decoding.
    """
    random, files, arrays = np.random.default_rng(seed), {}, {}
    classes = ["n01", "n02"]
    images = random.integers(0, 256, (each * 2, 64, 64, 3), dtype=np.uint8)
    labels = np.repeat([0, 1], each)
    arrays["train"] = images, labels
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        wnid = classes[label]
        files[f"{root}train/{wnid}/images/{wnid}_{number}.JPEG"] = encode(image)
        files[f"{root}train/{wnid}/{wnid}_boxes.txt"] = b"0 0 1 1\n"
    files[f"{root}train/n09/images/n09_0.JPEG"] = GARBAGE  # not among wnids.txt
    val = random.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    lines = []
    for number, image in enumerate(val):
        wnid = ["n02", "n01", "n03", "n02"][number]
        files[f"{root}val/images/val_{number}.JPEG"] = encode(image)
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    arrays["test"] = val[[0, 1, 3]], np.array([1, 0, 1])  # n03 has no training images
    files[f"{root}val/val_annotations.txt"] = "".join(lines).encode()
    files[f"{root}wnids.txt"] = b"n02\nn03\nn01\n"
    files[f"{root}words.txt"] = b"n01\tgoldfish, Carassius auratus\nn05\tcat\n"
    return files, arrays


CLASSES = ("cat", "dog", "owl")


def of_classes(count, *, seed=0, shape=(32, 32, 3)):
    """Images in the order of their classes, `count` for each of CLASSES."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count * len(CLASSES), *shape), dtype=np.uint8)
    return images, np.repeat(np.arange(len(CLASSES)), count)


def class_folders(folder: Path, split, images, labels) -> None:
    """`<split>/<class>/<number>.png`."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / split / CLASSES[label] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))


def parquet(path: Path, images, labels, *, names=CLASSES, image="image", label="label") -> None:
    """Encoded images in Hugging Face's layout, with the names of their classes where there are some."""
    structs = [{"bytes": data, "path": None} for data in images]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({image: pa.array(structs, kind), label: pa.array(list(labels), pa.int64())})
    if names:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def of_task(task, folder: Path) -> Path:
    """A folder for a task: images of its shape as Parquet, one shade a class, or with masks in VOC's layout.

    Of the 30 images of 5 classes 20 are fitted and 10 validate; of those with masks 6 and 4.
    """
    if task.dense:
        files, _ = voc(train=6, val=4, test=2, size=task.sides, classes=task.num_classes)
        return write_set(files, "folder", folder)
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 6)
    noise = random.integers(0, 40, (len(labels), *task.sides, task.channels))
    shades = (noise + 40 * labels[:, None, None, None]).astype(np.uint8)
    for split in ("train", "test"):
        images = [encode(shade.squeeze()) for shade in shades]
        parquet(folder / f"{split}.parquet", images, labels, names=())
    return folder
