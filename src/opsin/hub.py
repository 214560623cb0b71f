"""Files of repositories on the Hugging Face Hub: from the local cache, else from the network, else an error that helps.

Without a network the Hub's own client tries for over a minute. Here one connection is tried first, for two seconds.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from opsin.errors import CheckpointError, OfflineError
from opsin.runtime import is_offline

SECONDS_TO_ANSWER = 2.0


def hub_file(ref: str, repo_id: str, filenames: Sequence[str]) -> Path:
    """The first of the files that a repository of the Hugging Face Hub has; `ref` is what the user asked for.

    Raises OfflineError when none is in the cache and none can be fetched now, CheckpointError when the repository has
    none of them or cannot be read.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    missing: Exception | None = None
    with _clear_errors(ref, repo_id, filenames):
        for filename in filenames:
            try:
                return Path(hf_hub_download(repo_id, filename, local_files_only=not _may_download()))
            except LocalEntryNotFoundError:
                if filename == filenames[-1] and missing is None:
                    raise
            except EntryNotFoundError as error:
                missing = error
    raise CheckpointError(f"{ref}: the repository {repo_id} has no {' or '.join(filenames)}") from missing


def hub_files(ref: str, repo_id: str, patterns: Sequence[str]) -> Path:
    """The directory with all files of a repository that match one of the patterns; raises as `hub_file` does."""
    from huggingface_hub import snapshot_download

    with _clear_errors(ref, repo_id, ()):
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns), local_files_only=not _may_download()))


def hub_has(repo_id: str, filename: str) -> bool:
    """Whether a file of a repository is in the cache, or can be fetched now, which puts it there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        return bool(hf_hub_download(repo_id, filename, local_files_only=not _may_download()))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):  # the first also when there is no network
        return False


@cache
def is_reachable() -> bool:
    """Whether the Hub, or the proxy before it, takes a connection within two seconds; asked once a process."""
    from huggingface_hub import constants

    target = urlsplit(constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = target.port or (443 if target.scheme == "https" else 80)
    connected = threading.Event()

    def connect() -> None:
        # Any failure is a no: an unknown name, a refusal, a firewall, sockets that are not allowed here.
        with contextlib.suppress(Exception), socket.create_connection((target.hostname, port), SECONDS_TO_ANSWER):
            connected.set()

    thread = threading.Thread(target=connect, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return connected.is_set()


def _may_download() -> bool:
    return not is_offline() and is_reachable()


@contextlib.contextmanager
def _clear_errors(ref: str, repo_id: str, filenames: Sequence[str]) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise CheckpointError(f"{ref} is not of the form hf-hub:ORG/NAME") from error
    except LocalEntryNotFoundError as error:
        raise OfflineError(_help(ref, repo_id, filenames)) from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"{ref}: the Hub has no readable model {repo_id}: {_first_line(error)}") from error


def _help(ref: str, repo_id: str, filenames: Sequence[str]) -> str:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    command = " ".join(["hf download", repo_id, *filenames[:1]])
    now = (
        "photo-clip and emoji-clip, which ship with opsin and encode images and texts; imagenet, which is installed "
        "with opsin and encodes photographs; or the directory of a model that you have trained"
    )
    return (
        f"the weights of {ref} are not in the local cache and cannot be downloaded now. Where there is a network, run "
        f"`{command}` and copy the folder {folder.name} from the cache there to {folder}. What works now: {now}"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
