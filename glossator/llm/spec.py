"""What `--llm` means: `openai:NAME`, `openai:NAME@http://host/v1`, `anthropic:NAME`, `local:PATH`, `files:DIR`, `files:NAME@DIR`; `+batch` for the providers' batches."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from glossator.errors import UsageError

PROVIDERS = ("openai", "anthropic", "local", "files")
HOSTS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
_FORMS = "openai:NAME, openai:NAME@http://host:8000/v1, anthropic:NAME, local:PATH, files:DIR, files:NAME@DIR, or one of the first three with +batch"


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
        shown, at, _ = text.partition("@")
        raise UsageError(f"--llm {shown}{at and '@...'}: write {_FORMS}")
    name, batch = (rest[: -len("+batch")], True) if rest.endswith("+batch") else (rest, False)
    base_url = None
    if provider in HOSTS:
        name, at, address = name.partition("@http")
        base_url = _checked(provider, f"http{address}") if at else None
        if "@" in name[1:]:  # the first may be of a name: @cf/meta/llama
            raise UsageError(f"--llm: what follows the @ is no address; write {provider}:NAME@http://host:8000/v1")
        if at and name.endswith("+batch"):
            raise UsageError(f"--llm: +batch goes last; write {provider}:NAME@http://host:8000/v1+batch")
    if not name or name != name.strip() or (provider == "files" and name.endswith("@")):
        raise UsageError(f"--llm: name a {'model' if provider in HOSTS else 'path'} after {provider}:")
    if batch and provider not in HOSTS:
        raise UsageError(f"--llm {text}: {provider}: has no +batch" + (", it is one" if provider == "files" else ""))
    return Spec(provider, name, base_url.rstrip("/") if base_url else None, batch)


def _checked(provider: str, base_url: str) -> str:
    """An address that is one and holds nothing but a host and a path. It is not repeated in errors: it may hold a key."""
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        secret = bool("@" in parts.netloc or parts.query or parts.fragment)
    except ValueError:
        good, secret = False, "@" in base_url
    if secret:
        raise UsageError(
            f"--llm: no user, password, key or query in the address; set the environment variable {provider.upper()}_API_KEY"
        )
    if not good or not base_url.isprintable() or " " in base_url:
        raise UsageError(f"--llm: what follows the @ is no address; write {provider}:NAME@http://host:8000/v1")
    return base_url
