"""Images from the web, for the pictures in the notebooks."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

import numpy as np

from opsin.images.opening import open_image
from opsin.runtime import is_offline

TIMEOUT_SECONDS = 30


def image_from_url(url: str) -> np.ndarray | None:
    """The image at an address as uint8 (H, W, 3) RGB, or None, with the reason printed, when it cannot be had."""
    try:
        if is_offline() and not url.startswith("file:"):
            raise OSError("this run is offline (OPSIN_OFFLINE or HF_HUB_OFFLINE)")
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            return np.array(open_image(response.read(), name="the file"))
    except urllib.error.HTTPError as error:
        error.close()  # it is the server's answer, too, and holds the connection
        reason: object = error.reason
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
    print("URL Error: ", reason, url)
    return None
