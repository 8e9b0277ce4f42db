"""`foveate` and `python -m foveate`, as torchrun and accelerate start it."""

import sys

from foveate.keeping import stopping


def main() -> None:
    """Run the command line; it can be stopped while it is still being loaded."""
    stopping.heed()
    try:
        from foveate.cli import main as command
    except KeyboardInterrupt:
        stopping.ignore()
        sys.exit(f"foveate: {stopping.STOPPED}")  # exit code 1
    command()


if __name__ == "__main__":
    main()
