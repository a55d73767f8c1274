"""Names on the Hugging Face Hub: what of a model is needed here, fetched once and kept in the Hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from cloche.errors import HubUnavailable
from cloche.missing import extra

SCHEME = "hf://"
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?:@[\w./-]+)?")  # owner/name, or owner/name@revision
FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "model.safetensors-*.safetensors",
    "tokenizer*.json",
)


def named(where: str) -> str | None:
    """The name on the Hub that `where` can only mean: it begins with hf://, or is owner/name and no folder `owner` is here."""
    if where.startswith(SCHEME):
        return where.removeprefix(SCHEME)
    local = Path(where)
    return where if NAME.fullmatch(where) and not local.exists() and not local.parent.exists() else None


def fetch(name: str, near: str = "") -> Path:
    """The folder of a model of the Hub, "owner/name" or "owner/name@revision": config, safetensors and tokenizer, no code.

    near: what to say of folders here that the name might have meant. Raises ClocheError without huggingface_hub, and where the
    model is not there or cannot be reached.
    """
    if not NAME.fullmatch(name):
        raise HubUnavailable(
            f"{name!r} is not a name on the Hugging Face Hub; write owner/name, or owner/name@revision."
        )
    missing = f"There is no folder {name} here{near}; to fetch it from the Hugging Face Hub"
    huggingface_hub, errors = (
        extra(module, "hub", missing) for module in ("huggingface_hub", "huggingface_hub.errors")
    )
    repository, _, revision = name.partition("@")
    try:
        return Path(
            huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
        )
    except errors.GatedRepoError:
        raise HubUnavailable(
            f"{repository} asks for its terms to be accepted; do so on huggingface.co, then run `hf auth login`."
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise HubUnavailable(
            f"{name} is neither a folder here{near} nor a model that the Hugging Face Hub shows you; check its spelling."
        ) from None
    except errors.LocalEntryNotFoundError:
        raise HubUnavailable(
            f"{name} is neither a folder here{near} nor in the Hub's cache, and the Hugging Face Hub cannot be reached; "
            "connect, or name a folder."
        ) from None
    except Exception as error:  # of whichever network library it uses
        reason = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
        raise HubUnavailable(f"{name} could not be fetched from the Hugging Face Hub ({reason}); try again.") from None
