"""The command line: thin. Whatever a command does can be done from Python as well (see pipeline)."""

from __future__ import annotations

from glossator.commands import exchange, labelling, making, night, reading, scoring, tools
from glossator.commands.common import app, err
from glossator.errors import GlossatorError

__all__ = ["app", "exchange", "labelling", "main", "making", "night", "reading", "scoring", "tools"]
_ORDER = (  # in which the help names them: as a job goes
    "init", "run", "status", "demo", "harvest", "merge", "label", "probe", "debate", "score", "rate", "validate", "sql", "search", "embed", "show", "inspect", "report", "export", "import_", "doctor", "version",
)  # fmt: skip
_INTERRUPTED = 130  # what typer makes of Ctrl-C
app.registered_commands.sort(key=lambda command: _ORDER.index(getattr(command.callback, "__name__", "")))


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors become one line and an exit code."""
    from glossator.config import quiet_tracing

    quiet_tracing()
    try:
        app(args=arguments, standalone_mode=True)
    except GlossatorError as error:
        err.print(f"glossator: {error}", style="red")
        raise SystemExit(error.exit_code) from None
    except SystemExit as stop:
        if stop.code != _INTERRUPTED:
            raise
        err.print("glossator: stopped; what was written is kept, run the same command again to go on", style="yellow")
        raise SystemExit(3) from None


if __name__ == "__main__":
    main()
