"""What every config is: a frozen value that refuses fields it does not know."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from glossator.types import content_id


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        return content_id(type(self).__name__, self.model_dump(mode="json"))
