"""`python -m qgraph`."""

from qgraph._cli.supervise import main

if __name__ == "__main__":
    main()
