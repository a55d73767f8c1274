"""`python -m glasshouse`, which `torchrun -m glasshouse` needs."""

from glasshouse.cli import main

if __name__ == "__main__":
    main()
