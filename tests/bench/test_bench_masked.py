import json


def test_both_are_measured_on_the_same_tokens(bench, tmp_path):
    picture = tmp_path / "masked.png"
    output = bench("masked", "--tiny", "--json", "--picture", str(picture))
    models = json.loads(output.splitlines()[-1])["models"]
    assert models["encoder"]["tokens"] == models["GPT"]["tokens"] > 100
    for values in models.values():
        assert 0 <= values["accuracy"] <= 1
        assert 1 < values["loss"] < 6  # ln V is 4.1, and hardly anything is learned yet
    assert picture.read_bytes().startswith(b"\x89PNG")
