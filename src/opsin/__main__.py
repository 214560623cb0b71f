"""`python -m opsin` is the same as `opsin`."""

from opsin.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
