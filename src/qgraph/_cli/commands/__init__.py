"""The commands: each parses, calls one function of the API and prints what it returned."""
