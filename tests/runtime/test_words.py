from llm.runtime.words import counted, in_columns


def test_a_number_agrees_with_its_noun():
    assert [counted(n, "batch", "batches") for n in (0, 1, 2_000)] == ["0 batches", "1 batch", "2,000 batches"]
    assert counted(1, "step") == "1 step"
    assert counted(3, "step") == "3 steps"


def test_columns_are_as_wide_as_their_widest_cell():
    assert in_columns([("run", "loss"), ("a/b/c", "1.5"), ("d", "")], right=[1]) == ["run    loss", "a/b/c   1.5", "d"]
