"""The ``e2v`` command: signals are handled before anything else is imported."""

from __future__ import annotations

from e2v_cli.system.signals import StopSignals


def main() -> None:
    """Run e2v, and end with the exit code that its errors carry."""
    stop = StopSignals()
    stop.heed()
    try:
        from e2v_cli.cli.main import run_command_line

        code = run_command_line(stop)
    except KeyboardInterrupt:
        code = 75  # EXIT_STOPPED, which is perhaps not imported yet
    stop.ignore()  # nothing is left to stop
    raise SystemExit(code)


if __name__ == "__main__":
    main()
