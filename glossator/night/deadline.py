"""When a night is to stop: a time of day, a moment, or how long. Times are those of this machine."""

from __future__ import annotations

import datetime
import re

from glossator.errors import UsageError

Deadline = str | datetime.time | datetime.datetime | None

_LONG = re.compile(r"(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+)\s*m(?:in)?)?\s*(?:(\d+)\s*s)?")


def moment(deadline: Deadline, now: datetime.datetime) -> datetime.datetime | None:
    """`07:00` is the next one, `8h` and `1h30m` are from now. now: local, without a zone. Raises UsageError for others, and the past."""
    if deadline is None:
        return None
    if isinstance(deadline, datetime.datetime):
        found = deadline.astimezone().replace(tzinfo=None) if deadline.tzinfo else deadline
    elif isinstance(deadline, datetime.time):
        found = _next(deadline.replace(tzinfo=None), now)
    else:
        found = _written(deadline.strip(), now)
    if found <= now:
        raise UsageError(f"{found:%Y-%m-%d %H:%M} is past")
    return found


def _written(text: str, now: datetime.datetime) -> datetime.datetime:
    long = _LONG.fullmatch(text)
    if text and long and any(long.groups()):
        hours, minutes, seconds = (float(part or 0) for part in long.groups())
        try:
            return now + datetime.timedelta(hours=hours, minutes=minutes, seconds=seconds)
        except OverflowError:
            raise UsageError(f"{text!r} is beyond all calendars; leave it out for no deadline") from None
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}(?::\d{2})?", text):
            return _next(datetime.time.fromisoformat(text.zfill(len(text) + len(text.partition(":")[0]) % 2)), now)
        return datetime.datetime.fromisoformat(text).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise UsageError(
            f'{text!r} is no time: write "07:00", "2026-12-24 07:00", or how long, such as "8h" or "90m"'
        ) from None


def _next(time: datetime.time, now: datetime.datetime) -> datetime.datetime:
    found = datetime.datetime.combine(now.date(), time)
    return found if found > now else found + datetime.timedelta(days=1)
