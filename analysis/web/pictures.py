"""Pictures within the page, as long as it stays small: scaled down and as WebP, else beside it."""

import base64
import io
from collections.abc import Iterable

from PIL import Image

from analysis.web.content import Picture

WIDEST = 1400  # px
QUALITY = 80


def data_uris(pictures: Iterable[Picture], *, budget: int) -> dict[str, str]:
    """Return data URIs by the pictures' names, in their order while they fit into `budget` characters."""
    uris: dict[str, str] = {}
    for picture in pictures:
        if picture.name in uris:
            continue
        uri = f"data:image/webp;base64,{base64.b64encode(_small(picture.data)).decode()}"
        if len(uri) <= budget:
            uris[picture.name] = uri
            budget -= len(uri)
    return uris


def _small(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as original:
        picture = original.convert("RGB")
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()
