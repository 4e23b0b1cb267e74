"""What `--llm` means: `openai:NAME`, `openai:NAME@http://host/v1`, `anthropic:NAME`, `local:PATH`, `files:DIR`; `+batch` for the providers' batches."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from glossator.errors import UsageError

PROVIDERS = ("openai", "anthropic", "local", "files")
HOSTS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
_FORMS = "openai:NAME, openai:NAME@http://host:8000/v1, anthropic:NAME, local:PATH, files:DIR, or one of the first three with +batch"


@dataclass(frozen=True, slots=True)
class Spec:
    """base_url None: the provider's own. For `local` and `files` the name is a path."""

    provider: str
    name: str
    base_url: str | None = None
    batch: bool = False

    @property
    def host(self) -> str:
        """Whom the name is a name at; a part of what makes two questions equal."""
        if self.provider not in HOSTS:
            return ""
        parts = urlsplit(self.base_url or HOSTS[self.provider])
        return parts.netloc.rpartition("@")[2] + parts.path.rstrip("/")

    @property
    def theirs(self) -> bool:
        """Whether it is the provider's own host, which needs a key and bills."""
        return self.provider in HOSTS and self.base_url is None


def parse_spec(text: str) -> Spec:
    """Raises UsageError that says what is wrong and what can be written."""
    provider, colon, rest = text.strip().partition(":")
    if not colon or provider not in PROVIDERS:
        raise UsageError(f"--llm {text}: write {_FORMS}")
    name, batch = (rest[: -len("+batch")], True) if rest.endswith("+batch") else (rest, False)
    base_url = None
    if provider in HOSTS and "@" in name:
        name, _, base_url = name.rpartition("@")
        try:
            parts = urlsplit(base_url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good:
            raise UsageError(f"--llm {text}: {base_url} is no address; write {provider}:NAME@http://host:8000/v1")
        if parts.username or parts.password:
            raise UsageError(f"--llm: no keys in the address; set the environment variable {provider.upper()}_API_KEY")
    if not name or name != name.strip():
        raise UsageError(f"--llm {text}: name a {'model' if provider in HOSTS else 'path'} after {provider}:")
    if batch and provider not in HOSTS:
        raise UsageError(f"--llm {text}: {provider}: has no +batch" + (", it is one" if provider == "files" else ""))
    return Spec(provider, name, base_url.rstrip("/") if base_url else None, batch)
