"""Values made on demand are made when one is read, and only then."""

from __future__ import annotations

from qgraph._graph.tensors import OnDemand


def test_asking_whether_a_value_is_there_does_not_make_it() -> None:
    made: list[str] = []

    def make() -> str:
        made.append("a")
        return "a"

    values = OnDemand({"a": make})
    assert "a" in values and "b" not in values
    assert made == []
    assert values["a"] == "a" and made == ["a"]
