"""`python -m qgraph`."""

from qgraph.supervise import main

if __name__ == "__main__":
    main()
