"""`python -m scmm.cli`."""

from scmm.cli import main


if __name__ == "__main__":
    main()
