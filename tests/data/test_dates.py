from datetime import date

import pytest

from llm.data.dates import FORMS, HELD_OUT_FORMS, date_pairs

SPLITS = ("train", "validation", "test")


def test_no_date_is_in_two_splits_and_every_one_is_in_some():
    dates = {split: {pair.target for pair in date_pairs(split)} for split in SPLITS}
    assert sum(map(len, dates.values())) == len(set().union(*dates.values())) == 36525
    assert all(date.fromisoformat(day).year in range(1950, 2050) for day in set().union(*dates.values()))


def test_no_source_has_two_meanings():
    found = {}
    for split in SPLITS:
        for source, target in date_pairs(split):
            assert found.setdefault(source, target) == target


def test_a_date_is_written_as_people_write_it():
    day = date(1979, 5, 3)
    assert {"May 3, 1979", "the 3rd of May 1979", "May 3, '79", "1979年5月3日", "一九七九年五月三日"} <= {
        form(day) for form in FORMS
    }
    assert "Thursday the 3rd of May, 1979" in {form(day) for form in FORMS}
    assert {"the 3rd of May, '79", "79年5月3号"} <= {form(day) for form in HELD_OUT_FORMS}


@pytest.mark.parametrize(
    ("day", "ordinal", "chinese"),
    [
        *((1, "1st", "一"), (2, "2nd", "二"), (10, "10th", "十"), (11, "11th", "十一"), (12, "12th", "十二")),
        *((13, "13th", "十三"), (20, "20th", "二十"), (21, "21st", "二十一"), (30, "30th", "三十")),
    ],
)
def test_ordinals_and_chinese_numbers(day, ordinal, chinese):
    forms = {form(date(2006, 10, day)) for form in FORMS}
    assert f"the {ordinal} of October 2006" in forms
    assert f"二〇〇六年十月{chinese}日" in forms


def test_only_the_test_has_forms_that_were_never_seen():
    def written(split):
        return {(form, pair) for pair in date_pairs(split) for form in HELD_OUT_FORMS if is_written(form, pair)}

    def is_written(form, pair):
        return pair.source == form(date.fromisoformat(pair.target))

    assert not written("train")
    assert not written("validation")
    assert {form for form, _ in written("test")} == set(HELD_OUT_FORMS)


def test_they_are_the_same_in_every_run():
    assert [pair.source for pair in date_pairs("train")][:3] == ["July 13, 1968", "13 July 1968", "12 March 1982"]
