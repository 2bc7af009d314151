"""``python -m loricate`` is the command ``loricate``."""

from loricate.cli.main import main

if __name__ == "__main__":
    main()
