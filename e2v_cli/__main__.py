"""``python -m e2v_cli`` is ``e2v``."""

from e2v_cli.cli import main

if __name__ == "__main__":
    main()
