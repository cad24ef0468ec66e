"""What the page carries packed: plotly.js and the plots' data, and what a browser may run and load.

Both are gzip in base64: 4.8 MB of script become 2 MB, and no text of a study can end the element
that holds it. The page unpacks them with DecompressionStream (Chrome 80, Firefox 113, Safari 16.4
and later).
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any


def plotly_js() -> str:
    """plotly.js as its package has it; MIT licence, which its first lines name."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def pack_plotly_js() -> str:
    """Return the same, packed."""
    return pack(plotly_js())


def pack(text: str) -> str:
    """Text as gzip in base64, the same bytes for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def pack_json(value: Any) -> str:
    """Return a value as JSON, packed; NaN is an error, for JavaScript reads none."""
    return pack(json.dumps(value, allow_nan=False, separators=(",", ":")))


def policy(scripts: Iterable[str]) -> str:
    """Return a Content-Security-Policy: only these scripts run, and nothing is fetched from anywhere.

    A picture beside the page may be shown.
    """
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def read_file(name: str) -> str:
    """Return a file of this package: page.html, page.css, page.js."""
    return (files("analysis.web") / name).read_text("utf-8")
