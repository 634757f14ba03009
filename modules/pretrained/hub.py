"""Files of a Hub repository, fetched or from the local cache, and one-line reasons where that fails."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from modules.common.errors import UserError


def fetch_file(repo_id: str, name: str, what: str, *, offline: bool, required: bool) -> Path | None:
    """Return the local path of one file of a Hub repository; None where an optional file does not exist.

    Raises:
        UserError: The file cannot be fetched; the message starts with `what`.
    """
    try:
        return Path(hf_hub_download(repo_id, name, local_files_only=offline))
    except Exception as error:  # The errors of the HTTP library share no base class with those of the Hub.
        if not required and isinstance(error, EntryNotFoundError):
            return None
        raise UserError(f"{what}: {_reason(error, repo_id, name, offline)}") from error


def has_remote_file(repo_id: str, name: str, offline: bool) -> bool:
    """Return whether the Hub has this file; False where the Hub cannot be asked."""
    try:
        return not (offline or is_offline_mode()) and HfApi().file_exists(repo_id, name)
    except Exception:
        return False


def _reason(error: Exception, repo_id: str, name: str, offline: bool) -> str:
    """Return why a file of a Hub id is not available, and what to do."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is neither a folder nor a Hub id: correct it"
    if isinstance(error, GatedRepoError):
        return (
            f"{repo_id} is gated: accept its terms at {constants.ENDPOINT}/{repo_id},"
            " log in by `hf auth login` and run again"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repo_id} is neither a local folder nor a public model on the Hub:"
            " correct it (a private one needs `hf auth login`)"
        )
    if offline or is_offline_mode():
        return (
            f"{name} of {repo_id} is not in the cache and offline mode is on:"
            " run once with a network, or give a local folder"
        )
    if isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError):
        return f"{repo_id} on the Hub has no {name}: choose a model that has it"
    if status in (401, 403):
        return f"the Hub refuses {repo_id} ({status}): log in by `hf auth login` with a token that may read it"
    if status is not None:
        return f"the Hub answers {status} for {repo_id}: try again later, or give a local folder"
    if isinstance(cause, OSError) and cause.filename:
        return (
            f"{repo_id} cannot be written to the cache ({cause.strerror}: {cause.filename}):"
            " free some space there or set HF_HOME to another folder"
        )
    return f"the Hub cannot be reached and {repo_id} is not in the cache: check the network, or give a local folder"
