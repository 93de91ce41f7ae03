"""Upload a packed folder to the Hugging Face hub; what would be uploaded can be looked at first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsecse.errors import InputError
from sparsecse.packing.folder import check_pack


def publication(folder: Path) -> dict[str, Any]:
    """What an upload of a folder would send: {"files": [{"path", "bytes"}], "bytes", "card": its text}.

    Raises:
        InputError: the folder is missing, is no model with weights, configuration and a card, or is a pack whose
            weights were changed since.
    """
    for name in ("config.json", "model.safetensors", "README.md"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; give a folder that `sparsecse pack` wrote.")
    check_pack(folder)
    files = [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    card = (folder / "README.md").read_text(encoding="utf-8")
    return {"files": files, "bytes": sum(file["bytes"] for file in files), "card": card}


def push(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Create the model repository where it does not exist and upload the folder; returns the commit's address.

    Raises:
        InputError: a malformed repository id, no access token, no connection, or a refusal by the hub.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    files = [file["path"] for file in publication(folder)["files"]]
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
        commit = api.upload_folder(
            folder_path=folder,
            repo_id=repo_id,
            allow_patterns=files,
            commit_message="Upload a model pruned with sparsecse",
        )
    except HFValidationError as error:
        raise InputError(f"'{repo_id}' is not a repository id ({error}); write user/name.") from None
    except LocalTokenNotFoundError:
        raise InputError("There is no Hugging Face access token; run `hf auth login` or set HF_TOKEN.") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise InputError(
            f"The upload to {repo_id} failed ({str(error).splitlines()[0]}); check the connection and the token."
        ) from None
    return str(commit.commit_url)
