"""Solved examples in front of a question: their text, their roles, how many."""

import pytest

from patchpoint.errors import InvalidArgument
from patchpoint.tasks.kinds.examples import example_values, places_of, with_examples


def test_examples_stand_in_front_with_slots_of_their_own():
    whole = with_examples("sum", "{a} + {b} =", " {result}\n", 2)
    assert whole.text == "{a1} + {b1} = {result1}\n{a2} + {b2} = {result2}\n{a} + {b} ="
    values = {
        "a": "5",
        "b": "6",
        **example_values({"a": "1", "b": "2", "result": "3"}, 1),
        **example_values({"a": "2", "b": "3", "result": "5"}, 2),
    }
    assert whole.fill(values).text == "1 + 2 = 3\n2 + 3 = 5\n5 + 6 ="


def test_no_examples_leave_the_question_alone():
    assert with_examples("sum", "{a} + {b} =", " {result}\n", 0).text == "{a} + {b} ="


def test_places_are_those_of_the_slot_and_not_of_one_with_a_longer_name():
    whole = with_examples("days", "{day} and {days} is", " {answer}. ", 1)
    assert [slot for _, slot in places_of(whole, "day")] == ["day1", "day"]
    assert [slot for _, slot in places_of(whole, "days")] == ["days1", "days"]


@pytest.mark.parametrize("n", [-1, 17, 1.0, True, "2", None])
def test_a_wrong_number_of_examples_is_refused(n):
    with pytest.raises(InvalidArgument, match=r"examples must be a whole number from 0 to 16, got"):
        with_examples("sum", "{a} =", " {result}\n", n)
