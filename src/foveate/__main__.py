"""`python -m foveate`, as torchrun and accelerate start it."""

from foveate.cli import main

if __name__ == "__main__":
    main()
