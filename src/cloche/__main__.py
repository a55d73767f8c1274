"""`python -m cloche`, which `torchrun -m cloche` needs."""

from cloche.cli import main

if __name__ == "__main__":
    main()
