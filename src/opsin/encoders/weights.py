"""Weight files of known repositories: from the local cache, else from the network, else an error that helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from opsin.errors import CheckpointError, OfflineError
from opsin.runtime import is_offline


def hub_file(ref: str, repo_id: str, filenames: Sequence[str]) -> Path:
    """The first of the files that a repository of the Hugging Face Hub has; `ref` is what the user asked for.

    Raises OfflineError when none is in the cache and none can be fetched now, CheckpointError when the repository has
    none of them or cannot be read.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    missing: Exception | None = None
    unreachable: Exception | None = None
    for filename in filenames:
        try:
            return Path(hf_hub_download(repo_id, filename, local_files_only=is_offline()))
        except LocalEntryNotFoundError as error:
            unreachable = error
        except EntryNotFoundError as error:
            missing = error
        except HfHubHTTPError as error:
            raise CheckpointError(f"{ref}: the Hub has no readable model {repo_id}: {_first_line(error)}") from error
    if unreachable is not None:
        raise OfflineError(_help(ref, repo_id, filenames)) from unreachable
    raise CheckpointError(f"{ref}: the repository {repo_id} has no {' or '.join(filenames)}") from missing


def hub_files(ref: str, repo_id: str, patterns: Sequence[str]) -> Path:
    """The directory with all files of a repository that match one of the patterns; raises as `hub_file` does."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns), local_files_only=is_offline()))
    except LocalEntryNotFoundError as error:
        raise OfflineError(_help(ref, repo_id, ())) from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"{ref}: the Hub has no readable {repo_id}: {_first_line(error)}") from error


def hub_has(repo_id: str, filename: str) -> bool:
    """Whether a file of a repository is in the cache, or can be fetched now, which puts it there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        return bool(hf_hub_download(repo_id, filename, local_files_only=is_offline()))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):  # the first also when there is no network
        return False


def _help(ref: str, repo_id: str, filenames: Sequence[str]) -> str:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    command = " ".join(["hf download", repo_id, *filenames[:1]])
    now = (
        "emoji-clip, which ships with opsin and encodes images of emoji and texts; imagenet, which is installed with "
        "opsin and encodes photographs; or the directory of a model that you have trained"
    )
    return (
        f"the weights of {ref} are not in the local cache and cannot be downloaded now. Where there is a network, run "
        f"`{command}` and copy the folder {folder.name} from the cache there to {folder}. What works now: {now}"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
